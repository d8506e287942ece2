"""What real replicas with real keys make of a member that signs two things: evidence on the chain, told of and kept."""

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from claimledger.ledger.v1 import ledger_pb2
from ledger_commit.adapters.block_log import reference
from ledger_commit.app import _projected_from_log
from ledger_commit.consensus.evidence import EvidenceKind, charge_of, decode, form_error
from ledger_commit.consensus.messages import BATCH, Batch, Vote, VoteData, batch_message, vote_message
from ledger_commit.results import block_messages
from ledger_commit.store import Projected, Projection
from tests.unit.ledger.machines import BLS, CHAIN_ID, COMMITTEE, LANES, SECRETS, Machine
from tests.unit.ledger.test_durability import made, work

LIAR = 3
CHARGES = {(LIAR, EvidenceKind.DOUBLE_VOTE), (LIAR, EvidenceKind.DOUBLE_BATCH)}


def vote_for(identity: bytes, voted: int) -> Vote:
    data = VoteData(0, voted, identity, bytes(32), voted - 1, bytes(32))
    return Vote(data, LIAR, BLS.sign(SECRETS[LIAR], vote_message(CHAIN_ID, data)))


def batch_with(record: bytes) -> bytes:
    """For the same far place of the liar's lane, whatever is in it."""
    unsigned = Batch(LIAR, 1, 50, 1, (record,), bytes(64))
    ref = reference(unsigned, BATCH.encode(unsigned))
    return BATCH.encode(replace(unsigned, signature=LANES[LIAR].sign(batch_message(CHAIN_ID, ref))))


def counted(kind: EvidenceKind) -> float:
    labels = {"organisation": COMMITTEE.members[LIAR].organisation, "kind": kind.name}
    return REGISTRY.get_sample_value("claimledger_ledger_evidence_total", labels) or 0


@pytest.fixture
async def accusing(tmp_path: Path) -> tuple[list[Machine], list[Projected], list[dict[str, object]]]:
    """Four replicas of which the first was shown both; what it projected, and what they logged of evidence."""
    machines, projected = made(tmp_path), list[Projected]()
    for machine in machines:
        machine.start([m for m in machines if m is not machine])
    machines[0].node._on_executed = projected.extend

    def committed_by_all() -> bool:
        shown = machines[0].node
        if shown.replica.witness.pool.keys() | shown.replica.committed.accused == set():
            for rival in (b"\x01" * 32, b"\x02" * 32):
                shown.receive(LIAR, vote_for(rival, shown.replica.round + 3))
                shown.receive_batch(batch_with(rival))
        told = [charge for row in projected for charge in row.accused]
        return len(told) == 2 and all(m.node.replica.committed.accused == CHARGES for m in machines)

    with capture_logs() as logs:
        await work(machines, 0.1, committed_by_all)
    return machines, projected, [dict(log) for log in logs if log["event"] == "evidence_committed"]


Accusing = tuple[list[Machine], list[Projected], list[dict[str, object]]]


async def test_every_replica_commits_it_and_says_so(accusing: Accusing) -> None:
    machines, _, logs = accusing
    assert {frozenset(m.node.replica.committed.accused) for m in machines} == {frozenset(CHARGES)}
    organisation = COMMITTEE.members[LIAR].organisation
    assert sorted(str(log["kind"]) for log in logs) == sorted(kind.name for _, kind in CHARGES for _ in machines)
    assert {log["accused"] for log in logs} == {organisation}


async def test_it_is_projected_and_shown_with_its_block(accusing: Accusing, tmp_path: Path) -> None:
    """Anybody with the genesis can check what is shown."""
    machines, projected, _ = accusing
    projection = Projection(f"sqlite:///{tmp_path}/shown.db")
    await projection.open()
    await projection.append(projected)
    blocks = await block_messages(projection, await projection.blocks(1, len(projected)))
    shown = [each for block in blocks for each in block.evidence]
    assert {(each.organisation, ledger_pb2.EvidenceKind.Name(each.kind)) for each in shown} == {
        (COMMITTEE.members[LIAR].organisation, f"EVIDENCE_KIND_{kind.name}") for _, kind in CHARGES
    }
    for each in shown:
        assert form_error((each.piece,), COMMITTEE) == ""
        assert machines[1].node.replica.court.proves(each.piece)
        assert charge_of(decode(each.piece)) in CHARGES
    await projection.clear()
    assert await projection.blocks(1, 1) == []
    await projection.append(projected)
    await projection.close()


async def test_a_restart_knows_it_counts_it_and_rebuilds_its_rows(accusing: Accusing) -> None:
    machines, projected, _ = accusing
    before = counted(EvidenceKind.DOUBLE_VOTE)
    machine = machines[0]
    await machine.node.close()
    machine.start([])
    assert machine.node.disk.root.accused == CHARGES
    assert machine.node.replica.witness.accused == CHARGES
    assert counted(EvidenceKind.DOUBLE_VOTE) == before + 1
    rebuilt = _projected_from_log(machine.node.disk, machine.node)
    assert [row.accused for row in rebuilt[: len(projected)]] == [row.accused for row in projected]


async def test_batches_that_a_restart_finds_are_compared_with_what_comes(tmp_path: Path) -> None:
    """The signature of the first is read from the log."""
    machine = Machine(0, tmp_path)
    machine.start([])
    machine.node.receive_batch(batch_with(b"one"))
    machine.node.disk.log.sync()
    await machine.node.close()
    machine.start([])
    machine.node._started = True
    machine.node.receive_batch(batch_with(b"other"))
    assert machine.node.replica.witness.pool.keys() == {(LIAR, EvidenceKind.DOUBLE_BATCH)}


async def test_a_batch_whose_signature_is_of_its_digest_alone_is_refused(tmp_path: Path) -> None:
    """The lane signs the place too."""
    machine = Machine(0, tmp_path)
    machine.start([])
    batch = BATCH.decode(batch_with(b"one"))
    moved = BATCH.encode(replace(batch, seq=51))
    machine.node.receive_batch(moved)
    assert not machine.node.disk.log.refs
