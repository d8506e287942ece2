"""A replica that lost its record, or all of its disk, takes part again when its organisation has said so on the ledger.

Real replicas, real files, and the command that an operator runs. Source: consensus.md §8.
"""

import asyncio
import shutil
from pathlib import Path

import grpc
import pytest

from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from claims.transaction import (
    REOPEN_LANE,
    SIGNED_TRANSACTION,
    Kind,
    OpenLane,
    Prefix,
    RefusalReason,
    ReopenLane,
)
from cli.bootstrap import BootstrapError, order
from cli.replica_commands import _signed, restore
from cli.session import Session
from ledger_commit.adapters.block_log import BlockLog
from ledger_commit.adapters.disk import RealFile
from ledger_commit.adapters.safety_record import SafetyFile
from ledger_commit.consensus.events import SafetyRecord
from runtime.grpc_server import GrpcServer
from tests.contract.ledger.conftest import REPLICAS, Replicas
from tests.contract.ledger.test_replicas import same_roots, submit
from tests.contract.ledger.test_stale_record import held, record, state_of

LOST = "cygnus"
OTHERS = tuple(replica for replica in REPLICAS if replica != LOST)


def session_of(replicas: Replicas, organisation: str = LOST) -> Session:
    return Session(replicas.run, organisation, replicas.network)


async def rejoined(replicas: Replicas) -> OpenLane:
    """As the command does it."""
    stated = await asyncio.to_thread(restore, session_of(replicas))
    return OpenLane(stated.incarnation, stated.last_voted_round)


def lanes_in(replicas: Replicas) -> set[tuple[int, int]]:
    """Whose batches its log holds: each was announced as one that a block may name."""
    with RealFile(record(replicas, LOST).with_name("blocks.log")) as file:
        return {ref.lane for ref in BlockLog(file, bytes.fromhex(replicas.network.chain_id), 0).refs.values()}


def saved(place: Path) -> SafetyRecord:
    with RealFile(place) as file:
        return SafetyFile(file).load()[0]


async def prepared(replicas: Replicas, caller: str = LOST, key_id: int = 1) -> bytes:
    async with replicas.calling(LOST, caller) as stub:
        answer = await stub.PrepareRejoin(
            ledger_pb2.PrepareRejoinRequest(key_id=key_id), wait_for_ready=True, timeout=20
        )
    statement: bytes = answer.statement
    return statement


async def refusal(replicas: Replicas, caller: str = LOST, key_id: int = 1) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await prepared(replicas, caller, key_id)
    return caught.value.code(), caught.value.details() or ""


async def votes_and_orders(replicas: Replicas, sequence: int) -> None:
    """Without another member nothing commits but with its vote; and what commits comes through its own lane."""
    await replicas.stop("borealis")
    await submit(replicas, LOST, sequence)
    await replicas.executed("aurora", sequence + 1)
    replicas.start("borealis")


async def test_a_replica_without_its_record_rejoins_and_its_lane_goes_on(replicas: Replicas) -> None:
    """It signs in no round up to that of its statement, holds nobody up, and a restart changes nothing of it."""
    replicas.start(*REPLICAS)
    await submit(replicas, LOST, 1)
    await same_roots(replicas, 1)
    assert await refusal(replicas) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "this replica takes part: there is nothing to rejoin",
    )
    await replicas.stop(LOST)
    record(replicas, LOST).unlink()
    before = await held(replicas, "aurora", LOST)
    replicas.start(LOST)
    assert "lost" in await state_of(replicas, LOST)
    assert (await refusal(replicas, "aurora"))[0] is grpc.StatusCode.PERMISSION_DENIED
    assert (await refusal(replicas, key_id=0))[0] is grpc.StatusCode.INVALID_ARGUMENT

    opened = await rejoined(replicas)
    assert opened.incarnation == 2
    assert opened.after_round > before
    assert (await replicas.status(LOST)).not_voting == ""
    await votes_and_orders(replicas, 2)
    assert await held(replicas, "aurora", LOST) > opened.after_round
    await replicas.stop(LOST)
    kept = saved(record(replicas, LOST))
    assert kept.last_voted_round > opened.after_round
    assert lanes_in(replicas) == {(REPLICAS.index(LOST), 1), (REPLICAS.index(LOST), 2), (REPLICAS.index("aurora"), 1)}
    replicas.start(LOST)
    assert await state_of(replicas, LOST) == ""


async def test_a_replica_with_a_new_disk_rejoins(replicas: Replicas) -> None:
    """It has nothing but its keys: what it signed it hears of from its peers, its places in the old lane are taken, and the
    chain it gets meanwhile."""
    replicas.start(*REPLICAS)
    await submit(replicas, LOST, 1, 2)
    await same_roots(replicas, 2)
    await replicas.stop(LOST)
    shutil.rmtree(replicas.run / "data" / f"replica-{LOST}")
    replicas.start(LOST)
    assert "stale" in await state_of(replicas, LOST)
    assert (await rejoined(replicas)).incarnation == 2
    await submit(replicas, LOST, 3)
    await same_roots(replicas, 4)


async def test_a_replica_rejoins_by_the_statement_that_it_prepared_and_by_no_other(
    replicas: Replicas, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not by one with another certificate, nor after an end in between: two records never rest on one statement, and another one
    opens the next incarnation."""
    replicas.start(*REPLICAS)
    await submit(replicas, "aurora", 1)
    await same_roots(replicas, 1)
    await replicas.stop(LOST)
    record(replicas, LOST).unlink()
    replicas.start(LOST)
    await state_of(replicas, LOST)
    session = session_of(replicas)
    first = await prepared(replicas)
    assert REOPEN_LANE.decode(first).incarnation == 2
    await asyncio.to_thread(hand_in, session, first[:-9] + bytes((first[-9] ^ 1,)) + first[-8:])
    await replicas.executed(LOST, 2)
    assert "lost" in await state_of(replicas, LOST)
    with pytest.raises(BootstrapError, match=RefusalReason.WRONG_INCARNATION.name):
        await asyncio.to_thread(hand_in, session, first)
    await replicas.executed(LOST, 3)
    assert "reason=WRONG_INCARNATION" in capsys.readouterr().out

    second = await prepared(replicas)
    await replicas.stop(LOST)
    await asyncio.to_thread(hand_in, session, second)
    replicas.start(LOST)
    await replicas.executed(LOST, 4)
    assert "lost" in await state_of(replicas, LOST)
    opened = await rejoined(replicas)
    assert opened.incarnation == 4
    assert f"after={opened.after_round} incarnation=4" in capsys.readouterr().out


async def test_a_replica_stops_when_its_organisation_puts_another_machine_in_its_place(
    replicas: Replicas, capsys: pytest.CaptureFixture[str]
) -> None:
    """It works, and executes a statement that it did not prepare: it signs nothing, closes its lane, and says so."""
    replicas.start(*REPLICAS)
    await submit(replicas, LOST, 1)
    await same_roots(replicas, 1)
    last = (await replicas.status(LOST)).round + 1
    prefix = Prefix(bytes.fromhex(replicas.network.chain_id), Kind.REOPEN_LANE, LOST, 1, 0, 0)
    await asyncio.to_thread(
        hand_in, session_of(replicas), REOPEN_LANE.encode(ReopenLane(prefix, 0, 2, 0, bytes(32), last))
    )
    await replicas.executed(LOST, 2)
    why = "the safety record is older than the statement of incarnation 2"
    assert await state_of(replicas, LOST) == why
    assert why in capsys.readouterr().out
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await submit(replicas, LOST, 2)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert (await rejoined(replicas)).incarnation == 3
    await submit(replicas, LOST, 2)
    await replicas.executed("aurora", 4)


def hand_in(session: Session, statement: bytes) -> None:
    signed = _signed(session, statement)
    assert SIGNED_TRANSACTION.decode(SIGNED_TRANSACTION.encode(signed)) == signed
    address = next(r.address for r in session.network.replicas if r.organisation == "aurora")
    with session.replica(address) as channel:
        order(channel, [signed])


class Silent(ledger_pb2_grpc.PeerServiceServicer):
    """In the place of one replica: connects, and answers nothing but junk to who rejoins."""

    asked = 0

    async def GetPosition(self, _request: object, _context: object) -> ledger_pb2.GetPositionResponse:  # noqa: N802
        self.asked += 1
        return ledger_pb2.GetPositionResponse(sync_info=b"\x01junk")


async def test_with_too_few_others_there_is_no_statement(replicas: Replicas) -> None:
    """One is away, or gives no certificates, or has lost its own record: with four members all three others are due."""
    replicas.start(*REPLICAS)
    await submit(replicas, "aurora", 1)
    await same_roots(replicas, 1)
    await replicas.stop(LOST, "borealis")
    record(replicas, LOST).unlink()
    record(replicas, "borealis").unlink()
    replicas.start(LOST)
    assert "lost" in await state_of(replicas, LOST)
    few = (grpc.StatusCode.FAILED_PRECONDITION, "2 other members showed valid certificates, 3 are due: start the other")
    assert starts(await refusal(replicas), few)

    junk, server = Silent(), GrpcServer(replicas.address("borealis"), replicas.tls("borealis", "replica"))  # type: ignore[abstract]
    ledger_pb2_grpc.add_PeerServiceServicer_to_server(junk, server.grpc)
    await server.start("claimledger.ledger.v1.PeerService")
    async with asyncio.timeout(10):
        while not junk.asked:
            assert starts(await refusal(replicas), few)
    await server.drain(0.1)

    replicas.start("borealis")
    await state_of(replicas, "borealis")
    async with asyncio.timeout(10):
        while "borealis" not in (await replicas.status(LOST)).connected_peers:
            await asyncio.sleep(0.02)
    assert starts(await refusal(replicas), few)
    assert "lost" in (await replicas.status(LOST)).not_voting


def starts(told: tuple[grpc.StatusCode, str], due: tuple[grpc.StatusCode, str]) -> bool:
    return told[0] is due[0] and told[1].startswith(due[1])
