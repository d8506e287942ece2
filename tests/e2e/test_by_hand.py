"""A person's commands on a network that works: a load, decisions about what it held, streams, a demo.

Each command runs as `claimledger` runs it; one that follows without end is a process of its own.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli import demo, loading
from cli.demo import SURE_FRAUDS, run_demo
from cli.generator import Generator, PlannedClaim
from cli.loading import Followed, Report, sessions_of
from cli.output import Output
from cli.world import PAYERS
from tests.e2e.loads import planned
from tests.e2e.running import Running, Said

pytestmark = pytest.mark.e2e
SEED, CLAIMS = 15, 30
DEMO_SEED, DEMO_CLAIMS = 7, 40
LINE_WITHIN_S = 20.0


@dataclass(frozen=True)
class LoadedByHand:
    """A load by command, and its plan."""

    network: Running
    said: Said
    plan: list[PlannedClaim]

    def claim(self, case: str, submitter: str = "") -> tuple[str, str]:
        """Submitter and control number of the first claim that was planted as this case."""
        place, found = next(
            (place, each)
            for place, each in enumerate(self.plan, 1)
            if each.planted == case and submitter in {"", each.submitter}
        )
        return found.submitter, self.network.submit(found, f"load-{SEED}-{place}")


@pytest.fixture(scope="module")
def by_hand(network: Running) -> LoadedByHand:
    said = network.said_here("load", "--claims", str(CLAIMS), "--rate", "60", "--seed", str(SEED), "--json")
    return LoadedByHand(network, said, planned(network, SEED, CLAIMS))


def documents(network: Running, *arguments: str) -> list[dict[str, Any]]:
    """What the command prints with --json, when it ends with 0."""
    said = network.said_here(*arguments, "--json")
    assert said.code == 0, said
    return said.rows


def held(network: Running, organisation: str) -> set[str]:
    return {row["control_number"] for row in documents(network, "review", "list", "--org", organisation)}


def way(network: Running, number: str, organisation: str) -> list[str]:
    return [row["status"] for row in documents(network, "track", number, "--org", organisation)]


def test_load_follows_every_claim_to_its_end_and_counts_each_case(by_hand: LoadedByHand) -> None:
    """The rows are those of the plan, whose planted frauds are held and whose replacement is refused by the ledger."""
    assert by_hand.said.code == 0, by_hand.said
    *rows, last = by_hand.said.rows
    found = {row.pop("case"): Counter(row) for row in rows}
    assert {case: count.total() for case, count in found.items()} == Counter(c.planted or "plain" for c in by_hand.plan)
    assert found["excluded provider"] == found["impossible day"] == Counter(pended=1)
    assert found["replacement"] == Counter(refused=1)
    assert last == {"seed": SEED, "accepted": CLAIMS, "refused": 0, "unaccounted": 0}


def test_the_same_load_again_finds_every_claim_known_and_says_the_same_to_people(by_hand: LoadedByHand) -> None:
    before = len(documents(by_hand.network, "review", "list"))
    said = by_hand.network.said_here("load", "--claims", str(CLAIMS), "--rate", "0", "--seed", str(SEED))
    assert said.code == 0, said
    assert said.out.startswith(f"{CLAIMS} claims of seed {SEED} at 0 a second to ")
    assert said.out.endswith(f"\n{CLAIMS} accepted, 0 refused at the door, 0 unaccounted for\n")
    assert len(documents(by_hand.network, "review", "list")) == before, "nothing was held anew"


def test_a_load_that_loses_sight_of_a_claim_ends_with_1(network: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without patience the last claims, which are on their way, count as unaccounted for."""
    monkeypatch.setattr(loading, "PATIENCE_S", 0.0)
    said = network.said_here("load", "--claims", "3", "--rate", "0", "--seed", "16", "--no-planted", "--json")
    assert said.code == 1
    assert said.rows[-1]["unaccounted"] > 0


def test_a_held_claim_is_released_and_settles_with_a_proof(by_hand: LoadedByHand, tmp_path: Path) -> None:
    """`track` goes on behind the decision to the end; another decision is told that nothing waits any more."""
    network = by_hand.network
    payer, number = by_hand.claim("impossible day")
    assert number in held(network, payer)
    assert way(network, number, payer) == ["RECEIVED", "VALIDATED", "SCORED", "ORDERED", "PENDED"]
    (decided,) = documents(network, "review", "release", number, "--org", payer)
    assert decided == {"control_number": number, "status": "SETTLED", "detail": "CLEARED"}
    assert way(network, number, payer) == ["RECEIVED", "VALIDATED", "SCORED", "ORDERED", "PENDED", "SETTLED"]
    assert number not in held(network, payer)

    assert documents(network, "review", "release", number, "--org", payer) == [decided], "the decision is made already"
    other = network.said_here("review", "deny", number, "--org", payer, "--carc", "18")
    assert (other.code, other.out) == (1, "")
    assert "NOT_PENDED (the claim does not wait for a decision" in other.err
    (settled,) = documents(network, "proof", number, "--org", payer, "--out", str(tmp_path / "it.proof"))
    (verified,) = documents(network, "verify", str(tmp_path / "it.proof"))
    assert settled["outcome"] == verified["result"]["outcome"] == "SETTLED"
    assert settled["paid_cents"] == verified["result"]["paid_cents"] > 0


def test_a_held_claim_is_denied_with_its_reason(by_hand: LoadedByHand) -> None:
    network = by_hand.network
    payer, number = by_hand.claim("excluded provider")
    assert number in held(network, payer)
    said = network.said_here("review", "deny", number, "--org", payer, "--carc", "b7")
    assert said == Said(0, f"{number}: DENIED\n", "")
    *_, pended, denied = documents(network, "track", number, "--org", payer)
    assert (pended["status"], pended["detail"]) == ("PENDED", "EDIT")
    assert (denied["status"], denied["detail"]) == ("DENIED", "FRAUD_SUSPICION CO-B7")
    assert number not in held(network, payer)


@pytest.mark.parametrize("stream", ["status", "settlements"])
def test_tail_goes_on_behind_a_cursor_without_a_gap(by_hand: LoadedByHand, stream: str) -> None:
    first = documents(by_hand.network, "tail", stream, "--count", "5")
    assert len({row["cursor"] for row in first}) == 5
    again = documents(by_hand.network, "tail", stream, "--count", "3", "--cursor", first[1]["cursor"])
    assert again == first[2:]


def test_tail_alerts_shows_what_there_is_and_what_comes_until_it_is_interrupted(by_hand: LoadedByHand) -> None:
    """Of the load's excluded provider, then of another one that is submitted while it follows."""
    network = by_hand.network
    payer, number = by_hand.claim("excluded provider")
    with network.following("tail", "alerts", "--org", payer, "--json") as follower:

        def alert_of(wanted: str) -> dict[str, Any]:
            return follower.row_where(lambda row: row["control_number"] == wanted, LINE_WITHIN_S)

        alert = alert_of(number)
        assert (alert["score"], alert["pended"]) == (0.95, True)
        assert [reason.partition(" ")[0] for reason in alert["reasons"]] == ["fraud.excluded_provider"]
        another = Generator(network.world, SEED + 1)
        suspect = next(each for each in another if (each.planted, each.submitter) == ("excluded provider", payer))
        assert alert_of(network.submit(suspect, "while-following"))["score"] >= 0.95
        said = follower.interrupted()
    assert (said.code, said.err) == (130, "")


# The demo on this network; that it starts and stops one of its own is `make demo`.


def test_a_demo_accounts_for_every_claim_proof_and_alert(network: Running, capsys: pytest.CaptureFixture[str]) -> None:
    accounted = run_demo(network.run, Output(), DEMO_CLAIMS, DEMO_SEED)
    plan = planned(network, DEMO_SEED, DEMO_CLAIMS)
    assert accounted.complete, accounted.line
    assert accounted.accepted == DEMO_CLAIMS
    assert accounted.alerts == sum(each.planted in SURE_FRAUDS for each in plan) > 0
    assert accounted.verified == len(list((network.run / "proofs").glob("*.proof"))) > DEMO_CLAIMS / 2
    told = capsys.readouterr().out
    assert "the way of " in told
    assert "fraud.excluded_provider (0.95)" in told


def test_a_demo_that_gives_up_early_is_not_complete(network: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PATIENCE_S", 0.0)
    monkeypatch.setattr(demo, "ARRIVE_WITHIN_S", 1.0)
    accounted = run_demo(network.run, Output(as_json=True), 20, DEMO_SEED + 1)
    assert accounted.lost > 0
    assert "claims have no end" in accounted.line


def test_an_alert_that_does_not_come_is_missed(by_hand: LoadedByHand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside one that came: a plain claim of the same payer, which is followed as if it were a planted fraud."""
    monkeypatch.setattr(demo, "ARRIVE_WITHIN_S", 5.0)
    payer, suspect = by_hand.claim("excluded provider")
    _, plain = by_hand.claim("", payer)
    followed = {number: Followed(number, payer, "excluded provider", 0, repeated=False) for number in (suspect, plain)}
    sessions = sessions_of(by_hand.network.session(), PAYERS)
    assert demo.tell_alerts(Output(as_json=True), sessions, Report(followed)) == (1, 2)
