"""Many seeds, each a different bad day; and the mutants that prove that the judge looks.

CLAIMLEDGER_SIM_SEEDS sets how many seeds run (`make sim SEEDS=500`).
"""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from functools import partial

import pytest

from ledger_commit.consensus import payload, replica
from ledger_commit.consensus.messages import BatchRef
from ledger_commit.opening import GenesisError
from tests.simulation.cluster import BLS_EVERY, Cluster, Faults, scenario
from tests.simulation.judge import Violation, footprint
from tests.simulation.mutants import MUTANTS, hunt
from tests.simulation.signatures import BlsSigning

SEEDS = int(os.environ.get("CLAIMLEDGER_SIM_SEEDS", "100"))
CHUNK = 20
RARE = (
    "tc_with_two_groups",
    "proposal_with_tc",
    "commit_of_1",
    "commit_of_2",
    "commit_of_3",
    "restart_after_vote",
    "restart_after_timeout",
    "log_tail_lost",
    "lost",
    "duplicated",
    "one_way_cut",
    "block_fetched",
    "range_fetched",
    "batch_fetched",
    "payload_withheld",
    "twin_voted_twice",
    "twin_proposed_twice",
    "double_vote",
    "double_proposal",
    "evidence of DOUBLE_VOTE",
    "evidence of DOUBLE_PROPOSAL",
    "evidence of LOCK_VIOLATION",
    "evidence of DOUBLE_TIMEOUT",
    "evidence of DOUBLE_BATCH",
    "evidence_unproven",
    "evidence_repeated",
    "root_mismatch",
    "bad_certificate",
    "bad_range",
    "junk_undecodable",
    "adversary_stale_tc",
    "adversary_forged_tc",
    "adversary_lying_timeout",
    "adversary_from_below",
    "adversary_of_the_epoch_before",
    "adversary_as_sync_peer",
)
BOUNDARIES = (
    ("nothing", "Persist"),
    ("block log written", "synced"),
    ("block log synced", "safety record"),
    ("Persist", "Broadcast"),
    ("nothing", "Broadcast"),
    ("one copy sent", "the next"),
    ("Broadcast", "SetTimer"),
    ("nothing", "Send"),
    ("Send", "nothing"),
    ("Persist", "Commit"),
    ("nothing", "Commit"),
    ("one marker written", "the next"),
    ("Commit", "SetTimer"),
    ("SetTimer", "nothing"),
)
"""Where the power must have gone out at least once: between effects, and within those that have parts."""
_SEEN: Counter[str] = Counter()


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_invariants_hold_on_every_seed(first: int) -> None:
    """Safety at every effect, and progress once the network heals."""
    for seed in range(first, min(first + CHUNK, SEEDS)):
        _SEEN.update(scenario(seed).run().seen)


HOSTILE = Faults(loss=0.3, delay_ms=(1, 50), partitions=True, lies=True)
FIXED = [
    pytest.param(4, HOSTILE, id="a hostile peer is asked first for the block that everyone waits for"),
    pytest.param(31, HOSTILE, id="a hostile peer offers itself first for the range that one is behind"),
]
"""Seeds that failed once."""


@pytest.mark.parametrize(("seed", "faults"), FIXED)
def test_what_failed_once_holds(seed: int, faults: Faults) -> None:
    Cluster(seed, faults=faults).run()


def _all_seen() -> Counter[str]:
    if SEEDS < 100 or not _SEEN:
        pytest.skip("needs a hundred seeds of this module to have run in this process")
    return _SEEN


def test_rare_branches_were_reached() -> None:
    """A simulation that never loses the end of a log or fetches a range shows nothing about them."""
    assert not [name for name in RARE if not _all_seen()[name]]


def test_the_power_went_out_at_every_boundary() -> None:
    assert not [pair for pair in BOUNDARIES if not _all_seen()[f"crash between {pair[0]} and {pair[1]}"]]


def test_the_same_seed_gives_the_same_trace() -> None:
    first, second = scenario(7).run(), scenario(7).run()
    assert first.trace.digest() == second.trace.digest()
    assert first.trace.digest() != scenario(8).run().trace.digest()


def test_the_trace_does_not_hang_on_the_order_of_sets() -> None:
    """Another process with another hash seed sends the same messages at the same times."""
    program = "from tests.simulation.cluster import scenario; print(scenario(3).run().trace.hexdigest())"
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {scenario(3).run().trace.hexdigest() + "\n"}


def test_one_seed_in_a_hundred_signs_with_bls() -> None:
    signing = scenario(BLS_EVERY - 1).signing
    assert isinstance(signing, BlsSigning)
    assert signing.light_client is not None, "the proofs of its commits go to the verifier that users get"
    assert not isinstance(scenario(0).signing, BlsSigning)


@pytest.mark.parametrize("gone", [(3,), (2, 5, 8, 11), (2, 3, 4, 5)], ids=["one", "f, two between them", "f in a row"])
def test_a_committee_whose_votes_go_to_two_leaders_goes_on(gone: tuple[int, ...]) -> None:
    """Thirteen members; places in the order of leaders. Beside who is gone, one comes late, a message in twenty is lost."""
    for seed in range(2):
        cluster = Cluster(seed, 13, Faults(loss=0.05, heal_ms=4000, away=len(gone) == 1))
        cluster.leave_out([cluster.leaders()[place] for place in gone])
        cluster.run()


def test_two_collectors_are_enough_where_every_third_leader_is_gone() -> None:
    """Where the mutant with one of them is hunted: something is committed within six rounds."""
    mutant = MUTANTS["votes go to one leader of a large committee"]
    for seed in range(3):
        mutant.build(seed, mutant.faults).run()


def test_a_silent_leader_costs_a_large_committee_one_timer() -> None:
    """As where everybody hears every vote: what the silent one was to show, the next one shows."""
    timeouts = []
    for everybody_hears in (False, True):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(replica, "VOTES_TO_ALL", 13 if everybody_hears else 10)
            cluster = Cluster(0, 13, Faults(heal_ms=4000))
            cluster.leave_out(cluster.leaders()[3:4])
            timeouts.append(len(cluster.run().judge._timeouts))
    assert timeouts[0] <= timeouts[1]


def test_a_large_committee_comes_to_rest_without_a_timeout() -> None:
    """Who did not hear the votes for the last block learns that they made a certificate."""
    cluster = Cluster(1, 13, Faults(heal_ms=4000)).run()
    assert not cluster.judge._timeouts


def test_too_many_crashed_members_stop_the_chain_and_do_not_fork_it() -> None:
    """f + 1 members that never come back: no commits, and no violation but missing progress."""
    cluster = Cluster(3, faults=Faults(heal_ms=4000, end_ms=12_000))
    for host in cluster.hosts[2:]:
        host.start = lambda: None  # type: ignore[method-assign]
    with pytest.raises(Violation, match="stands at height 0"):
        cluster.run()
    assert all(not host.disk.committed for host in cluster.hosts)


def test_ten_minutes_without_a_certificate_fill_no_buffer() -> None:
    """Every proposal is lost, so that each round ends in a TC; the judge looks at the caps after every step."""
    cluster = Cluster(5, faults=Faults(loss=0.0, heal_ms=600_000, end_ms=700_000))
    lost = cluster._deliver

    def without_proposals(origin: object, target: object, kind: str, action: object) -> None:
        if kind != "Proposal" or cluster.healed or origin is target:
            lost(origin, target, kind, action)  # type: ignore[arg-type]

    cluster._deliver = without_proposals  # type: ignore[method-assign]
    cluster.run()
    assert cluster.seen["tc"] > 100
    assert all(list(footprint(host)) for host in cluster.hosts)


def test_a_flood_of_batches_fills_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far places and made-up lanes of one member; the others go on, and the judge looks at their disks after every step."""
    monkeypatch.setattr(payload, "MEMBER_LIMIT", 40)
    cluster = Cluster(13, faults=Faults(heal_ms=3000))
    cluster.judge.byzantine = {3}

    def flood(number: int) -> None:
        digest = hashlib.sha256(b"flood %d" % number).digest()
        for target in cluster.hosts[:3]:
            target.store_batch(BatchRef(3, 1 + number % 2, 10**6 + number, digest, 10, 5000))

    for number in range(1000):
        cluster.at(100 + number, partial(flood, number))
    cluster.run()
    for host in cluster.hosts[:3]:
        assert sum(ref.seq >= 10**6 for ref in host.disk.batches.values()) <= 40


def test_a_rogue_key_does_not_get_into_a_committee() -> None:
    """What the mutant without proofs of possession lets in."""
    with pytest.raises(GenesisError, match="org0"):
        BlsSigning.with_a_rogue()


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_the_simulator_kills(name: str) -> None:
    """Each broken rule is found within a bounded number of seeds."""
    assert hunt(name) is not None, f"mutant {name} survived"
