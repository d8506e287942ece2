"""The invented world and its claims: the same from the same seed, and everything in them that a load needs."""

import os
import subprocess
import sys
from collections import Counter, defaultdict
from functools import lru_cache
from itertools import islice
from pathlib import Path

import pytest

from claim_intake.wire import claim_of
from claims.claim import Claim
from cli.generator import CASES, PER_THOUSAND, Generator, PlannedClaim
from cli.world import PAYERS, World, make_world
from tests.unit.cli import digest_of_claims
from tests.unit.cli.digest_of_claims import TODAY, digest

COUNT = 2_000
ROOT = Path(__file__).resolve().parents[3]


@lru_cache
def world(seed: int = 1) -> World:
    return make_world(seed, TODAY, 60)


@lru_cache
def claims(seed: int = 7, count: int = COUNT, *, planted: bool = True) -> tuple[PlannedClaim, ...]:
    return tuple(islice(Generator(world(), seed, planted=planted), count))


def test_the_same_seed_gives_the_same_claims_in_any_process() -> None:
    """Byte for byte, whatever order a process gives to its sets and dictionaries."""
    path = os.pathsep.join(str(ROOT / part) for part in ("services", "proto/python"))
    others = [
        subprocess.Popen(
            [sys.executable, digest_of_claims.__file__, "7"],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True,
        )
        for seed in ("1", "2")
    ]  # fmt: skip
    assert [other.communicate()[0].strip() for other in others] == [digest(7)] * 2


def test_another_seed_gives_other_claims_and_another_world_other_people() -> None:
    assert digest(7) != digest(8)
    assert {p.stable_id for p in world(1).people}.isdisjoint(p.stable_id for p in world(2).people)


def test_every_planted_case_comes_about_as_often_as_its_row_says() -> None:
    found = Counter(planned.planted for planned in claims())
    assert set(found) == {"", *CASES}
    for case, (per_thousand, _) in CASES.items():
        expected = per_thousand * COUNT / PER_THOUSAND
        assert expected / 3 < found[case] < 3 * expected, case


def test_without_planting_every_claim_is_plain_and_in_form() -> None:
    found = claims(planted=False, count=300)
    assert {planned.planted for planned in found} == {""}
    assert all(isinstance(claim_of(planned.claim), Claim) for planned in found)


def test_all_payers_and_plans_take_part_and_families_share_a_plan() -> None:
    """Each plan is of two payers, and whole families come, so that what a family shares is used up from two sides."""
    found = claims()
    assert {planned.submitter for planned in found} == set(PAYERS)
    payers = defaultdict(set)
    for planned in found:
        payers[planned.claim.header.plan].add(planned.claim.header.payer)
    assert {plan: len(some) for plan, some in payers.items()} == {"gold": 2, "silver": 2, "bronze": 2}
    person_of = {card: person for person in world().people for card in person.cards.values()}
    seen = {person_of[c.claim.parties.patient.member_id].member_ref for c in found if not c.planted}
    families = defaultdict(list)
    for person in world().people:
        families[person.family_ref].append(person)
    assert all(len({p.plan for p in family}) == 1 for family in families.values())
    together = [family for family in families.values() if len({p.member_ref for p in family} & seen) >= 2]
    assert len(together) > len(families) // 3


def test_a_fifth_of_the_people_have_most_of_the_visits() -> None:
    """So that some cross their deductibles within a few hundred claims."""
    visits = Counter(planned.claim.parties.patient.member_id[2:] for planned in claims(planted=False, count=300))
    often = sum(count for _, count in visits.most_common(len(world().insured) // 5))
    assert often > sum(visits.values()) / 2


@pytest.mark.parametrize("case", ["duplicate", "billed to two payers"])
def test_a_planted_duplicate_repeats_the_services_of_an_earlier_claim(case: str) -> None:
    """The same person, day, services and charges; for the second case to the other payer of the plan."""
    before: dict[bytes, set[str]] = defaultdict(set)
    found = 0
    for planned in claims():
        patient = planned.claim.parties.patient.member_id[2:]
        key = patient.encode() + b"".join(line.SerializeToString(deterministic=True) for line in planned.claim.lines)
        if planned.planted == case:
            found += 1
            own = planned.claim.header.payer in before[key]
            assert before[key], "an earlier claim has these services"
            assert own is (case == "duplicate") or len(before[key]) > 1
        before[key].add(planned.claim.header.payer)
    assert found > 0


def test_a_repeated_line_is_the_same_service_with_another_charge() -> None:
    """One tag on the ledger, and nothing that the payer's edits know as an exact duplicate."""
    found = [planned.claim for planned in claims() if planned.planted == "repeated line"]
    assert found
    for claim in found:
        first, second = claim.lines
        assert (first.number, second.number) == (1, 2)
        assert first.charge_cents != second.charge_cents
        assert first.charge_cents + second.charge_cents == claim.header.total_charge_cents
        second.number, second.charge_cents = first.number, first.charge_cents
        assert first == second


def test_plain_claims_of_a_person_never_look_like_duplicates() -> None:
    """Whatever a later stage takes for a duplicate was planted."""
    seen = set()
    for planned in claims(planted=False):
        for line in planned.claim.lines:
            day = getattr(line, "from")
            key = (planned.claim.parties.patient.member_id[2:], line.procedure, day.year, day.month, day.day)
            assert key not in seen
            seen.add(key)


def test_frauds_are_what_they_are_called() -> None:
    by_case = defaultdict(list)
    for planned in claims():
        by_case[planned.planted].append(planned.claim)
    excluded = {provider.npi for provider in world().excluded}
    assert {c.parties.billing_npi for c in by_case["excluded provider"]} <= excluded
    assert {c.parties.billing_npi for c in by_case[""]}.isdisjoint(excluded)
    assert {c.lines[0].units for c in by_case["impossible day"]} == {100}
    usual = max(line.charge_cents for c in by_case[""] for line in c.lines if line.procedure == "99213")
    assert min(c.lines[0].charge_cents for c in by_case["charge outlier"]) > 10 * usual
