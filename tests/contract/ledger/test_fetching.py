"""What a replica takes from a peer that it asks: what it asked for, and no more, over real mTLS on loopback."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from ledger_commit.consensus.messages import (
    MAX_BATCHES_PER_BLOCK,
    MAX_COMMITTEE,
    MAX_EVIDENCE_BYTES,
    MAX_EVIDENCE_PER_BLOCK,
    PROPOSAL,
    QUORUM_CERT,
    UNSIGNED,
    TimeoutCert,
    TimeoutGroup,
)
from ledger_commit.peer_service import PeerServicer
from ledger_commit.peers import FETCH_TIMEOUT_S, MAX_BLOCK_ANSWER_BYTES, Peer, Peers
from runtime.grpc_server import GrpcServer
from runtime.identity import Role
from runtime.network import ReplicaAddress
from tests.fixtures.consensus import GENESIS_QC, batch, block
from tests.fixtures.tls import Certificates

if TYPE_CHECKING:
    from ledger_commit.node import Node

SIZE = 1000


class Generous(PeerServicer):
    """Streams for as long as somebody listens, whatever was asked; `sent` counts, `ended` tells that nobody does."""

    def __init__(self) -> None:
        super().__init__(cast("Node", None))  # which the two answers below never ask
        self.sent = 0
        self.ended = asyncio.Event()
        self.size = SIZE

    async def FetchBlocks(self, _request: Any, _context: Any) -> AsyncIterator[ledger_pb2.FetchBlocksResponse]:  # noqa: N802
        async for payload in self._endless():
            yield ledger_pb2.FetchBlocksResponse(block=payload)

    async def FetchBatches(self, _request: Any, _context: Any) -> AsyncIterator[ledger_pb2.FetchBatchesResponse]:  # noqa: N802
        async for payload in self._endless():
            yield ledger_pb2.FetchBatchesResponse(batch=payload)

    async def _endless(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.sent += 1
                yield bytes(self.size)
                await asyncio.sleep(0)
        finally:
            self.ended.set()


@pytest.fixture
async def generous(certificates: Certificates) -> AsyncIterator[tuple[Generous, Peer]]:
    servicer = Generous()
    server = GrpcServer("127.0.0.1:0", certificates("borealis", Role.REPLICA))
    ledger_pb2_grpc.add_PeerServiceServicer_to_server(servicer, server.grpc)
    port = await server.start("claimledger.ledger.v1.PeerService")
    address = ReplicaAddress("borealis", f"127.0.0.1:{port}", 0)
    peer = Peer(1, address, certificates("aurora", Role.REPLICA), lambda _index: None)
    yield servicer, peer
    await peer._channel.close()
    await server.drain(0)


async def stopped(servicer: Generous) -> bool:
    """Long before the deadline of the call; what is in flight meanwhile is bounded by HTTP/2's windows."""
    await asyncio.wait_for(servicer.ended.wait(), FETCH_TIMEOUT_S / 2)
    return servicer.sent < 10_000


async def test_no_more_batches_are_taken_than_were_asked_for(generous: tuple[Generous, Peer]) -> None:
    servicer, peer = generous
    found = await peer.batches([batch(0, seq, size_bytes=SIZE) for seq in (1, 2, 3)])
    assert found == [bytes(SIZE)] * 3
    assert await stopped(servicer)


async def test_no_more_bytes_are_taken_than_the_batches_have(generous: tuple[Generous, Peer]) -> None:
    servicer, peer = generous
    servicer.size = 4 * SIZE
    assert await peer.batches([batch(0, seq, size_bytes=SIZE) for seq in (1, 2, 3)]) == []
    assert await stopped(servicer)


@pytest.mark.parametrize(
    ("request_", "most"),
    [
        (ledger_pb2.FetchBlocksRequest(ids=[bytes(32)]), 1),
        (ledger_pb2.FetchBlocksRequest(ids=[bytes(32)], ancestors=3), 4),
        (ledger_pb2.FetchBlocksRequest(from_height=5, to_height=9), 5),
    ],
    ids=["by id", "by id with ancestors", "by height"],
)
async def test_no_more_blocks_are_taken_than_were_asked_for(
    generous: tuple[Generous, Peer], request_: ledger_pb2.FetchBlocksRequest, most: int
) -> None:
    servicer, peer = generous
    assert len(await peer.blocks(request_)) == most
    assert await stopped(servicer)
    servicer.ended.clear()
    servicer.size = MAX_BLOCK_ANSWER_BYTES * most
    assert await peer.blocks(request_) == []
    assert await stopped(servicer)


async def test_those_named_are_asked_in_their_order_but_for_who_is_away(
    generous: tuple[Generous, Peer], certificates: Certificates
) -> None:
    _, first = generous
    nowhere = ReplicaAddress("cygnus", "127.0.0.1:1", 0)
    others = [Peer(i, nowhere, certificates("aurora", Role.REPLICA), lambda _index: None) for i in (2, 3)]
    peers = Peers([first, *others])
    assert [peer.index for peer in peers.named((3, 7, 1))] == [3, 1], "no other is asked, and no stranger"
    first.consensus.open = others[0].consensus.open = True
    assert [peer.index for peer in peers.named((3, 2, 1))] == [2, 1, 3]
    for peer in others:
        await peer._channel.close()


def test_the_largest_block_is_within_what_is_taken_of_an_answer() -> None:
    everyone = bytes(MAX_COMMITTEE // 8)
    qc = type(GENESIS_QC)(GENESIS_QC.data, everyone, UNSIGNED)
    groups = tuple(TimeoutGroup(number, everyone) for number in range(MAX_COMMITTEE))
    tc = TimeoutCert(0, 9, qc, groups, UNSIGNED)
    named = tuple(batch(0, seq) for seq in range(1, MAX_BATCHES_PER_BLOCK + 1))
    evidence = (bytes(MAX_EVIDENCE_BYTES),) * MAX_EVIDENCE_PER_BLOCK
    largest = replace(block(None, 10, qc=qc, tc=tc, batches=named), evidence=evidence)
    answer = ledger_pb2.FetchBlocksResponse(block=PROPOSAL.encode(largest), commit_qc=QUORUM_CERT.encode(qc))
    assert answer.ByteSize() < 15 * 1024 < MAX_BLOCK_ANSWER_BYTES
