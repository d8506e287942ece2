"""One writer for everything that intake accepts: concurrent batches share a transaction, and so an fsync.

While one transaction is on its way to the disk, further batches gather; the next transaction takes them all. Outbox
rows that the broker has confirmed are removed along with it, so the relay costs no fsync of its own under load.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from claim_intake.intake import Verdict
from claim_intake.store.accepting import Candidate, Decision, accept, finish
from claim_intake.store.database import Database
from runtime.database import root_type
from runtime.log import get_logger

MAX_CLAIMS: Final = 2_000
"""Claims in one transaction."""
MAX_WAITING: Final = 20_000
"""Claims that may wait for the writer."""
LOADED_CLAIMS: Final = 50
GATHER_S_PER_CLAIM: Final = 0.001
LONGEST_GATHER_S: Final = 0.1
"""After a transaction of at least LOADED_CLAIMS the next one waits for company, the longer the larger that one was: each costs two
syncs, and the projector's process its cached pages (ADR 0015)."""
IDLE_FINISH_SECONDS: Final = 0.1
"""How long confirmed rows wait for a transaction to ride on."""
PAUSE_SECONDS: Final = 0.5
"""After a failed transaction; what is handed in meanwhile waits so long for its answer."""


class OutboxFullError(Exception):
    """No more claims can be taken until some have been sent on. `retry_after_ms` is when to ask again."""

    def __init__(self, retry_after_ms: int) -> None:
        super().__init__("the outbox is full: claims are not being sent on fast enough")
        self.retry_after_ms = retry_after_ms


class StoreFailedError(Exception):
    """The transaction failed or its commit was not confirmed: nothing of it counts as accepted, and its keys tell a repeat."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A claim that this transaction made durable."""

    claim_id: int
    candidate: Candidate


@dataclass(slots=True)
class _Batch:
    candidates: Sequence[Candidate]
    done: asyncio.Future[list[Decision]]


class GroupCommit:
    """The writer. `on_accepted` gets what became durable, right after the commit."""

    def __init__(
        self,
        database: Database,
        on_accepted: Callable[[list[Accepted]], None],
        clock_ms: Callable[[], int],
        *,
        outbox_limit: int,
        lease_ms: int,
        overdue_ms: int,
    ) -> None:
        self._database = database
        self._on_accepted = on_accepted
        self._clock_ms = clock_ms
        self._outbox_limit = outbox_limit
        self._lease_ms = lease_ms
        self._overdue_ms = overdue_ms
        self._batches: deque[_Batch] = deque()
        self._finished: list[tuple[int, int]] = []
        self._wake = asyncio.Event()
        self._waiting = 0
        self._log = get_logger("group_commit")
        self.outbox_rows = 0
        """Claims that wait to be sent, as this process knows it."""

    async def submit(self, candidates: Sequence[Candidate]) -> list[Decision]:
        """Returns once the decisions are durable. Raises OutboxFullError or StoreFailedError for the whole batch."""
        room = self._outbox_limit - self.outbox_rows - self._waiting
        if len(candidates) > room or self._waiting + len(candidates) > MAX_WAITING:
            raise OutboxFullError(retry_after_ms=1_000)
        done: asyncio.Future[list[Decision]] = asyncio.get_running_loop().create_future()
        self._waiting += len(candidates)
        self._batches.append(_Batch(candidates, done))
        self._wake.set()
        return await done

    def finish(self, sent: Sequence[tuple[int, int]]) -> None:
        """Notes outbox rows that the broker has confirmed; they are removed with the next transaction."""
        self._finished.extend(sent)
        self._wake.set()

    async def run(self) -> None:
        """Writes until cancelled; where the database is away, what waits is refused and later claims are tried again."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._batches:
                await self._wait_for_company()
            while self._batches or self._finished:
                if (claims := await self._write()) >= LOADED_CLAIMS:
                    await asyncio.sleep(min(LONGEST_GATHER_S, claims * GATHER_S_PER_CLAIM))

    async def _wait_for_company(self) -> None:
        """Confirmed rows alone are not worth an fsync at once."""
        try:
            async with asyncio.timeout(IDLE_FINISH_SECONDS):
                while not self._batches:
                    await self._wake.wait()
                    self._wake.clear()
        except TimeoutError:
            return

    async def _write(self) -> int:
        """One transaction; returns how many claims it held."""
        batches = self._take()
        finished, self._finished = self._finished, []
        candidates = [c for batch in batches for c in batch.candidates]
        try:
            decisions = await self._transaction(candidates, finished)
        except SQLAlchemyError as error:
            self._log.warning("database_away", type=root_type(error), refused=len(candidates))
            self._fail(batches, finished, error)
            await asyncio.sleep(PAUSE_SECONDS)
            return 0
        finally:
            self._waiting -= len(candidates)
        self._answer(batches, candidates, decisions)
        return len(candidates)

    def _take(self) -> list[_Batch]:
        """The next batches, up to MAX_CLAIMS, at least one where there is one."""
        taken: list[_Batch] = []
        size = 0
        while self._batches and (not taken or size + len(self._batches[0].candidates) <= MAX_CLAIMS):
            batch = self._batches.popleft()
            taken.append(batch)
            size += len(batch.candidates)
        return taken

    async def _transaction(self, candidates: list[Candidate], finished: list[tuple[int, int]]) -> list[Decision]:
        now_ms = self._clock_ms()
        decisions: list[Decision] = []
        async with self._database.writing() as connection:
            if candidates:
                decisions = await accept(connection, candidates, now_ms + self._lease_ms, now_ms + self._overdue_ms)
            await finish(connection, finished)
        self.outbox_rows = max(0, self.outbox_rows - len(finished))
        return decisions

    def _fail(self, batches: list[_Batch], finished: list[tuple[int, int]], error: SQLAlchemyError) -> None:
        self._finished = finished + self._finished
        for batch in batches:
            if not batch.done.done():
                batch.done.set_exception(StoreFailedError(root_type(error)))
        self._wake.set()

    def _answer(self, batches: list[_Batch], candidates: list[Candidate], decisions: list[Decision]) -> None:
        accepted = [
            Accepted(decision.claim_id, candidate)
            for decision, candidate in zip(decisions, candidates, strict=True)
            if decision.verdict is Verdict.NEW
        ]
        self.outbox_rows += len(accepted)
        at = 0
        for batch in batches:
            until = at + len(batch.candidates)
            if not batch.done.done():  # its caller may have gone; what it handed in stays accepted
                batch.done.set_result(decisions[at:until])
            at = until
        if accepted:
            self._on_accepted(accepted)
