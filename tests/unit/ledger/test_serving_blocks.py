"""What a replica gives to a peer that asks for a block."""

from dataclasses import replace
from pathlib import Path

from ledger_commit.consensus.messages import Proposal, block_id
from tests.unit.ledger.machines import BLS, COMMITTEE
from tests.unit.ledger.test_durability import made, of_kind, work


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
