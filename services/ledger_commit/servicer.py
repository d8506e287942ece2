"""LedgerService: hand in transactions, read blocks, results and their proofs, follow one's settlements.

A settlement is shown to its parties and to regulators and replicas; for all others it does not exist.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from claims.encoding import DecodeError
from claims.identifiers import claim_ref_of
from claims.transaction import ENTRY_TRANSACTION, SIGNED_TRANSACTION, SignedTransaction
from ledger_commit.access import may_read, reads_all, require
from ledger_commit.cursor import PublishingWatch
from ledger_commit.keys import verify_ed25519
from ledger_commit.node import Node
from ledger_commit.publisher import Publisher
from ledger_commit.rejoin import RejoinError, prepare
from ledger_commit.results import ProvenResults, block_messages, evidence_message
from ledger_commit.settlement.authenticity import Forgery, body_of, forgery_of
from ledger_commit.store import Projection
from runtime.database import root_type
from runtime.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
    Violation,
)
from runtime.identity import Identity, identity_of
from runtime.log import get_logger
from runtime.stream_limits import StreamLimits
from runtime.unknown_fields import refuse_unknown_fields

MAX_TRANSACTION_BYTES: Final = 72 * 1024
MAX_LANE_BYTES: Final = 768 * 1024
ROOM_WITHIN_S: Final = 2.0
SUBSCRIBE_ROWS: Final = 200
SUBSCRIBE_BYTES: Final = 256 * 1024
"""Of the proofs in one page: what a subscriber who does not read makes this replica hold, beside what the connection takes."""
SUBSCRIPTIONS_OF_ONE: Final = 8
"""At one time, of one organisation: its services, and people who look."""
SUBSCRIPTIONS: Final = 64
"""At one time in all: 16 MiB of pages."""
SUBSCRIBE_WAIT_S: Final = 1.0
DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 200


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    def __init__(
        self,
        node: Node,
        projection: Projection,
        results: ProvenResults,
        publisher: Publisher | None,
        watch: PublishingWatch | None,
    ) -> None:
        self._node = node
        self._projection = projection
        self._results = results
        self._publisher = publisher
        self._watch = watch
        self.subscriptions = StreamLimits(SUBSCRIPTIONS_OF_ONE, SUBSCRIPTIONS)

    async def SubmitTransaction(
        self, request: ledger_pb2.SubmitTransactionRequest, context: Any
    ) -> ledger_pb2.SubmitTransactionResponse:
        _called(request, context, "SubmitTransaction")
        if len(request.transaction) > MAX_TRANSACTION_BYTES:
            raise _invalid("transaction", f"{len(request.transaction)} bytes, at most {MAX_TRANSACTION_BYTES}")
        try:
            transaction = SIGNED_TRANSACTION.decode(request.transaction)
        except DecodeError as error:
            raise _invalid("transaction", str(error)) from error
        self._must_be_signed(transaction)
        if self._node.lane.waiting_bytes > MAX_LANE_BYTES:
            raise ResourceExhaustedError("the lane is full", retry_after_ms=100)
        if self._node.replica.halted:
            raise FailedPreconditionError(f"this replica does not take part: {self._node.replica.halted}")
        await self._room()
        await self._node.lane.add(bytes((ENTRY_TRANSACTION,)) + request.transaction, 1, lambda: None)
        return ledger_pb2.SubmitTransactionResponse(transaction_id=hashlib.sha256(transaction.body).digest())

    async def _room(self) -> None:
        """Before it has heard its peers a replica does not know which places of its lane are free, and takes nothing."""
        try:
            async with asyncio.timeout(ROOM_WITHIN_S):
                await self._node.lane.room()
        except TimeoutError as error:
            if self._node.not_voting:
                raise UnavailableError(f"this replica {self._node.not_voting}") from error
            raise ResourceExhaustedError("the lane is full", retry_after_ms=100) from error

    def _must_be_signed(self, transaction: SignedTransaction) -> None:
        """What nobody signed would leave nothing on the ledger; its sender hears of it here. By the keys of the last block that
        this replica has executed. Raises InvalidArgumentError."""
        try:
            found = self._forgery_of(transaction)
        except DecodeError as error:
            raise _invalid("transaction.body", str(error)) from error
        if found is not None:
            raise _invalid(f"transaction.{found.field}", found.why)

    def _forgery_of(self, transaction: SignedTransaction) -> Forgery | None:
        body = body_of(transaction)
        if isinstance(body, Forgery):
            return body
        return forgery_of(self._node.ledger.state, transaction, body, verify_ed25519)

    async def GetTransaction(
        self, request: ledger_pb2.GetTransactionRequest, context: Any
    ) -> ledger_pb2.GetTransactionResponse:
        _called(request, context, "GetTransaction")
        if len(request.transaction_id) != 32:
            raise _invalid("transaction_id", "32 bytes are due")
        async with _reading():
            found = await self._projection.transaction(request.transaction_id)
        return ledger_pb2.GetTransactionResponse(result=found or b"")

    async def GetStatus(self, request: ledger_pb2.GetStatusRequest, context: Any) -> ledger_pb2.GetStatusResponse:
        _called(request, context, "GetStatus")
        node, executed = self._node, self._node.executed
        return ledger_pb2.GetStatusResponse(
            organisation=node.committee.members[node.me].organisation,
            chain_id=node.committee.chain_id,
            round=node.replica.round,
            committed_height=node.committed_height,
            executed_height=executed.height,
            state_root=executed.state_root,
            results_size=executed.results_size,
            results_root=executed.results_root,
            published_height=self._watch.published.block_height if self._watch else 0,
            publisher=self._publisher.has_role if self._publisher else False,
            connected_peers=node.peers.connected,
            not_voting=node.not_voting,
            lane_bytes=node.lane.waiting_bytes,
            evidence=[
                evidence_message(node.committee.members[member].organisation, kind)
                for member, kind in sorted(node.replica.committed.accused)
            ],
        )

    async def PrepareRejoin(
        self, request: ledger_pb2.PrepareRejoinRequest, context: Any
    ) -> ledger_pb2.PrepareRejoinResponse:
        caller = _called(request, context, "PrepareRejoin")
        own = self._node.committee.members[self._node.me].organisation
        if caller.organisation != own:
            raise PermissionDeniedError(f"{caller.organisation} does not speak for the replica of {own}")
        if not 1 <= request.key_id < 2**16:
            raise _invalid("key_id", f"{request.key_id}, from 1 to 65535")
        try:
            prepared = await prepare(self._node, request.key_id)
        except RejoinError as error:
            raise FailedPreconditionError(str(error)) from error
        return ledger_pb2.PrepareRejoinResponse(statement=prepared.statement)

    async def GetBlock(self, request: ledger_pb2.GetBlockRequest, context: Any) -> ledger_pb2.GetBlockResponse:
        _called(request, context, "GetBlock")
        async with _reading():
            row = (
                await self._projection.block(request.height) if request.height <= self._node.committed_height else None
            )
            if row is None or row.height != request.height:
                raise NotFoundError(f"no block at height {request.height} yet")
            (block,) = await block_messages(self._projection, [row])
        return ledger_pb2.GetBlockResponse(block=block)

    async def ListBlocks(self, request: ledger_pb2.ListBlocksRequest, context: Any) -> ledger_pb2.ListBlocksResponse:
        _called(request, context, "ListBlocks")
        count = request.page_size or DEFAULT_PAGE
        if count > MAX_PAGE:
            raise _invalid("page_size", f"{count}, at most {MAX_PAGE}")
        if request.from_height > self._node.committed_height:  # perhaps beyond what a database can compare
            return ledger_pb2.ListBlocksResponse()
        async with _reading():
            rows = await self._projection.blocks(request.from_height, count)
            return ledger_pb2.ListBlocksResponse(blocks=await block_messages(self._projection, rows))

    async def GetSettlement(
        self, request: ledger_pb2.GetSettlementRequest, context: Any
    ) -> ledger_pb2.GetSettlementResponse:
        caller = _called(request, context, "GetSettlement")
        try:
            claim_ref = claim_ref_of(request.control_number)
        except ValueError as error:
            raise _invalid("control_number", str(error)) from error
        async with _reading():
            row = await self._projection.latest_of(claim_ref, "" if reads_all(caller) else caller.organisation)
        if row is None:
            raise NotFoundError("there is no such settlement")
        proof = self._node.ledger.prove(row.leaf, bytes(row.body))
        if proof is None:
            raise FailedPreconditionError("executed and not yet proven: no committed header covers it")
        return ledger_pb2.GetSettlementResponse(proof=proof)

    async def SubscribeSettlements(
        self, request: ledger_pb2.SubscribeSettlementsRequest, context: Any
    ) -> AsyncIterator[ledger_pb2.SubscribeSettlementsResponse]:
        caller = _called(request, context, "SubscribeSettlements")
        leaf = _leaf_after(request.cursor)
        self.subscriptions.admit(caller.organisation, context)
        wanted = partial(may_read, caller)
        while True:
            async with _reading():
                proven, following = await self._results.proven(leaf, SUBSCRIBE_ROWS, wanted, SUBSCRIBE_BYTES)
            for item in proven:
                proof = ledger_pb2.SettlementProof.FromString(item.proof)
                yield ledger_pb2.SubscribeSettlementsResponse(cursor=str(item.leaf), proof=proof)
            if following == leaf:
                await self._results.wait(SUBSCRIBE_WAIT_S)
            else:
                await asyncio.sleep(0)  # pages of others' results must not keep the loop from consensus
            leaf = following


@asynccontextmanager
async def _reading() -> AsyncIterator[None]:
    """Raises UnavailableError where the projection's database is away."""
    try:
        yield
    except SQLAlchemyError as error:
        get_logger("ledger").warning("database_away", type=root_type(error))
        raise UnavailableError("results cannot be read", reason="STORE", retry_after_ms=1_000) from error


def _called(request: Any, context: Any, rpc: str) -> Identity:
    """Who calls. Raises PermissionDeniedError for a role that may not, InvalidArgumentError for fields that nobody knows."""
    caller = identity_of(context)
    require(caller, rpc)
    refuse_unknown_fields(request)
    return caller


def _leaf_after(cursor: str) -> int:
    if not cursor:
        return 0
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise _invalid("cursor", f"{cursor!r} is no cursor of this service")
    return int(cursor) + 1


def _invalid(field: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field}: {why}", violations=[Violation(field, why)])
