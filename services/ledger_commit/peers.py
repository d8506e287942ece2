"""The other replicas: two streams to each, fetches from each, and the service that answers them.

Consensus messages and batches have a stream of their own, so a megabyte of payload never stands before a vote. A queue that
is full drops its oldest message: consensus repeats what matters, and a missing batch is fetched.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import grpc

from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from claims.encoding import DecodeError
from ledger_commit.consensus.messages import SYNC_INFO, BatchRef, SyncInfo
from runtime.grpc_channel import WrongServerError, open_channel, probe
from runtime.identity import server_name
from runtime.log import get_logger
from runtime.network import ReplicaAddress
from runtime.pki import TlsFiles

QUEUE_LIMIT: Final = 1024
PAYLOAD_QUEUE_LIMIT: Final = 256
RECONNECT_S: Final = (0.05, 2.0)
LOOK_S: Final = 5.0
FETCH_TIMEOUT_S: Final = 5.0
FRAME_BYTES: Final = 8
"""What an answer has around a batch: a tag, and a length below 2^42."""
MAX_BLOCK_ANSWER_BYTES: Final = 16 * 1024
"""A block in an answer: below 15 KiB with the largest committee, and the most batches and evidence that its encoding takes."""


class Stream:
    """One outgoing Exchange stream that is opened again whenever it ends."""

    def __init__(self, peer: "Peer", limit: int, name: str) -> None:
        self._peer = peer
        self._queue: deque[ledger_pb2.ExchangeRequest] = deque(maxlen=limit)
        self._filled = asyncio.Event()
        self._name = name
        self.dropped = 0
        self.open = False

    def offer(self, request: ledger_pb2.ExchangeRequest) -> None:
        if len(self._queue) == self._queue.maxlen:
            self.dropped += 1
        self._queue.append(request)
        self._filled.set()

    async def run(self) -> None:
        """Until cancelled."""
        pause, longest = RECONNECT_S
        while True:
            try:
                await self._peer.stub.Exchange(self._requests(), wait_for_ready=True)
                pause = RECONNECT_S[0]
            except grpc.aio.AioRpcError as error:
                if self.open:
                    get_logger("peers").info("stream_lost", peer=self._peer.organisation, code=error.code().name)
                    pause = RECONNECT_S[0]
            self.open = False
            await asyncio.sleep(pause)
            pause = min(longest, pause * 2)

    async def _requests(self) -> AsyncIterator[ledger_pb2.ExchangeRequest]:
        self.open = True
        if self._name == "consensus":
            self._peer.connected()
        while True:
            while self._queue:
                yield self._queue.popleft()
            self._filled.clear()
            await self._filled.wait()


class Peer:
    """One other replica. `on_connect` is called with its index each time the consensus stream opens."""

    def __init__(self, index: int, address: ReplicaAddress, tls: TlsFiles, on_connect: Any) -> None:
        self.index = index
        self.organisation = address.organisation
        self._address, self._server = address.address, server_name("replica", address.organisation)
        self._channel = open_channel(address.address, tls, self._server)
        self.stub = ledger_pb2_grpc.PeerServiceStub(self._channel)
        self.consensus = Stream(self, QUEUE_LIMIT, "consensus")
        self.payload = Stream(self, PAYLOAD_QUEUE_LIMIT, "payload")
        self._on_connect = on_connect

    def connected(self) -> None:
        self._on_connect(self.index)

    async def run(self) -> None:
        try:
            await asyncio.gather(self.consensus.run(), self.payload.run(), self._look_who_answers())
        finally:
            await self._channel.close()

    async def _look_who_answers(self) -> None:
        """While there is no connection: says where somebody else answers, which a stream that waits for it never tells."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._channel.get_state() is grpc.ChannelConnectivity.READY:
                continue
            try:
                await probe(self._channel, self._address, self._server)
            except WrongServerError as error:
                get_logger("peers").error(
                    "wrong_server", peer=self.organisation, expected=self._server, reason=str(error)
                )

    async def last_seen(self) -> ledger_pb2.GetLastSeenResponse | None:
        """Our newest signature that the peer holds, as it says; None where it does not answer."""
        try:
            answer: ledger_pb2.GetLastSeenResponse = await self.stub.GetLastSeen(
                ledger_pb2.GetLastSeenRequest(), timeout=FETCH_TIMEOUT_S
            )
        except grpc.aio.AioRpcError:
            return None
        return answer

    async def position(self) -> SyncInfo | None:
        """The certificates that the peer holds, unverified; None where it gives none."""
        try:
            answer = await self.stub.GetPosition(ledger_pb2.GetPositionRequest(), timeout=FETCH_TIMEOUT_S)
            return SYNC_INFO.decode(answer.sync_info)
        except (grpc.aio.AioRpcError, DecodeError):
            return None

    async def blocks(self, request: ledger_pb2.FetchBlocksRequest) -> list[ledger_pb2.FetchBlocksResponse]:
        """What the peer has of it; nothing where it does not answer."""
        heights = request.to_height - request.from_height + 1 if request.to_height else 0
        most = len(request.ids) * (1 + request.ancestors) + heights
        call = self.stub.FetchBlocks(request, timeout=FETCH_TIMEOUT_S)
        return await _collect(call, most, most * MAX_BLOCK_ANSWER_BYTES)

    async def batches(self, refs: Sequence[BatchRef]) -> list[bytes]:
        """Encoded batches; nothing where the peer does not answer."""
        request = ledger_pb2.FetchBatchesRequest(digests=[ref.digest for ref in refs])
        call = self.stub.FetchBatches(request, timeout=FETCH_TIMEOUT_S)
        found = await _collect(call, len(refs), sum(ref.size_bytes + FRAME_BYTES for ref in refs))
        return [response.batch for response in found]


async def _collect(call: Any, most: int, most_bytes: int) -> list[Any]:
    """What a peer streams until it ends, fails, or gives more than it was asked for. What came before counts."""
    found: list[Any] = []
    size = 0
    try:
        async for response in call:
            size += response.ByteSize()
            if len(found) == most or size > most_bytes:
                call.cancel()
                break
            found.append(response)
    except grpc.aio.AioRpcError:
        return found
    return found


class Peers:
    """All other replicas, by index in the committee."""

    def __init__(self, peers: Sequence[Peer]) -> None:
        self._peers = {peer.index: peer for peer in peers}

    def __iter__(self) -> Any:
        return iter(self._peers.values())

    def __len__(self) -> int:
        return len(self._peers)

    def broadcast(self, request: ledger_pb2.ExchangeRequest) -> None:
        for peer in self._peers.values():
            peer.consensus.offer(request)

    def broadcast_batch(self, encoded: bytes) -> None:
        request = ledger_pb2.ExchangeRequest(batch=encoded)
        for peer in self._peers.values():
            peer.payload.offer(request)

    def send(self, to: int, request: ledger_pb2.ExchangeRequest) -> None:
        if to in self._peers:
            self._peers[to].consensus.offer(request)

    def send_batch(self, to: int, encoded: bytes) -> None:
        if to in self._peers:
            self._peers[to].payload.offer(ledger_pb2.ExchangeRequest(batch=encoded))

    def named(self, members: Sequence[int]) -> list[Peer]:
        """Those of these members that are peers here, in this order; but whoever has no open stream comes last."""
        found = [self._peers[member] for member in members if member in self._peers]
        return sorted(found, key=lambda peer: not peer.consensus.open)

    def first(self, hint: int) -> list[Peer]:
        """Whom to ask, the hint first, then those with an open stream."""
        return sorted(self._peers.values(), key=lambda peer: (peer.index != hint, not peer.consensus.open))

    @property
    def connected(self) -> list[str]:
        return [peer.organisation for peer in self._peers.values() if peer.consensus.open]

    async def run(self) -> None:
        if self._peers:
            await asyncio.gather(*(peer.run() for peer in self._peers.values()))
        else:
            await asyncio.Event().wait()
