"""A block that a quorum certified is known by its id: who gives it, and under which signature, is all one."""

from dataclasses import replace

from ledger_commit.consensus.events import FetchBlocks, FetchRange, Report
from ledger_commit.consensus.messages import SyncInfo, block_id
from ledger_commit.consensus.replica import RETRY_MS
from tests.fixtures.consensus import GENESIS_QC, Bench, certify, chain, of


def test_a_certified_block_needs_no_signature_of_its_proposer() -> None:
    """A range brings blocks unchecked for it; whoever got one so and gives it on must not be accused."""
    (wanted,) = chain(1)
    bench = Bench()
    asked = bench.learn(certify(wanted))
    assert FetchBlocks((block_id(wanted.header),), 3) in asked
    told = bench.fetch(replace(wanted, signature=b"\x01" * 96))
    assert not [effect for effect in told if isinstance(effect, Report)]
    assert block_id(wanted.header) in bench.replica.tree


def test_a_proposal_needs_it() -> None:
    (proposed,) = chain(1)
    bench = Bench()
    assert Report("bad_signature", 1, "proposal") in bench.propose(replace(proposed, signature=b"\x01" * 96))
    assert block_id(proposed.header) not in bench.replica.tree


def test_a_block_that_one_member_does_not_give_is_asked_of_the_next() -> None:
    """Whoever showed the certificate may be hostile, and would be asked for ever."""
    (wanted,) = chain(1)
    bench = Bench()
    hints = [fetch.hint for fetch in of(bench.learn(certify(wanted)), FetchBlocks)]
    for _ in range(3):
        hints += [fetch.hint for fetch in of(bench.after(RETRY_MS), FetchBlocks)]
    assert hints == [3, 0, 1, 2]


def test_a_range_that_one_member_does_not_give_is_asked_of_the_next() -> None:
    """Also where that one offers itself more often than all others."""
    far = SyncInfo(GENESIS_QC, None, 1000)
    bench, hints = Bench(), []
    for _ in range(4):
        hints += [fetch.hint for fetch in of(bench.hear(3, far), FetchRange)]
        bench.after(RETRY_MS)
    assert hints == [3, 0, 1, 2]


def test_a_range_that_came_is_followed_by_one_of_whoever_offers() -> None:
    """The turn is kept only while nothing comes of asking."""
    blocks = chain(*range(1, 13))
    bench = Bench()
    bench.hear(3, SyncInfo(GENESIS_QC, None, 1000))
    bench.fetch(*blocks, qc=certify(blocks[-1]))
    (following,) = of(bench.hear(2, SyncInfo(GENESIS_QC, None, 1000)), FetchRange)
    assert (following.from_height, following.hint) == (12, 2)
