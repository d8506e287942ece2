"""What a replica gives to a peer that asks for a block."""

from dataclasses import replace
from pathlib import Path

from ledger_commit.consensus.events import BlocksFetched
from ledger_commit.consensus.messages import UNSIGNED, Proposal, block_id
from tests.unit.ledger.machines import BLS, COMMITTEE, Machine
from tests.unit.ledger.test_durability import made, of_kind, work

BLOCKS = 8


async def test_nobody_replaces_a_block_that_a_replica_holds(tmp_path: Path) -> None:
    """The id covers the header alone: under a good one anybody can send another payload, or another signature.

    Given on, it would be refused, and its honest giver accused.
    """
    machines = made(tmp_path)
    for machine in machines:
        machine.start([m for m in machines if m is not machine])
    await work(machines, 0.6)
    proposed = [sent.message for machine in machines for sent in of_kind(machine.sent, Proposal)]
    good = next(proposal for proposal in proposed if proposal.batches)
    identity = block_id(good.header)
    for machine in machines:
        for forged in (replace(good, batches=()), replace(good, signature=b"\x01" * 96)):
            machine.node.receive(good.header.proposer, forged)
        given = machine.node.block(identity)
        assert given is not None
        assert given == good
        assert BLS.verify(COMMITTEE.members[good.header.proposer].public_key, identity, given.signature)


async def test_a_fetched_block_is_given_on_whatever_stands_for_its_signature(tmp_path: Path) -> None:
    """A peer that gives certified blocks without their signatures must not make who took them useless to all others."""
    machines = made(tmp_path)
    for machine in machines:
        machine.start([m for m in machines if m is not machine])
    await work(machines, 0.1, lambda: machines[0].node.committed_height > BLOCKS)
    blocks, qc = machines[0].node.committed_range(1, BLOCKS)
    bare = tuple(replace(block, signature=UNSIGNED) for block in blocks)
    late = Machine(1, tmp_path / "late")
    late.start([])
    late.node._started = True
    late.node.replica.halted = "it follows"
    late.node.submit(BlocksFetched(2, bare, qc))
    committed = late.node.committed_height
    given, _ = late.node.committed_range(1, committed - 1)
    assert [block.header for block in given] == [block.header for block in blocks[: committed - 1]]
    assert len(given) > 1
    await late.node.close()


async def test_an_own_block_that_never_left_is_signed_for_nobody(tmp_path: Path) -> None:
    """The power went out between the log and the safety record, and its round got another block. Both signed would accuse."""
    machine = Machine(1, tmp_path)
    machine.start([])
    own = machine.node.replica._block(machine.node.replica.committed, machine.node.executed, ())
    machine.node.disk.log.append_block(own)
    assert own.signature == UNSIGNED
    assert machine.node.block(block_id(own.header)) is None
    machine.node.replica.safety = replace(machine.node.replica.safety, last_proposed_id=block_id(own.header))
    given = machine.node.block(block_id(own.header))
    assert given is not None
    assert BLS.verify(COMMITTEE.members[1].public_key, block_id(own.header), given.signature)
