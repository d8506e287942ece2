"""The whole network at work: claims to their end, what `status`, `up` and `down` say, and a recount that can fail."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from claimledger.claims.v1 import claim_pb2
from claims.identifiers import control_number
from cli.overview import READERS
from cli.processes import SUPERVISOR
from tests.e2e.loads import Loaded, planned
from tests.e2e.published import Copy, Step, result_of
from tests.e2e.recount import (
    accumulator_faults,
    chain_faults,
    money_faults,
    recount,
    repeat_faults,
    sum_faults,
    way_faults,
)
from tests.e2e.running import until

pytestmark = pytest.mark.e2e


def test_every_claim_ends_and_the_recount_finds_no_fault(loaded: Loaded) -> None:
    assert loaded.found.faults == ()
    assert loaded.report.unaccounted == []
    assert loaded.report.sent == len(loaded.report.claims) + len(loaded.report.refused) == 200
    assert set(loaded.report.claims) == set(loaded.accepted)


def test_status_shows_processes_heights_and_lag_and_a_second_up_changes_nothing(loaded: Loaded) -> None:
    """The pids are the same before and after `up`; every consumer group is there and has nothing left."""
    running = loaded.running

    def rows() -> list[dict[str, Any]]:
        said = running.claimledger("status", "--json")
        assert said.code == 0, said
        return said.rows

    def at_rest() -> list[dict[str, Any]] | None:
        found = rows()
        return found if all(row["lag_records"] == 0 for row in found if "group" in row) else None

    before = until(at_rest, 20, "a consumer group lags")
    processes = {row["process"]: row["pid"] for row in before if "process" in row}
    assert set(processes) == {"broker", *running.processes.names}
    replicas = [row for row in before if "replica" in row]
    assert len({(row["executed"], row["root"], row["results"]) for row in replicas}) == 1
    assert replicas[0]["executed"] > 0
    assert [row["state"] for row in replicas].count("publisher") == 1
    groups = {row["group"] for row in before if "group" in row}
    assert groups >= {"validation", "fraud-scoring", "ledger-commit", *READERS, "claim-intake-outbox"}

    said = running.claimledger("up")
    try:
        assert said.code == 0, said
        assert {row["process"]: row["pid"] for row in rows() if "process" in row} == processes
    finally:
        assert running.processes.stop(SUPERVISOR), "`up` watches over what runs; the tests here stop and start by hand"


def test_status_tells_what_does_not_run_and_how_far_it_is_behind(loaded: Loaded) -> None:
    running = loaded.running
    plain = [each for each in planned(running, 13, 40) if each.planted != "malformed"]
    running.processes.stop("fraud")
    try:
        for number, each in enumerate(plain):
            running.submit(each, f"behind-{number}")

        def behind() -> bool:
            said = running.claimledger("status", "--json")
            assert said.code == 3, said
            fraud = next(row for row in said.rows if row.get("process") == "fraud")
            lag = next(row["lag_records"] for row in said.rows if row.get("group") == "fraud-scoring")
            return not fraud["running"] and lag > 0

        until(behind, 20, "no lag is shown")
    finally:
        running.start("fraud")

    def caught_up() -> bool:
        rows = running.claimledger("status", "--json").rows
        return all(row["lag_records"] == 0 for row in rows if "group" in row)

    until(caught_up, 30, "fraud does not catch up")


def first_settled(loaded: Loaded) -> dict[str, Any]:
    results = _results(loaded)
    return copy.deepcopy(
        next(r for r in results if r["outcome"] == "SETTLED" and r["paid_cents"] and len(r["postings"]) > 1)
    )


def _results(loaded: Loaded) -> list[dict[str, Any]]:
    by_leaf = {c.leaf: c.proof for copies in loaded.published.copies.values() for c in copies}
    return [result_of(loaded.running.run, by_leaf[leaf]) for leaf in sorted(by_leaf)]


def _one_cent_more(result: dict[str, Any]) -> None:
    result["paid_cents"] += 1


def _line_pays_more(result: dict[str, Any]) -> None:
    result["lines"][0]["paid_cents"] += 1
    result["paid_cents"] += 1


def _patient_owes_less(result: dict[str, Any]) -> None:
    result["patient_cents"] -= 1


def _charged_more(result: dict[str, Any]) -> None:
    result["charge_cents"] += 1
    result["lines"][0]["charge_cents"] += 1
    result["lines"][0]["adjustments"][0]["amount_cents"] += 1


def _other_payee(result: dict[str, Any]) -> None:
    result["payee"] = "nobody"


@pytest.mark.parametrize("damage", [_one_cent_more, _line_pays_more, _patient_owes_less, _charged_more, _other_payee])
def test_the_recount_finds_a_wrong_cent(loaded: Loaded, damage: Callable[[dict[str, Any]], None]) -> None:
    result = first_settled(loaded)
    submitted = loaded.accepted[control_number(bytes.fromhex(result["claim_ref"]))]
    assert list(money_faults(result, submitted, loaded.running.world)) == []
    damage(result)
    assert list(money_faults(result, submitted, loaded.running.world)) != []


@pytest.mark.parametrize(
    ("step", "second", "faults"),
    [(0, 60, 1), (0, 0, 0), (1, 60, 0)],
    ids=["both paid unseen", "one denied", "released by a person"],
)
def test_the_recount_finds_a_service_that_is_paid_on_two_lines(step: int, second: int, faults: int) -> None:
    claim = claim_pb2.Claim()
    for number in (1, 2):
        claim.lines.add(number=number, procedure="99213", modifiers=["25"], charge_cents=number)
    lines = [{"number": 1, "allowed_cents": 100}, {"number": 2, "allowed_cents": second}]
    assert len(list(repeat_faults({"step": step, "lines": lines}, claim))) == faults
    claim.lines[1].modifiers.append("76")
    assert list(repeat_faults({"step": step, "lines": lines}, claim)) == []


def test_the_recount_finds_a_payment_that_its_lines_do_not_make(loaded: Loaded) -> None:
    results = _results(loaded)
    assert list(sum_faults(results)) == []
    assert list(sum_faults([*results, first_settled(loaded) | {"paid_cents": 5}])) != []


@pytest.mark.parametrize("change", ["begins elsewhere", "adds more", "family differs", "over the limit", "left out"])
def test_the_recount_finds_an_accumulator_that_does_not_add_up(loaded: Loaded, change: str) -> None:
    results, world = copy.deepcopy(_results(loaded)), loaded.running.world
    assert list(accumulator_faults(results, world)) == []
    result = next(r for r in results if len(r["postings"]) > 1)
    posting = result["postings"][0]
    match change:
        case "begins elsewhere":
            posting["before_cents"] += 1
        case "adds more":
            for each in result["postings"]:
                each["after_cents"] += 1
        case "family differs":
            posting["after_cents"] += 1
        case "over the limit":
            posting["after_cents"] = 10**12
        case "left out":
            result["postings"] = []
    assert list(accumulator_faults(results, world)) != []


@pytest.mark.parametrize(
    "statuses",
    [
        (),
        ("RECEIVED", "VALIDATED", "SCORED"),
        ("RECEIVED", "VALIDATED", "ORDERED", "SETTLED"),
        ("RECEIVED", "VALIDATED", "SCORED", "ORDERED", "SETTLED", "DENIED"),
        ("RECEIVED", "VALIDATED", "SCORED", "SCORED", "ORDERED", "SETTLED"),
        ("RECEIVED", "VALIDATED", "SCORED", "ORDERED", "SETTLED", "VALIDATED"),
    ],
)
def test_the_recount_finds_a_way_that_is_none(statuses: tuple[str, ...]) -> None:
    assert list(way_faults([Step(f"{i}", status, i) for i, status in enumerate(statuses)])) != []


def test_the_recount_finds_a_step_told_twice() -> None:
    whole = [Step(str(i), s, i) for i, s in enumerate(("RECEIVED", "VALIDATED", "SCORED", "ORDERED", "SETTLED"))]
    assert list(way_faults(whole)) == []
    assert list(way_faults([*whole[:4], replace(whole[3], status="SETTLED")])) != []


@pytest.mark.parametrize(
    "change",
    ["settled twice", "missing", "not theirs", "other body", "proof damaged", "never accepted", "replica less"],
)
def test_the_recount_finds_a_settlement_too_many_or_too_few(loaded: Loaded, change: str) -> None:
    published, accepted = copy.deepcopy(loaded.published), dict(loaded.accepted)
    copies = published.copies
    of_aurora: list[Copy] = copies["aurora"]
    match change:
        case "settled twice":
            of_aurora.append(of_aurora[0])
        case "missing":
            del of_aurora[0]
        case "not theirs":
            copies["meridian"].append(of_aurora[0])
        case "other body":
            of_aurora[0] = replace(of_aurora[0], body=of_aurora[1].body)
        case "proof damaged":
            proof = of_aurora[0].proof
            of_aurora[0] = replace(of_aurora[0], proof=proof[:-1] + bytes([proof[-1] ^ 1]))
        case "never accepted":
            del accepted[next(n for n, c in loaded.report.claims.items() if c.status.name == "SETTLED")]
        case "replica less":
            published.streams["borealis"].popitem()
    running = loaded.running
    assert recount(running.run, running.world, accepted, published, {}).faults != ()


@pytest.mark.parametrize("change", ["other tip", "other block", "block again", "two roots"])
def test_the_recount_finds_replicas_that_differ(loaded: Loaded, change: str) -> None:
    published, roots = copy.deepcopy(loaded.published), {7: {("a", "b")}}
    assert list(chain_faults(published, roots)) == []
    match change:
        case "other tip":
            height, _, results = published.tips["cygnus"]
            published.tips["cygnus"] = height, "00", results
        case "other block":
            published.chains["cygnus"][3] = b"other"
        case "block again":
            published.repeated_blocks.append(3)
        case "two roots":
            roots[7].add(("c", "b"))
    assert list(chain_faults(published, roots)) != []
