"""A block that a quorum certified is known by its id: who gives it, and under which signature, is all one."""

from dataclasses import replace

from ledger_commit.consensus.events import FetchBlocks, Report
from ledger_commit.consensus.messages import block_id
from tests.fixtures.consensus import Bench, certify, chain


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
