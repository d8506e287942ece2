"""A patient submitter: streams batches to intake, and after a lost connection sends again what was not answered.

Every claim carries an idempotency key, so sending again is safe: it gets the answer it would have had. What intake has
no room for is tried again after the time that it names.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from cli.session import Session

MOST_IN_BATCH: Final = 500
QUEUED_BATCHES: Final = 32
RECONNECT_S: Final = 0.3
_PASSING: Final = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN,
                   grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED}  # fmt: skip

Batch = Sequence[intake_pb2.SubmitClaimRequest]
Answered = Callable[[intake_pb2.SubmitClaimRequest, intake_pb2.ClaimAnswer], None]


@dataclass(slots=True)
class Submitter:
    """One organisation's stream. `put` batches, `close` at the end; `run` carries them until all are answered."""

    session: Session
    answered: Answered
    _queue: deque[Batch] = field(default_factory=deque)
    _unanswered: deque[Batch] = field(default_factory=deque)
    """Of streams that have ended; they go first in the next one."""
    _sent: deque[Batch] = field(default_factory=deque)
    """Of the stream that runs now, whose requests know themselves by it."""
    _more: asyncio.Event = field(default_factory=asyncio.Event)
    _room: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: bool = False

    async def put(self, batch: Batch) -> None:
        """Waits while too many batches are waiting, so an overloaded intake slows the sender."""
        while len(self._queue) >= QUEUED_BATCHES:
            self._room.clear()
            await self._room.wait()
        self._queue.append(batch)
        self._more.set()

    async def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._more.set()

    async def run(self) -> None:
        """Raises grpc.RpcError where trying again cannot help."""
        async with self.session.intake_channel() as channel:
            stub = intake_pb2_grpc.IntakeServiceStub(channel)
            while not self._closed or self._queue or self._unanswered:
                try:
                    await self._stream(stub)
                except grpc.aio.AioRpcError as error:
                    if error.code() not in _PASSING:
                        raise
                    await asyncio.sleep(RECONNECT_S)

    async def _stream(self, stub: Any) -> None:
        again, self._unanswered = self._unanswered, deque()
        sent = self._sent = deque()
        call = stub.SubmitClaims(self._requests(again, sent))
        try:
            async for response in call:
                batch = sent.popleft()
                wait_ms = self._deliver(batch, response.answers)
                if wait_ms:
                    await asyncio.sleep(wait_ms / 1000)
        finally:
            call.cancel()
            self._sent = deque()
            self._unanswered.extend([*sent, *again])

    async def _requests(self, again: deque[Batch], sent: deque[Batch]) -> AsyncIterator[intake_pb2.SubmitClaimsRequest]:
        sequence = 0
        while (batch := await self._next(again, sent)) is not None:
            sequence += 1
            sent.append(batch)
            yield intake_pb2.SubmitClaimsRequest(sequence=sequence, claims=batch)

    async def _next(self, again: deque[Batch], sent: deque[Batch]) -> Batch | None:
        """The stream's next batch. The requests of a stream that has ended may outlive it for a while: they get nothing,
        since nobody would learn what they took."""
        while sent is self._sent:
            if again:
                return again.popleft()
            if self._queue:
                self._room.set()
                return self._queue.popleft()
            if self._closed:
                return None
            self._more.clear()
            await self._more.wait()
        return None

    def _deliver(self, batch: Batch, answers: Sequence[intake_pb2.ClaimAnswer]) -> int:
        """Passes the answers on; what may come again is kept. Returns how long to wait before that, in ms."""
        put_off, wait_ms = [], 0
        for request, answer in zip(batch, answers, strict=True):
            if answer.error.retry_after_ms:
                put_off.append(request)
                wait_ms = max(wait_ms, answer.error.retry_after_ms)
            else:
                self.answered(request, answer)
        if put_off:
            self._unanswered.append(put_off)
        return wait_ms


async def cancelled(task: "asyncio.Task[Any]") -> None:
    """Ends a task and waits for its end."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
