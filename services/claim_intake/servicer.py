"""IntakeService over gRPC. Who calls is read from the certificate; everything else is handed on."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from claim_intake import answers
from claim_intake.acceptance import Acceptance
from claim_intake.access import require
from claim_intake.cursors import position, token
from claim_intake.group_commit import GroupCommit, OutboxFullError, StoreFailedError
from claim_intake.intake import Verdict
from claim_intake.store.accepting import Candidate, Decision
from claim_intake.store.database import Database
from claim_intake.store.reading import events_after, find, page
from claim_intake.tail import EventTail
from claim_intake.wire import NO_CONTROL_NUMBER, Findings, unknown_fields
from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from claims.finding import Finding
from claims.identifiers import claim_ref_of
from claims.status import Status
from runtime.database import root_type
from runtime.errors import InvalidArgumentError, NotFoundError, RpcError, UnavailableError, Violation
from runtime.identity import identity_of
from runtime.log import get_logger
from runtime.metrics import CLAIMS_ACCEPTED, CLAIMS_REFUSED
from runtime.stream_limits import StreamLimits
from runtime.turns import Turns

MAX_BATCH: Final = 500
"""Claims in one message of SubmitClaims."""
MAX_BATCHES_IN_HAND: Final = 16
"""Batches of one stream that are read and not yet answered; then reading stops, and so does the sender."""
SLICE_S: Final = 0.01
"""For so long reading a batch holds the loop; a whole one of MAX_BATCH takes ten times as long."""
STREAMS_OF_ONE: Final = 16
"""Of one organisation at one time, SubmitClaims and TrackClaims together."""
STREAMS: Final = 128
"""Of all organisations at one time: below what a connection may have, so that unary calls find room beside them."""
MAX_PAGE: Final = 500
DEFAULT_PAGE: Final = 100

Request = intake_pb2.SubmitClaimsRequest
Response = intake_pb2.SubmitClaimsResponse
_Answer = asyncio.Task[Response]


class IntakeServicer(intake_pb2_grpc.IntakeServiceServicer):
    def __init__(self, acceptance: Acceptance, writer: GroupCommit, database: Database, tail: EventTail) -> None:
        self._acceptance = acceptance
        self._writer = writer
        self._database = database
        self._tail = tail
        self.streams = StreamLimits(STREAMS_OF_ONE, STREAMS)

    async def SubmitClaim(  # noqa: N802  the service's own name
        self, request: intake_pb2.SubmitClaimRequest, context: Any
    ) -> intake_pb2.SubmitClaimResponse:
        caller = identity_of(context)
        require(caller, "SubmitClaim")
        candidate = self._acceptance.candidate(caller.organisation, request)
        if isinstance(candidate, list):
            CLAIMS_REFUSED.labels("malformed").inc()
            raise answers.error_of(candidate)
        (decision,) = await self._decide([candidate])
        if decision.verdict is Verdict.CONFLICT:
            raise answers.error_of(decision)
        return intake_pb2.SubmitClaimResponse(accepted=answers.accepted(decision))

    async def SubmitClaims(  # noqa: N802
        self, requests: AsyncIterator[Request], context: Any
    ) -> AsyncIterator[Response]:
        """Answers batch by batch in their order, while up to MAX_BATCHES_IN_HAND are on their way to the disk."""
        caller = identity_of(context)
        require(caller, "SubmitClaims")
        self.streams.admit(caller.organisation, context)
        in_hand: asyncio.Queue[_Answer | RpcError | None] = asyncio.Queue(MAX_BATCHES_IN_HAND)
        reader = asyncio.create_task(self._read(caller.organisation, requests, in_hand))
        try:
            while (item := await in_hand.get()) is not None:
                if isinstance(item, RpcError):
                    raise item
                yield await item
            await reader
        finally:
            reader.cancel()

    async def _read(
        self, organisation: str, requests: AsyncIterator[Request], in_hand: asyncio.Queue[_Answer | RpcError | None]
    ) -> None:
        expected = 1
        async for request in requests:
            problem = _batch_problem(request, expected)
            if problem is not None:
                await in_hand.put(problem)
                return
            await in_hand.put(asyncio.create_task(self._answer_batch(organisation, request)))
            expected += 1
        await in_hand.put(None)

    async def _answer_batch(self, organisation: str, request: Request) -> Response:
        read = await self._read_claims(organisation, request.claims)
        candidates = [item for item in read if isinstance(item, Candidate)]
        try:
            decisions = iter(await self._decide(candidates)) if candidates else iter(())
        except RpcError as error:  # the whole batch, but every claim has its own answer
            lost = answers.failed(error)
            given = [answers.failed(answers.error_of(i)) if isinstance(i, list) else lost for i in read]
        else:
            given = [_answer(item, decisions) for item in read]
        _count_refused(read)
        return Response(acked_sequence=request.sequence, sequence=request.sequence, answers=given)

    async def _read_claims(
        self, organisation: str, claims: Sequence[intake_pb2.SubmitClaimRequest]
    ) -> list[Candidate | list[Finding]]:
        read, turns = [], Turns(SLICE_S)
        for claim in claims:
            read.append(self._acceptance.candidate(organisation, claim))
            await turns.give()
        return read

    async def _decide(self, candidates: Sequence[Candidate]) -> list[Decision]:
        """Returns once the decisions are durable. Raises what the caller is to be told."""
        try:
            decisions = await self._writer.submit(candidates)
        except OutboxFullError as error:
            CLAIMS_REFUSED.labels("outbox_full").inc(len(candidates))
            raise answers.error_of(error) from None
        except StoreFailedError as error:
            raise UnavailableError("the claim could not be stored", reason="STORE", retry_after_ms=1_000) from error
        _count_accepted(candidates, decisions)
        return decisions

    async def GetClaim(  # noqa: N802
        self, request: intake_pb2.GetClaimRequest, context: Any
    ) -> intake_pb2.GetClaimResponse:
        caller = identity_of(context)
        require(caller, "GetClaim")
        _refuse_unknown(request)
        claim_ref = _claim_ref(request.control_number)
        async with self._reading() as connection:
            stored = await find(connection, claim_ref, caller.organisation)
        if stored is None:
            raise NotFoundError("there is no such claim")
        return intake_pb2.GetClaimResponse(claim=answers.view(stored))

    async def ListClaims(  # noqa: N802
        self, request: intake_pb2.ListClaimsRequest, context: Any
    ) -> intake_pb2.ListClaimsResponse:
        caller = identity_of(context)
        require(caller, "ListClaims")
        _refuse_unknown(request)
        size = _page_size(request.page_size)
        after = position("claims", request.page_token, "page_token")
        statuses = _statuses(request.statuses)
        async with self._reading() as connection:
            views, following = await page(connection, caller.organisation, after, size, statuses)
        return intake_pb2.ListClaimsResponse(
            claims=[answers.view(v) for v in views],
            next_page_token="" if following is None else token("claims", following),
        )

    async def TrackClaims(  # noqa: N802
        self, request: intake_pb2.TrackClaimsRequest, context: Any
    ) -> AsyncIterator[intake_pb2.TrackClaimsResponse]:
        """Everything after the cursor, then what comes, until the caller leaves."""
        caller = identity_of(context)
        require(caller, "TrackClaims")
        _refuse_unknown(request)
        at = position("events", request.cursor, "cursor")
        claim_ref = _claim_ref(request.control_number) if request.control_number else None
        if claim_ref is not None:
            await self._must_exist(claim_ref, caller.organisation)
        self.streams.admit(caller.organisation, context)
        while True:
            async with self._reading() as connection:
                events, until = await events_after(connection, at, caller.organisation, claim_ref)
            for event_id, event in events:
                yield answers.tracked(token("events", event_id), event)
            if until == at:
                await self._tail.wait_beyond(at)
            at = until

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        """Raises UnavailableError where the database is away."""
        try:
            async with self._database.reading() as connection:
                yield connection
        except SQLAlchemyError as error:
            get_logger("intake").warning("database_away", type=root_type(error))
            raise UnavailableError("claims cannot be read", reason="STORE", retry_after_ms=1_000) from error

    async def _must_exist(self, claim_ref: bytes, organisation: str) -> None:
        async with self._reading() as connection:
            if await find(connection, claim_ref, organisation) is None:
                raise NotFoundError("there is no such claim")


def _answer(item: Candidate | list[Finding], decisions: Any) -> intake_pb2.ClaimAnswer:
    """The answer of one claim: its findings, or the next decision."""
    return answers.failed(answers.error_of(item)) if isinstance(item, list) else answers.answer(next(decisions))


def _batch_problem(request: Request, expected: int) -> RpcError | None:
    """Why a batch cannot be answered claim by claim; it ends the stream."""
    out = Findings()
    if request.sequence != expected:
        message = f"is {request.sequence} where {expected} follows"
        return InvalidArgumentError(f"sequence {message}", violations=[Violation("sequence", message)])
    if not 1 <= len(request.claims) <= MAX_BATCH:
        message = f"{len(request.claims)} claims where 1 to {MAX_BATCH} are allowed"
        return InvalidArgumentError(message, violations=[Violation("claims", message)])
    unknown_fields(request, "", out, deep=False)
    return answers.error_of(out.found) if out.found else None


def _refuse_unknown(request: Any) -> None:
    out = Findings()
    unknown_fields(request, "", out)
    if out.found:
        raise answers.error_of(out.found)


def _claim_ref(control_number: str) -> bytes:
    try:
        return claim_ref_of(control_number)
    except ValueError:
        raise InvalidArgumentError(
            f"control_number {NO_CONTROL_NUMBER}", violations=[Violation("control_number", NO_CONTROL_NUMBER)]
        ) from None


def _page_size(asked: int) -> int:
    if asked <= MAX_PAGE:
        return asked or DEFAULT_PAGE
    message = f"{asked} where 0 to {MAX_PAGE} are allowed"
    raise InvalidArgumentError(f"page_size: {message}", violations=[Violation("page_size", message)])


def _statuses(asked: Sequence[int]) -> list[Status]:
    if len(asked) > len(Status):
        message = f"{len(asked)} where at most {len(Status)} are allowed"
        raise InvalidArgumentError(f"statuses: {message}", violations=[Violation("statuses", message)])
    return [_status(value, i) for i, value in enumerate(asked)]


def _status(value: int, index: int) -> Status:
    try:
        return Status(value)
    except ValueError:
        message = f"has no meaning for {value}"
        raise InvalidArgumentError(
            f"statuses: {message}", violations=[Violation(f"statuses[{index}]", message)]
        ) from None


def _count_accepted(candidates: Sequence[Candidate], decisions: Sequence[Decision]) -> None:
    counts: dict[str, int] = {}
    for candidate, decision in zip(candidates, decisions, strict=True):
        if decision.verdict is Verdict.NEW:
            counts[candidate.payer] = counts.get(candidate.payer, 0) + 1
    for payer, count in counts.items():
        CLAIMS_ACCEPTED.labels(payer).inc(count)


def _count_refused(read: Sequence[Candidate | list[Finding]]) -> None:
    malformed = sum(isinstance(item, list) for item in read)
    if malformed:
        CLAIMS_REFUSED.labels("malformed").inc(malformed)
