"""PeerService: what other replicas send and ask. The sender is the certificate's organisation, nothing in a message."""

from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from claims.encoding import DecodeError
from ledger_commit.consensus.messages import MAX_COMMITTEE, PROPOSAL, QUORUM_CERT, SYNC_INFO, Proposal
from ledger_commit.wire import from_request, to_last_seen
from runtime.errors import FailedPreconditionError, PermissionDeniedError
from runtime.identity import Role, identity_of
from runtime.metrics import LEDGER_BAD_MESSAGES
from runtime.stream_limits import StreamLimits

if TYPE_CHECKING:
    from ledger_commit.node import Node

MAX_IDS: Final = 64
MAX_RANGE: Final = 256
EXCHANGES_OF_ONE: Final = 8
"""Streams of one member at one time: two, and those of connections that were lost and have not ended here. Each takes its turn in the
loop, so that a member with many would leave little of it to others."""
QUESTIONS_OF_ONE: Final = 32
"""For blocks and batches, at one time: an honest member has 18 at most (fetching.py)."""


class PeerServicer(ledger_pb2_grpc.PeerServiceServicer):
    def __init__(self, node: "Node") -> None:
        self._node = node
        self.exchanges = StreamLimits(EXCHANGES_OF_ONE, EXCHANGES_OF_ONE * MAX_COMMITTEE)
        self.questions = StreamLimits(QUESTIONS_OF_ONE, QUESTIONS_OF_ONE * MAX_COMMITTEE)

    def _member(self, context: Any) -> int:
        """The caller's place in the committee. Raises PermissionDeniedError."""
        identity = identity_of(context)
        index = self._node.committee.index_of(identity.organisation)
        if identity.role is not Role.REPLICA or index is None:
            raise PermissionDeniedError(f"{identity.organisation} as {identity.role} is no replica of this committee")
        return index

    def _admitted(self, context: Any, limits: StreamLimits) -> int:
        """The caller's place, whose call counts until it ends. Raises PermissionDeniedError, ResourceExhaustedError."""
        member = self._member(context)
        limits.admit(self._node.committee.members[member].organisation, context)
        return member

    async def Exchange(self, requests: Any, context: Any) -> ledger_pb2.ExchangeResponse:
        member = self._admitted(context, self.exchanges)
        async for request in requests:
            if not self._node.hears(member):
                LEDGER_BAD_MESSAGES.labels("not_heard").inc()
                continue
            try:
                message = from_request(request)
            except DecodeError as error:
                LEDGER_BAD_MESSAGES.labels("undecodable").inc()
                self._node.log.warning("undecodable_message", peer=member, reason=str(error))
                self._node.ignore(member)
                continue
            if isinstance(message, bytes):
                self._node.receive_batch(message)
            elif message is not None:
                self._node.receive(member, message)
        return ledger_pb2.ExchangeResponse()

    async def FetchBlocks(
        self, request: ledger_pb2.FetchBlocksRequest, context: Any
    ) -> AsyncIterator[ledger_pb2.FetchBlocksResponse]:
        self._admitted(context, self.questions)
        for answer in self.blocks(request):
            yield answer

    def blocks(self, request: ledger_pb2.FetchBlocksRequest) -> Iterator[ledger_pb2.FetchBlocksResponse]:
        """What is held of it, within the bounds of an answer."""
        for block in islice(self._by_id(request), MAX_IDS):
            yield ledger_pb2.FetchBlocksResponse(block=PROPOSAL.encode(block))
        if request.to_height:
            last = min(request.to_height, request.from_height + MAX_RANGE - 1)
            blocks, qc = self._node.committed_range(request.from_height, last)
            for position, block in enumerate(blocks, start=1):
                certificate = QUORUM_CERT.encode(qc) if qc and position == len(blocks) else b""
                yield ledger_pb2.FetchBlocksResponse(block=PROPOSAL.encode(block), commit_qc=certificate)

    def _by_id(self, request: ledger_pb2.FetchBlocksRequest) -> Iterator[Proposal]:
        """Each block that is held, and after it its ancestors, each before its parent."""
        for identity in request.ids[:MAX_IDS]:
            wanted = identity
            for _ in range(1 + min(request.ancestors, MAX_IDS)):
                block = self._node.block(wanted)
                if block is None:
                    break
                yield block
                wanted = block.header.parent_id

    async def FetchBatches(
        self, request: ledger_pb2.FetchBatchesRequest, context: Any
    ) -> AsyncIterator[ledger_pb2.FetchBatchesResponse]:
        self._admitted(context, self.questions)
        for digest in request.digests[:MAX_IDS]:
            encoded = self._node.disk.log.batch_bytes(digest)
            if encoded is not None:
                yield ledger_pb2.FetchBatchesResponse(batch=encoded)

    async def GetLastSeen(
        self, _request: ledger_pb2.GetLastSeenRequest, context: Any
    ) -> ledger_pb2.GetLastSeenResponse:
        member = self._member(context)
        return to_last_seen(self._node.last_signed_by(member))

    async def GetPosition(
        self, _request: ledger_pb2.GetPositionRequest, context: Any
    ) -> ledger_pb2.GetPositionResponse:
        self._member(context)
        if self._node.not_voting:
            raise FailedPreconditionError(f"this replica does not take part: {self._node.not_voting}")
        return ledger_pb2.GetPositionResponse(sync_info=SYNC_INFO.encode(self._node.position))
