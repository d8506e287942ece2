"""From the outbox to Kafka, at least once.

What was just accepted comes from memory; what does not (a restart, a lease run out, an overdue claim, a backlog) is read
back from the database and opened from its envelope. A row leaves the outbox only after the broker has confirmed its
record, so the relay may die between any two steps: its successor sends again what was not marked.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka.errors import KafkaError
from sqlalchemy.exc import SQLAlchemyError

from claim_intake.batching import Emission, emission_of, received_records, submitted_records
from claim_intake.envelope import EnvelopeError, unseal
from claim_intake.group_commit import Accepted, GroupCommit
from claim_intake.keyring import KeyRing
from claim_intake.patience import patiently
from claim_intake.store import outbox
from claim_intake.store.database import Database
from claim_intake.store.outbox import StoredClaim
from claims.claim import ACCEPTED_CLAIM, AcceptedClaim
from claims.encoding import DecodeError
from runtime.database import root_type
from runtime.kafka import SealingProducer
from runtime.log import get_logger
from runtime.metrics import CLAIMS_OVERDUE, OUTBOX_ROWS
from runtime.process import run_together
from runtime.rate import Rate

MEMORY_LIMIT: Final = 10_000
"""Claims in hand; what goes beyond waits in the database alone."""
FLUSH_LIMIT: Final = 4_000
"""Claims in one flush."""
IDLE_LINGER_S: Final = 0.002
LINGER_S: Final = (0.1, 0.3)
"""The longest wait while little comes, and from BUSY_RATE on, where the machine has better to do than many records."""
BUSY_RATE: Final = 400
"""Claims a second that share a record."""
GOOD_RECORD: Final = 128
"""Claims with which what a record costs for itself, two signatures to be checked by every replica, no longer counts."""
WORTH_WAITING: Final = 2
"""Claims that a record must gain by the longest wait, else nothing is waited for."""
RATE_MEMORY_S: Final = 0.5
SCAN_SECONDS: Final = 0.25
SCAN_LIMIT: Final = 1_000
COUNT_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 1.0
STOP_SECONDS: Final = 5.0
RowKey = tuple[int, int]


@dataclass(frozen=True, slots=True)
class RelayTimes:
    """Milliseconds: a relay holds a row for `lease_ms` before another may take it."""

    lease_ms: int = 10_000


@dataclass(slots=True)
class Linger:
    """How long a flush waits for company: not at all when idle, so long under load that records become good ones."""

    seconds: float = IDLE_LINGER_S
    _claims: Rate = field(default_factory=lambda: Rate(RATE_MEMORY_S))

    def flushed(self, claims: int, records: int, now: float) -> None:
        """Takes in a flush of so many claims in so many records at a moment in seconds."""
        self._claims.add(claims, now)
        rate_of_record = self._claims.per_s / max(1, records)
        least_s, most_s = LINGER_S
        longest_s = least_s + (most_s - least_s) * min(1.0, rate_of_record / BUSY_RATE)
        if rate_of_record * longest_s < WORTH_WAITING:
            self.seconds = IDLE_LINGER_S
        else:
            self.seconds = max(IDLE_LINGER_S, min(longest_s, GOOD_RECORD / rate_of_record))


class Relay:
    """Sends the outbox. `make_producer` gives a fresh, unstarted producer; after an error it is asked again.

    `ready` is awaited before each connection: it returns when the topics, whose names begin with `topic_prefix`, may be
    written to.
    """

    def __init__(
        self,
        database: Database,
        keys: KeyRing,
        make_producer: Callable[[], SealingProducer],
        buckets: int,
        clock_ms: Callable[[], int],
        times: RelayTimes | None = None,
        ready: Callable[[], Awaitable[None]] | None = None,
        topic_prefix: str = "",
    ) -> None:
        self._database = database
        self._keys = keys
        self._make_producer = make_producer
        self._buckets = buckets
        self._clock_ms = clock_ms
        self._times = times or RelayTimes()
        self._ready = ready
        self._topic_prefix = topic_prefix
        self._waiting: deque[Emission] = deque()
        self._in_hand: set[RowKey] = set()
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._linger_for = Linger()
        self._connected = False
        self._log = get_logger("relay")
        self.writer: GroupCommit | None = None
        """Set once both exist; takes the confirmed rows."""

    def offer(self, accepted: Sequence[Accepted]) -> None:
        """Takes what was just made durable, as far as there is room; the rest is found by the next scan."""
        room = MEMORY_LIMIT - len(self._in_hand)
        for item in accepted[: max(0, room)]:
            self._take(emission_of(item.claim_id, item.candidate))

    @property
    def in_hand(self) -> int:
        """Claims in memory that are not yet confirmed."""
        return len(self._in_hand)

    async def settle(self, seconds: float) -> None:
        """Waits until nothing is in hand, at most so long, if a broker is there; what remains is sent after the next start."""
        if not self._connected:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()

    async def run(self) -> None:
        """Sends and scans until cancelled, or until one of the two fails."""
        await run_together(self._send_forever(), self._scan_forever())

    async def _send_forever(self) -> None:
        """Waits where the broker is away or a topic's key cannot be used, while claims go on being accepted."""
        await patiently(self._send_connected, self._log, told=lambda: {"waiting": len(self._in_hand)})

    async def _send_connected(self) -> None:
        if self._ready is not None:
            await self._ready()
        producer = self._make_producer()
        try:
            await producer.producer.start()
            self._log.info("relay_connected")
            self._connected = True
            while True:
                await self._linger()
                await self._flush(producer)
        finally:
            self._connected = False
            await _stop(producer)

    async def _linger(self) -> None:
        if not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        await asyncio.sleep(self._linger_for.seconds)

    async def _flush(self, producer: SealingProducer) -> None:
        """Sends what waits and hands the confirmed rows to the writer; what fails waits again."""
        taken = [self._waiting.popleft() for _ in range(min(FLUSH_LIMIT, len(self._waiting)))]
        records = list(submitted_records(taken, self._topic_prefix))
        self._linger_for.flushed(len(taken), len(records), asyncio.get_running_loop().time())
        outs = [record.out for record in records]
        outs += received_records(taken, self._buckets, self._topic_prefix)
        try:
            await producer.send_all(outs, self._clock_ms())
        except BaseException:
            self._waiting.extendleft(reversed(taken))
            raise
        self._done(row for record in records for row in record.rows)
        _count_repeats(taken)

    def _done(self, rows: Iterable[RowKey]) -> None:
        assert self.writer is not None
        finished = list(rows)
        self._in_hand.difference_update(finished)
        if not self._in_hand:
            self._empty.set()
        self.writer.finish(finished)

    async def _scan_forever(self) -> None:
        """Waits where the database is away."""
        while True:
            try:
                await self._scan_connected()
            except SQLAlchemyError as error:
                self._log.warning("database_away", type=root_type(error), waiting=len(self._in_hand))
                await asyncio.sleep(PAUSE_SECONDS)

    async def _scan_connected(self) -> None:
        counted = 0.0
        while True:
            found = await self._scan()
            if (now := asyncio.get_running_loop().time()) - counted > COUNT_SECONDS:
                counted = now
                await self._count()
            await asyncio.sleep(SCAN_SECONDS if found < SCAN_LIMIT else 0)

    async def _count(self) -> None:
        """Counts the outbox: the keeper, another process, puts overdue claims into it as well."""
        assert self.writer is not None
        async with self._database.reading() as connection:
            self.writer.outbox_rows = await outbox.size(connection)
        OUTBOX_ROWS.set(self.writer.outbox_rows)

    async def _scan(self) -> int:
        """Takes free rows from the database while there is room. Returns how many it took."""
        room = min(SCAN_LIMIT, MEMORY_LIMIT - len(self._in_hand))
        if room <= 0:
            return 0
        now_ms = self._clock_ms()
        async with self._database.reading() as connection:
            if not await outbox.lease_wanted(connection, now_ms):
                return 0
        async with self._database.writing() as connection:
            keys = await outbox.lease(connection, now_ms, now_ms + self._times.lease_ms, room)
        fresh = [key for key in keys if key not in self._in_hand]
        async with self._database.reading() as connection:
            stored = await outbox.load(connection, fresh)
        for claim in stored:
            self._take_stored(claim)
        return len(keys)

    def _take_stored(self, claim: StoredClaim) -> None:
        try:
            self._take(reopened(claim, self._keys))
        except (EnvelopeError, DecodeError) as error:
            self._log.error("envelope_does_not_open", claim_id=claim.claim_id, reason=str(error))

    def _take(self, emission: Emission) -> None:
        self._in_hand.add((emission.claim_id, emission.attempt))
        self._waiting.append(emission)
        self._empty.clear()
        self._wake.set()


def reopened(claim: StoredClaim, keys: KeyRing) -> Emission:
    """A stored claim as it is sent, from its envelope. Raises EnvelopeError."""
    key = keys.opened(claim.wrapping_key, claim.payer, claim.submitter, claim.wraps)
    canonical, salt = unseal(claim.envelope, claim.key_wrap, claim.claim_ref, claim.version, key)
    accepted = AcceptedClaim(
        claim.claim_ref, claim.version, claim.submitter, claim.received_day, salt, claim.envelope_digest, canonical
    )
    return Emission(
        claim.claim_id, claim.attempt, claim.claim_ref, claim.version, claim.submitter, claim.payer, claim.bucket,
        claim.received_ms, ACCEPTED_CLAIM.encode(accepted),
    )  # fmt: skip


def _count_repeats(taken: Sequence[Emission]) -> None:
    for emission in taken:
        if emission.attempt > 1:
            CLAIMS_OVERDUE.labels(str(min(emission.attempt, 10))).inc()


async def _stop(producer: Any) -> None:
    """Stops a producer, with a bound: one whose broker is gone would wait for it."""
    try:
        await asyncio.wait_for(producer.producer.stop(), STOP_SECONDS)
    except (TimeoutError, KafkaError):
        get_logger("relay").warning("producer_not_stopped_cleanly")
