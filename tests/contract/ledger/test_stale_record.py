"""What a replica asks of its peers before it signs anything, with real replicas and real files.

Source: consensus.md §8: a record that ends before a signature that a peer holds is stale.
"""

import asyncio
import shutil
from pathlib import Path

import grpc
import pytest

from claimledger.ledger.v1 import ledger_pb2
from ledger_commit.node import HEARING
from tests.contract.ledger.conftest import REPLICAS, Replicas
from tests.contract.ledger.test_replicas import same_roots, submit, transaction

STALE = "cygnus"


def record(replicas: Replicas, replica: str) -> Path:
    return replicas.run / "data" / f"replica-{replica}" / "safety.rec"


async def held(replicas: Replicas, at: str, of: str) -> int:
    """The highest round in which one replica holds a signature of another."""
    async with replicas.peering(at, of, "replica") as stub:
        told = await stub.GetLastSeen(ledger_pb2.GetLastSeenRequest(), wait_for_ready=True, timeout=10)
    return int(told.round)


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


async def test_nothing_is_signed_before_enough_peers_have_answered(replicas: Replicas) -> None:
    """Two of four have one answer each where two are needed: for longer than a round they sign nothing. A third one lets
    all three begin."""
    replicas.start("aurora", "borealis")
    before = {r: (await replicas.status(r), record(replicas, r).read_bytes())[1] for r in ("aurora", "borealis")}
    await asyncio.sleep(1.0)
    for replica, peer in (("aurora", "borealis"), ("borealis", "aurora")):
        assert (await replicas.status(replica)).not_voting == HEARING
        assert await held(replicas, peer, replica) == 0
        assert record(replicas, replica).read_bytes() == before[replica]
    replicas.start("cygnus")
    await submit(replicas, "aurora", 1)
    await replicas.executed("borealis", 1)
    assert (await replicas.status("aurora")).not_voting == ""
    assert await held(replicas, "borealis", "aurora") > 0
