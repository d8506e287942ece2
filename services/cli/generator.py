"""An endless, seeded stream of claims in an invented world: mostly plain ones, and planted cases with a label.

A fifth of the people have most of the visits, so deductibles are crossed within a few hundred claims. No two plain claims
of one person are on one day until every day of the window is used, and then for another service, so that whatever
looks like a duplicate was planted. The same world and seed give the same claims.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from claimledger.claims.v1 import claim_pb2
from claims.identifiers import date_of
from claims.reference import Provider
from cli.world import COSMETIC, DIAGNOSES, IMAGING, SERVICES, TIMELY_FILING_DAYS, Person, Service, World

WINDOW_DAYS: Final = 75
"""Services are this many days back at most, but for late ones."""
CHRONIC_SHARE: Final = 0.2
CHRONIC_VISITS: Final = 0.6
REMEMBERED: Final = 200
"""Plain claims from which a duplicate may be planted."""


@dataclass(frozen=True, slots=True)
class PlannedClaim:
    """A claim to be submitted by `submitter`; `planted` says what is special about it, empty for a plain one."""

    submitter: str
    claim: claim_pb2.Claim
    planted: str = ""


class Generator:
    """Iterate it. `planted` False leaves out all special cases, for measurements of the plain way."""

    def __init__(self, world: World, seed: int, *, planted: bool = True) -> None:
        self._world = world
        self._chance = random.Random(f"claims/{seed}")
        self._planted = planted
        people = list(world.insured)
        self._chance.shuffle(people)
        chronic = max(1, int(len(people) * CHRONIC_SHARE))
        self._chronic, self._occasional = people[:chronic], people[chronic:] or people
        self._visits: Counter[str] = Counter()
        self._recent: deque[PlannedClaim] = deque(maxlen=REMEMBERED)
        self._number = 0
        self._seed = seed

    def __iter__(self) -> Iterator[PlannedClaim]:
        kinds = list(CASES)
        weights = [CASES[kind][0] for kind in kinds]
        plain = PER_THOUSAND - sum(weights)
        while True:
            kind = self._chance.choices(["", *kinds], [plain, *weights])[0] if self._planted else ""
            made = CASES[kind][1](self) if kind else None
            if made is not None:
                yield PlannedClaim(made.submitter, made.claim, kind)
                continue
            made = self._plain()
            self._recent.append(made)
            yield made

    def person(self) -> Person:
        chronic = self._chance.random() < CHRONIC_VISITS
        return self._chance.choice(self._chronic if chronic else self._occasional)

    def plain(self, *services: Service, provider: Provider | None = None, days_back: int = 0) -> PlannedClaim:
        """A plain claim, or one with these services, this provider, this long ago."""
        return self._plain(services, provider, days_back)

    def repeat(self) -> PlannedClaim | None:
        """A copy of an earlier plain claim, None while there is none."""
        if not self._recent:
            return None
        earlier = self._chance.choice(self._recent)
        copy = claim_pb2.Claim()
        copy.CopyFrom(earlier.claim)
        return PlannedClaim(earlier.submitter, copy)

    @property
    def world(self) -> World:
        return self._world

    @property
    def chance(self) -> random.Random:
        return self._chance

    def _plain(
        self, services: tuple[Service, ...] = (), provider: Provider | None = None, days_back: int = 0
    ) -> PlannedClaim:
        person = self.person()
        payer = self._chance.choice(sorted(person.cards))
        visit = self._visits[person.stable_id]
        self._visits[person.stable_id] += 1
        day = self._world.today - (days_back or self._day_of_visit(person, visit))
        provider = provider or self._chance.choice(self._world.usual)
        first = visit // WINDOW_DAYS + visit
        count = self._chance.choice((1, 1, 1, 2, 2, 3))
        chosen = services or tuple(SERVICES[(first + i) % len(SERVICES)] for i in range(count))
        return PlannedClaim(payer, self._claim(person, payer, provider, day, chosen))

    def _day_of_visit(self, person: Person, visit: int) -> int:
        """Days back: all days of the window in an order of the person's own, then all over again."""
        start = person.member_ref[0] % WINDOW_DAYS
        return 1 + (start + visit * 31) % WINDOW_DAYS

    def _claim(
        self, person: Person, payer: str, provider: Provider, day: int, services: tuple[Service, ...]
    ) -> claim_pb2.Claim:
        self._number += 1
        diagnoses = self._chance.sample(DIAGNOSES, self._chance.choice((1, 1, 2, 3)))
        lines = [self._line(i + 1, service, day, len(diagnoses)) for i, service in enumerate(services)]
        return claim_pb2.Claim(
            header=claim_pb2.Header(
                kind=claim_pb2.CLAIM_KIND_PROFESSIONAL,
                frequency=claim_pb2.FREQUENCY_ORIGINAL,
                sequence=claim_pb2.PAYER_SEQUENCE_PRIMARY,
                total_charge_cents=sum(line.charge_cents for line in lines),
                patient_control_number=f"PCN-{self._seed}-{self._number}",
                place_of_service="11",
                payer=payer,
                plan=person.plan,
                currency="USD",
            ),
            parties=claim_pb2.Parties(
                patient=claim_pb2.Patient(
                    member_id=person.cards[payer],
                    family_name=person.family_name,
                    given_name=person.given_name,
                    birth=day_message(person.birth_day),
                    sex=claim_pb2.SEX_FEMALE if person.sex == 1 else claim_pb2.SEX_MALE,
                ),
                billing_npi=provider.npi,
                billing_taxonomy=provider.taxonomy,
            ),
            diagnoses=[claim_pb2.Diagnosis(code=code) for code in diagnoses],
            lines=lines,
        )

    def _line(self, number: int, service: Service, day: int, diagnoses: int) -> claim_pb2.ServiceLine:
        units = self._chance.randint(1, service.most_units)
        charge = service.modest_cents * self._chance.randrange(90, 130) // 100 * units
        line = claim_pb2.ServiceLine(
            number=number,
            units=units,
            charge_cents=charge,
            procedure=service.procedure,
            diagnosis_pointers=[self._chance.randint(1, diagnoses)],
        )
        getattr(line, "from").CopyFrom(day_message(day))
        return line


def day_message(day: int) -> claim_pb2.Day:
    """A day number as the contract carries it."""
    date = date_of(day)
    return claim_pb2.Day(year=date.year, month=date.month, day=date.day)


def _duplicate(generator: Generator) -> PlannedClaim | None:
    return generator.repeat()


def _billed_to_two(generator: Generator) -> PlannedClaim | None:
    """The same service for the same person to the other payer of the plan."""
    made = generator.repeat()
    if made is None:
        return None
    card = made.claim.parties.patient.member_id
    person = next(p for p in generator.world.insured if card in p.cards.values())
    other = next(payer for payer in person.cards if payer != made.submitter)
    made.claim.header.payer = other
    made.claim.parties.patient.member_id = person.cards[other]
    return PlannedClaim(other, made.claim)


def _secondary(generator: Generator) -> PlannedClaim:
    """Another insurer outside the ledger has paid a part."""
    made = generator.plain()
    made.claim.header.sequence = claim_pb2.PAYER_SEQUENCE_SECONDARY
    paid = [line.charge_cents * 3 // 10 for line in made.claim.lines]
    sequence = claim_pb2.PAYER_SEQUENCE_PRIMARY
    made.claim.other_payers.add(payer="elsewhere", sequence=sequence, line_paid_cents=paid)
    return made


def _wrong_npi(generator: Generator) -> PlannedClaim:
    made = generator.plain()
    npi = made.claim.parties.billing_npi
    made.claim.parties.billing_npi = npi[:-1] + str((int(npi[-1]) + 1) % 10)
    return made


def _wrong_diagnosis(generator: Generator) -> PlannedClaim:
    made = generator.plain()
    made.claim.diagnoses[0].code = "U99"
    return made


def _wrong_total(generator: Generator) -> PlannedClaim:
    made = generator.plain()
    made.claim.header.total_charge_cents += 1
    return made


def _future_service(generator: Generator) -> PlannedClaim:
    made = generator.plain()
    for line in made.claim.lines:
        getattr(line, "from").CopyFrom(day_message(generator.world.today + 40))
    return made


def _unknown_member(generator: Generator) -> PlannedClaim:
    made = generator.plain()
    made.claim.parties.patient.member_id = "NOBODY-0"
    return made


def _lapsed_member(generator: Generator) -> PlannedClaim:
    made = generator.plain(days_back=1)
    if not generator.world.lapsed:
        made.claim.parties.patient.member_id = "NOBODY-1"
        return made
    person = generator.chance.choice(generator.world.lapsed)
    payer = generator.chance.choice(sorted(person.cards))
    made.claim.header.payer, made.claim.header.plan = payer, person.plan
    made.claim.parties.patient.member_id = person.cards[payer]
    made.claim.parties.patient.birth.CopyFrom(day_message(person.birth_day))
    return PlannedClaim(payer, made.claim)


def _late(generator: Generator) -> PlannedClaim:
    return generator.plain(days_back=TIMELY_FILING_DAYS + 20)


def _not_covered(generator: Generator) -> PlannedClaim:
    return generator.plain(COSMETIC)


def _unauthorised(generator: Generator) -> PlannedClaim:
    return generator.plain(IMAGING)


def _authorised(generator: Generator) -> PlannedClaim:
    made = generator.plain(IMAGING)
    made.claim.header.authorization = f"AUTH-{made.claim.header.patient_control_number}"
    return made


def _replacement(generator: Generator) -> PlannedClaim:
    """Frequency 7 is refused by the contract until replacement chains come."""
    made = generator.plain()
    made.claim.header.frequency = claim_pb2.FREQUENCY_REPLACEMENT
    made.claim.header.original_control_number = "A" * 26
    return made


def _excluded_provider(generator: Generator) -> PlannedClaim:
    return generator.plain(provider=generator.chance.choice(generator.world.excluded))


def _impossible_day(generator: Generator) -> PlannedClaim:
    """More than 24 hours of therapy on one day."""
    made = generator.plain(SERVICES[3])
    line = made.claim.lines[0]
    line.charge_cents = line.charge_cents // line.units * 100
    line.units = 100
    made.claim.header.total_charge_cents = line.charge_cents
    return made


def _outlier(generator: Generator) -> PlannedClaim:
    """Twenty times the usual charge of a common code."""
    made = generator.plain(SERVICES[0])
    line = made.claim.lines[0]
    line.charge_cents *= 20
    made.claim.header.total_charge_cents = line.charge_cents
    return made


def _repeated_line(generator: Generator) -> PlannedClaim:
    """One service on two lines with different charges: no exact duplicate to the payer's edits, and one tag on the ledger."""
    made = generator.plain(SERVICES[0])
    first = made.claim.lines[0]
    second = made.claim.lines.add()
    second.CopyFrom(first)
    second.number, second.charge_cents = 2, first.charge_cents // 2
    made.claim.header.total_charge_cents = first.charge_cents + second.charge_cents
    return made


def _malformed(generator: Generator) -> PlannedClaim:
    """Refused at the door: an amount below zero."""
    made = generator.plain()
    made.claim.lines[0].charge_cents = -1
    return made


PER_THOUSAND: Final = 1000
CASES: Final[dict[str, tuple[int, Callable[[Generator], PlannedClaim | None]]]] = {
    "duplicate": (15, _duplicate),
    "billed to two payers": (10, _billed_to_two),
    "repeated line": (5, _repeated_line),
    "secondary payer": (20, _secondary),
    "wrong NPI": (8, _wrong_npi),
    "wrong diagnosis": (8, _wrong_diagnosis),
    "wrong total": (6, _wrong_total),
    "future service": (5, _future_service),
    "unknown member": (6, _unknown_member),
    "lapsed member": (6, _lapsed_member),
    "filed late": (6, _late),
    "not covered": (8, _not_covered),
    "not authorised": (6, _unauthorised),
    "authorised": (6, _authorised),
    "replacement": (4, _replacement),
    "excluded provider": (6, _excluded_provider),
    "impossible day": (5, _impossible_day),
    "charge outlier": (6, _outlier),
    "malformed": (4, _malformed),
}
"""Planted case → how many of a thousand claims, and its maker."""
