"""An invented country of insured families, providers and plans, made from a seed and a day, the same every time.

Names, numbers and refs mean nobody. Three insurers share three plans by pairs, so that deductibles and limits of a
family are used up from two sides. Each payer knows its own part of the world: a `PayerReference`.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from claims.identifiers import date_of, npi_with_check_digit
from claims.reference import Benefit, Fee, Member, PayerReference, Plan, Provider
from claims.transaction import AccumulatorKind, AccumulatorRule, AccumulatorScope, CobMethod, Tier

ORGANISATIONS: Final = {
    "aurora": "insurer",
    "borealis": "insurer",
    "cygnus": "insurer",
    "meridian": "regulator",
    "riverside": "provider",
    "lakeside": "provider",
}
PAYERS: Final = ("aurora", "borealis", "cygnus")
IN, OUT = Tier.IN_NETWORK, Tier.OUT_OF_NETWORK
YEAR_BEFORE_DAYS: Final = 320
YEAR_AFTER_DAYS: Final = 320
TIMELY_FILING_DAYS: Final = 120
ENDED_EVERY: Final = 41
"""Every so manieth family has lost its coverage."""
ENDED_DAYS: Final = 30
EXCLUDED_EVERY: Final = 25
"""Every so manieth provider is on the exclusion list."""
OUT_OF_NETWORK_EVERY: Final = 7

THERAPY: Final = 1
"""The limit class of therapy."""

_GIVEN: Final = (
    "Ada",
    "Ben",
    "Cleo",
    "Dana",
    "Emil",
    "Fay",
    "Gus",
    "Hana",
    "Ivo",
    "Jule",
    "Kaj",
    "Lena",
    "Milo",
    "Nora",
)
_FAMILY: Final = (
    "Ames",
    "Brandt",
    "Castle",
    "Dorn",
    "Eriks",
    "Falk",
    "Grove",
    "Holm",
    "Irving",
    "Jonas",
    "Keller",
    "Lund",
)
_TAXONOMIES: Final = ("207Q00000X", "207R00000X", "208D00000X", "225100000X", "103T00000X")


@dataclass(frozen=True, slots=True)
class Service:
    """A procedure as this world bills it. `modest_cents` is the usual charge of one unit."""

    procedure: str
    benefit_class: str
    allowed_cents: int
    modest_cents: int
    most_units: int = 1


SERVICES: Final = (
    Service("99213", "office", 9_200, 14_000),
    Service("99214", "office", 13_100, 20_500),
    Service("99203", "office", 11_300, 18_000),
    Service("97110", "therapy", 3_050, 5_200, 4),
    Service("97140", "therapy", 2_800, 4_900, 2),
    Service("90834", "office", 10_300, 15_000),
    Service("80053", "laboratory", 1_060, 4_500),
    Service("85025", "laboratory", 780, 3_100),
    Service("93000", "diagnostic", 1_900, 7_500),
    Service("71046", "diagnostic", 3_400, 11_000),
    Service("20610", "surgery", 7_900, 21_000),
)
IMAGING: Final = Service("70551", "imaging", 23_000, 91_000)
"""Wants a prior authorisation."""
COSMETIC: Final = Service("15780", "cosmetic", 80_000, 190_000)
"""Not covered by any plan."""
DIAGNOSES: Final = ("J069", "E119", "I10", "M5450", "F411", "N390", "R0789", "K219", "J45909", "Z0000")


@dataclass(frozen=True, slots=True)
class Person:
    """An insured person: known to each payer of the plan under a card number of that payer."""

    stable_id: str
    member_ref: bytes
    family_ref: bytes
    plan: str
    family_name: str
    given_name: str
    birth_day: int
    sex: int
    last_day: int
    cards: Mapping[str, str]
    """Payer → number on the card."""


@dataclass(frozen=True)
class World:
    seed: int
    today: int
    """The day as of which the world was made, in days since 1970-01-01."""
    plans: Mapping[str, Plan]
    people: tuple[Person, ...]
    providers: tuple[Provider, ...]
    references: Mapping[str, PayerReference]
    """Without their rule set hash, which is that of the file."""

    @cached_property
    def insured(self) -> tuple[Person, ...]:
        """Who is covered today."""
        return tuple(person for person in self.people if person.last_day >= self.today)

    @cached_property
    def lapsed(self) -> tuple[Person, ...]:
        return tuple(person for person in self.people if person.last_day < self.today)

    @cached_property
    def excluded(self) -> tuple[Provider, ...]:
        return tuple(provider for provider in self.providers if provider.excluded_from_day is not None)

    @cached_property
    def usual(self) -> tuple[Provider, ...]:
        """Providers that are not excluded."""
        return tuple(provider for provider in self.providers if provider.excluded_from_day is None)


def make_world(seed: int, today: int, families: int) -> World:
    """The world of this seed on this day, with 2.5 persons to a family and as many providers as families, 40 at least."""
    chance = random.Random(f"world/{seed}")
    plans = {plan.plan: plan for plan in _plans(today)}
    people = tuple(_people(chance, seed, today, families, list(plans.values())))
    providers = tuple(_providers(seed, today, max(40, families)))
    references = {payer: _reference(payer, today, plans, people, providers) for payer in PAYERS}
    return World(seed, today, plans, people, providers, references)


def _plans(today: int) -> Iterator[Plan]:
    year = date_of(today).year
    first, last = today - YEAR_BEFORE_DAYS, today + YEAR_AFTER_DAYS
    for name, payers, deductible, coinsurance, cob in (
        ("gold", ("aurora", "borealis"), 25_000, 1_000, CobMethod.STANDARD),
        ("silver", ("aurora", "cygnus"), 60_000, 2_000, CobMethod.NON_DUPLICATION),
        ("bronze", ("borealis", "cygnus"), 120_000, 3_000, CobMethod.MAINTENANCE),
    ):
        yield Plan(
            name, year, payers, first, last, tuple(_accumulators(deductible)), cob,
            tuple(_benefits(coinsurance)), 60, TIMELY_FILING_DAYS,
        )  # fmt: skip


def _accumulators(deductible: int) -> Iterator[AccumulatorRule]:
    """Deductible and out-of-pocket limit for the person and twice for the family; out of network twice as much."""
    for tier, factor in ((IN, 1), (OUT, 2)):
        for scope, people in ((AccumulatorScope.INDIVIDUAL, 1), (AccumulatorScope.FAMILY, 2)):
            amount = deductible * factor * people
            yield AccumulatorRule(AccumulatorKind.DEDUCTIBLE, 0, tier, scope, amount)
            yield AccumulatorRule(AccumulatorKind.OUT_OF_POCKET, 0, tier, scope, 4 * amount)
        limit = AccumulatorRule(
            AccumulatorKind.LIMIT_CLASS, THERAPY, tier, AccumulatorScope.INDIVIDUAL, 60_000 * factor
        )
        yield limit


def _benefits(coinsurance_bp: int) -> Iterator[Benefit]:
    for tier, more in ((IN, 0), (OUT, 2_000)):
        rate = coinsurance_bp + more
        yield Benefit("office", tier, 2_000 + more, 0, deductible_applies=False)
        yield Benefit("therapy", tier, 0, rate, deductible_applies=True, limit_class=THERAPY)
        yield Benefit("laboratory", tier, 0, 0, deductible_applies=False)
        yield Benefit("diagnostic", tier, 0, rate, deductible_applies=True)
        yield Benefit("surgery", tier, 0, rate, deductible_applies=True)
        yield Benefit("imaging", tier, 0, rate, deductible_applies=True, authorization_required=True)
        yield Benefit("cosmetic", tier, 0, 0, deductible_applies=False, covered=False)
        yield Benefit("other", tier, 0, rate, deductible_applies=True)


def _people(chance: random.Random, seed: int, today: int, families: int, plans: Sequence[Plan]) -> Iterator[Person]:
    for family in range(families):
        plan = plans[family % len(plans)]
        last_day = today - ENDED_DAYS if family % ENDED_EVERY == ENDED_EVERY - 1 else today + YEAR_AFTER_DAYS
        name = f"{chance.choice(_FAMILY)}-{family}"
        for place in range(chance.choice((1, 2, 2, 3, 3, 4))):
            number = f"{family:06d}{place}"
            age_years = chance.randrange(25, 75) if place < 2 else chance.randrange(1, 24)
            yield Person(
                stable_id=f"person-{seed}-{number}",
                member_ref=_ref(f"{seed}/member/{plan.plan}/{number}"),
                family_ref=_ref(f"{seed}/family/{plan.plan}/{family}"),
                plan=plan.plan,
                family_name=name,
                given_name=chance.choice(_GIVEN),
                birth_day=today - age_years * 365 - chance.randrange(365),
                sex=1 + chance.randrange(2),
                last_day=last_day,
                cards={payer: f"{payer[:2].upper()}{number}" for payer in plan.payers},
            )


def _providers(seed: int, today: int, count: int) -> Iterator[Provider]:
    for index in range(count):
        npi = npi_with_check_digit(f"1{(seed * 7919 + index) % 10**8:08d}")
        yield Provider(
            npi=npi,
            organisation="riverside" if index % 2 else "lakeside",
            provider_ref=_ref(f"{seed}/provider/{npi}"),
            taxonomy=_TAXONOMIES[index % len(_TAXONOMIES)],
            tier=OUT if index % OUT_OF_NETWORK_EVERY == OUT_OF_NETWORK_EVERY - 1 else IN,
            excluded_from_day=today - 200 if index % EXCLUDED_EVERY == EXCLUDED_EVERY - 1 else None,
        )


def _reference(
    payer: str, today: int, plans: Mapping[str, Plan], people: Sequence[Person], providers: Sequence[Provider]
) -> PayerReference:
    own = {name: plan for name, plan in plans.items() if payer in plan.payers}
    members = {p.cards[payer]: _member(p, payer, today) for p in people if payer in p.cards}
    return PayerReference(
        payer=payer,
        rule_set_hash=bytes(32),
        plans=own,
        fees=_fees(payer, today),
        members=members,
        providers={provider.npi: provider for provider in providers},
        diagnosis_codes=frozenset(DIAGNOSES),
        exclusions_version=f"exclusions-{date_of(today):%Y-%m}",
    )


def _member(person: Person, payer: str, today: int) -> Member:
    return Member(
        member_id=person.cards[payer],
        member_ref=person.member_ref,
        family_ref=person.family_ref,
        plan=person.plan,
        family_name=person.family_name,
        given_name=person.given_name,
        birth_day=person.birth_day,
        sex=person.sex,
        first_day=today - YEAR_BEFORE_DAYS,
        last_day=person.last_day,
        stable_id=person.stable_id,
    )


def _fees(payer: str, today: int) -> dict[tuple[str, str, Tier], tuple[Fee, ...]]:
    """Every payer has agreed on slightly other fees; out of network nobody has, and less is allowed."""
    percent = 97 + 3 * PAYERS.index(payer)
    first, last = today - 2 * YEAR_BEFORE_DAYS, today + YEAR_AFTER_DAYS
    fees: dict[tuple[str, str, Tier], tuple[Fee, ...]] = {}
    for service in (*SERVICES, IMAGING, COSMETIC):
        for tier, part in ((IN, percent), (OUT, percent - 20)):
            allowed = service.allowed_cents * part // 100
            fee = Fee(service.procedure, "", tier, service.benefit_class, allowed, first, last)
            fees[service.procedure, "", tier] = (fee,)
    return fees


def _ref(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]
