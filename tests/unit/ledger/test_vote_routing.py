"""Votes that go to the next two leaders alone, over the real driver: a leader hears its own, and a peer learns who signed."""

from pathlib import Path

import pytest

from ledger_commit.consensus import replica
from ledger_commit.consensus.messages import SyncInfo, Vote
from tests.unit.ledger.test_durability import made, of_kind, work
from tests.unit.ledger.test_last_seen import ME, OTHER, certificate, certificate_of, vote


async def test_a_committee_goes_on_whose_leaders_need_their_own_votes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of four are there, all of them are a quorum; nobody broadcasts a vote."""
    monkeypatch.setattr(replica, "VOTES_TO_ALL", 3)
    machines = made(tmp_path)
    for machine in machines:
        machine.start([m for m in machines if m is not machine])
    machines[0].power.off = True
    await work(machines, 0.1, lambda: min(m.node.committed_height for m in machines[1:]) > 1)
    assert min(m.node.committed_height for m in machines[1:]) > 1
    assert not any(of_kind(machine.sent, Vote) for machine in machines)


async def test_a_certificate_tells_who_signed_to_a_replica_that_heard_no_vote(tmp_path: Path) -> None:
    """Verified, unlike a vote when it is noted: a made-up one would hide those that hold, for every member at once."""
    machine = made(tmp_path)[0]
    machine.start([])
    node = machine.node
    node._started = True
    node.replica.halted = "it follows"
    node.receive(OTHER, SyncInfo(certificate_of(ME), None, 0))
    node.receive(OTHER, SyncInfo(certificate([0, ME], 2 * vote(ME).data.round), None, 0))
    assert node.last_signed_by(ME) == certificate_of(ME)
    assert node.last_signed_by(OTHER) is None
    await node.close()
