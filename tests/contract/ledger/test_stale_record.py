"""What a replica asks of its peers before it signs anything, with real replicas and real files.

Source: consensus.md §8: a record that ends before a signature that a peer holds is stale.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from ledger_commit.node import HEARING
from runtime.grpc_server import GrpcServer
from tests.contract.ledger.conftest import REPLICAS, Replicas
from tests.contract.ledger.test_replicas import same_roots, submit, transaction

STALE = "cygnus"
LIAR = "meridian"
NOTHING = ledger_pb2.GetLastSeenResponse()


def record(replicas: Replicas, replica: str) -> Path:
    return replicas.run / "data" / f"replica-{replica}" / "safety.rec"


async def held(replicas: Replicas, at: str, of: str) -> int:
    """The highest round in which one replica holds a signature of another."""
    return (await shown(replicas, at, of)).round


async def shown(replicas: Replicas, at: str, of: str) -> ledger_pb2.GetLastSeenResponse:
    async with replicas.peering(at, of, "replica") as stub:
        told: ledger_pb2.GetLastSeenResponse = await stub.GetLastSeen(
            ledger_pb2.GetLastSeenRequest(), wait_for_ready=True, timeout=10
        )
    return told


async def state_of(replicas: Replicas, replica: str) -> str:
    """Why it does not vote, as soon as it has heard its peers."""
    async with asyncio.timeout(10):
        while (told := (await replicas.status(replica)).not_voting) == HEARING:
            await asyncio.sleep(0.02)
    return told


async def test_a_replica_with_an_older_record_than_its_peers_remember_signs_nothing(
    replicas: Replicas, capsys: pytest.CaptureFixture[str]
) -> None:
    """Yesterday's copy of the record under today's key (D2): it says why, follows, and hands nothing out."""
    replicas.start(*REPLICAS)
    await submit(replicas, "aurora", 1)
    await same_roots(replicas, 1)
    await replicas.stop(STALE)
    copy = record(replicas, STALE).with_suffix(".old")
    shutil.copy(record(replicas, STALE), copy)
    early = await held(replicas, "aurora", STALE)
    replicas.start(STALE)
    assert await state_of(replicas, STALE) == ""
    await submit(replicas, "aurora", 2, 3)
    await same_roots(replicas, 3)
    await replicas.stop(STALE)
    late = await held(replicas, "aurora", STALE)
    assert late > early, "it voted while its record was its own"

    shutil.copy(copy, record(replicas, STALE))
    capsys.readouterr()
    replicas.start(STALE)
    why = await state_of(replicas, STALE)
    assert "the safety record is stale" in why
    assert f"a peer saw round {late}" in why
    (told,) = [text for text in capsys.readouterr().out.splitlines() if "not_voting" in text]
    assert why in told
    async with replicas.calling(STALE, "aurora") as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.SubmitTransaction(ledger_pb2.SubmitTransactionRequest(transaction=transaction(replicas, 99)))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await submit(replicas, "aurora", 4, 5)
    await same_roots(replicas, 5)
    assert [await held(replicas, peer, STALE) for peer in REPLICAS if peer != STALE] == [late] * 3
    assert record(replicas, STALE).read_bytes() == copy.read_bytes()


class LyingPeer(ledger_pb2_grpc.PeerServiceServicer):
    """Has a replica's certificate and address, and answers what a test wants. The RPCs that it lacks are UNIMPLEMENTED."""

    def __init__(self) -> None:
        self.says = NOTHING
        self.asked = 0

    async def Exchange(self, requests: Any, _context: Any) -> ledger_pb2.ExchangeResponse:  # noqa: N802
        async for _ in requests:
            pass
        return ledger_pb2.ExchangeResponse()

    async def GetLastSeen(self, _request: Any, _context: Any) -> ledger_pb2.GetLastSeenResponse:  # noqa: N802
        self.asked += 1
        return self.says


@asynccontextmanager
async def lying(replicas: Replicas) -> AsyncIterator[LyingPeer]:
    """In the place of one replica."""
    server = GrpcServer(replicas.address(LIAR), replicas.tls(LIAR, "replica"))
    peer = LyingPeer()  # type: ignore[abstract]
    ledger_pb2_grpc.add_PeerServiceServicer_to_server(peer, server.grpc)
    await server.start("claimledger.ledger.v1.PeerService")
    yield peer
    await server.drain(0.1)


async def test_a_lying_peer_stops_no_replica_that_restarts(
    replicas: Replicas, capsys: pytest.CaptureFixture[str]
) -> None:
    """A round that nothing proves, another's later signature, and an old vote under a higher round: each is named in the log,
    and the replica goes on voting, without which the other two could commit nothing."""
    replicas.start(*REPLICAS)
    await submit(replicas, "aurora", 1)
    await same_roots(replicas, 1)
    await replicas.stop(STALE)
    own = await shown(replicas, "aurora", STALE)
    await submit(replicas, "aurora", 2, 3)
    await replicas.executed("aurora", 3)
    others = await shown(replicas, "aurora", "borealis")
    assert others.round > own.round > 0
    await replicas.stop(LIAR)
    relabelled = ledger_pb2.GetLastSeenResponse()
    relabelled.CopyFrom(own)
    relabelled.round = others.round
    async with lying(replicas) as peer:
        for number, lie in enumerate((ledger_pb2.GetLastSeenResponse(round=2**63), others, relabelled), start=1):
            peer.says = lie
            capsys.readouterr()
            replicas.start(STALE)
            assert await state_of(replicas, STALE) == ""
            assert peer.asked == number
            (told,) = [text for text in capsys.readouterr().out.splitlines() if "last_seen_not_proven" in text]
            assert LIAR in told
            assert str(lie.round) in told
            if number < 3:
                await replicas.stop(STALE)
        await submit(replicas, "borealis", 4)
        await replicas.executed("borealis", 4)


async def test_nothing_is_signed_before_enough_peers_have_answered(replicas: Replicas) -> None:
    """Two of four have one answer each where two are needed: for longer than a round they sign nothing. A third one lets
    all three begin."""
    replicas.start("aurora", "borealis")
    before = {r: (await replicas.status(r), record(replicas, r).read_bytes())[1] for r in ("aurora", "borealis")}
    async with replicas.calling("aurora", "aurora") as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:  # after two seconds: which of its lane's places are free?
            await stub.SubmitTransaction(ledger_pb2.SubmitTransactionRequest(transaction=transaction(replicas, 99)))
    assert (refused.value.code(), refused.value.details()) == (
        grpc.StatusCode.UNAVAILABLE,
        f"this replica {HEARING}",
    )
    for replica, peer in (("aurora", "borealis"), ("borealis", "aurora")):
        assert (await replicas.status(replica)).not_voting == HEARING
        assert await held(replicas, peer, replica) == 0
        assert record(replicas, replica).read_bytes() == before[replica]
    replicas.start("cygnus")
    await submit(replicas, "aurora", 1)
    await replicas.executed("borealis", 1)
    assert (await replicas.status("aurora")).not_voting == ""
    assert await held(replicas, "borealis", "aurora") > 0
