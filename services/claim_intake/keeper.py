"""Keeps every accepted claim open until its end has been verified, and sends again what is overdue.

Kafka and its consumer groups are transport, not trust: a member can acknowledge a claim and drop it. So intake, which
promised durability, looks for the end of each claim itself.

Source: architecture.md, Delivery; claims.md, Status.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from claim_intake.backlog import Backlog
from claim_intake.evidence import (
    Settlement,
    SignedRejection,
    Verify,
    read_rejection,
    read_settlement,
    rejected,
    settled,
)
from claim_intake.intake import retry_delay_ms
from claim_intake.patience import patiently
from claim_intake.reader import POLL_RECORDS, OffsetReader, Poll, Source
from claim_intake.resting import rest_s
from claim_intake.store import keeping
from claim_intake.store.database import Database
from claim_intake.store.keeping import Duty, Evidence
from claim_intake.store.projecting import load_offsets, save_offsets
from claim_intake.wiring import Ground
from runtime.kafka import SealingProducer, make_producer
from runtime.log import get_logger
from runtime.metrics import STAGE_LAST_ACK, STAGE_RECORDS
from runtime.publishing_cursor import wait_for_own_topics
from runtime.stage import DataError
from runtime.topic_keys import SealedValueError
from runtime.topics import REJECTED, SETTLEMENTS, NamedTopic

NAME: Final = "claim-intake-keeper"
PARTY: Final = "party"
SUBMITTER: Final = b"submitter"
POLL_MS: Final = 200
LONGEST_TURN_S: Final = 0.005
"""On the loop; the first proof of a certificate takes milliseconds."""
OVERDUE_CHECK_S: Final = 0.5
OVERDUE_LIMIT: Final = 500
SUBMITTERS_CHECK_S: Final = 1.0
_Document = Settlement | SignedRejection
_Dead = tuple[Any, DataError | SealedValueError]


class Keeper:
    """Reads ends and watches the clock. `verify` is the stand-alone verifier, bound to the genesis."""

    def __init__(self, ground: Ground, verify: Verify, clock_ms: Callable[[], int]) -> None:
        self._ground = ground
        self._verify = verify
        self._clock_ms = clock_ms
        self._backlog = Backlog()
        self._log = get_logger("keeper")

    async def run(self) -> None:
        """Keeps until cancelled; waits where the broker is away. Raises SQLAlchemyError where the database is."""
        await patiently(self._read_forever, self._log)

    async def watch(self) -> None:
        """Sends overdue claims again, until cancelled. Raises SQLAlchemyError where the database is away."""
        while True:
            await asyncio.sleep(OVERDUE_CHECK_S)
            while await self.send_overdue() == OVERDUE_LIMIT:
                pass

    async def send_overdue(self) -> int:
        """Puts what is overdue now into the outbox with the next attempt. Returns how many."""
        now_ms = self._clock_ms()
        settings = self._ground.settings
        async with self._ground.database.reading() as connection:
            late = await keeping.overdue(connection, now_ms - self._backlog.delay_ms(now_ms), OVERDUE_LIMIT)
        if not late:
            return 0
        first, cap = settings.intake_overdue_ms, settings.intake_overdue_cap_ms
        again = [(o, now_ms + retry_delay_ms(o.attempt + 1, first, cap)) for o in late]
        async with self._ground.database.writing() as connection:
            await keeping.send_again(connection, again)
        self._log.warning("claims_overdue", count=len(late), most_attempts=max(o.attempt for o in late) + 1)
        return len(late)

    async def _read_forever(self) -> None:
        ground = self._ground
        network = ground.network
        await wait_for_own_topics(ground.kafka, network)
        rejections = [network.topic(REJECTED, payer) for payer in network.payers]
        source = Source(rejections, network.buckets)
        reader = OffsetReader(NAME, ground.kafka, ground.topic_keys, source, read_committed=True)
        producer = SealingProducer(make_producer(ground.kafka, NAME), ground.topic_keys, NAME)
        async with ground.database.reading() as connection:
            offsets = await load_offsets(connection, NAME)
        async with producer as dead_letters:
            try:
                await reader.start(offsets)
                self._log.info("keeper_connected", partitions=len(rejections) * source.partitions)
                submitters = _Submitters(o.id for o in network.organisations)
                while True:
                    if came := await submitters.that_came(ground.database):
                        await reader.widen([network.topic(SETTLEMENTS, o) for o in came], offsets)
                    taken = await self._round(reader, dead_letters)
                    await asyncio.sleep(rest_s(taken, POLL_RECORDS))
            finally:
                await reader.stop()

    async def _round(self, reader: OffsetReader, dead_letters: SealingProducer) -> int:
        """Verifies what came, and writes evidence and offsets in one transaction."""
        poll = await reader.poll(POLL_MS)
        if not poll.records:
            return 0
        dead: list[_Dead] = []
        documents = self._documents(reader, poll, dead)
        evidence = await self._evidence(documents, dead)
        await reader.bury(dead, dead_letters, self._clock_ms())
        now_ms = self._clock_ms()
        async with self._ground.database.writing() as connection:
            await keeping.record(connection, evidence, now_ms)
            await save_offsets(connection, NAME, poll.offsets)
        self._backlog.ended([now_ms - e.duty.received_ms for e in evidence if e.duty.is_first_end], now_ms)
        STAGE_RECORDS.labels(NAME, SETTLEMENTS.suffix).inc(len(poll.records))
        STAGE_LAST_ACK.labels(NAME).set(time.time())
        return len(poll.records)

    def _documents(self, reader: OffsetReader, poll: Poll, dead: list[_Dead]) -> list[tuple[Any, _Document]]:
        """What concerns intake: rejections, and of settlements the submitter's copy."""
        found: list[tuple[Any, _Document]] = []
        for record in poll.records:
            topic = reader.topic_of(record)
            if topic.row is SETTLEMENTS and dict(record.headers).get(PARTY) != SUBMITTER:
                continue
            try:
                value = reader.open(record, poll)
                if value is not None:
                    found.append((record, _document(value, topic)))
            except (DataError, SealedValueError) as error:
                dead.append((record, error))
        return found

    async def _evidence(self, documents: Sequence[tuple[Any, _Document]], dead: list[_Dead]) -> list[Evidence]:
        async with self._ground.database.reading() as connection:
            duties = await keeping.load_duties(connection, [document.key for _, document in documents])
        found: list[Evidence] = []
        unknown, began = 0, time.monotonic()
        for record, document in documents:
            duty = duties.get(document.key)
            if duty is None:
                unknown += 1
                continue
            try:
                found.append(self._checked(document, duty))
            except DataError as error:
                dead.append((record, error))
            if time.monotonic() - began > LONGEST_TURN_S:
                await asyncio.sleep(0)  # the projector has its turn
                began = time.monotonic()
        if unknown:
            self._log.warning("ends_of_unknown_claims", count=unknown)
        return found

    def _checked(self, document: _Document, duty: Duty) -> Evidence:
        if isinstance(document, Settlement):
            return settled(document, duty, self._verify)
        return rejected(document, duty, self._ground.network)


class _Submitters:
    """Which organisations have submitted claims here: the copies of settlements that all others get concern nobody here."""

    def __init__(self, organisations: Iterable[str]) -> None:
        self._silent = set(organisations)
        self._checked_s = -SUBMITTERS_CHECK_S

    async def that_came(self, database: Database) -> list[str]:
        """Those who submitted their first claim since the last check."""
        now_s = time.monotonic()
        if not self._silent or now_s - self._checked_s < SUBMITTERS_CHECK_S:
            return []
        self._checked_s = now_s
        async with database.reading() as connection:
            came = await keeping.submitters_among(connection, sorted(self._silent))
        self._silent.difference_update(came)
        return came


def _document(value: bytes, topic: NamedTopic) -> _Document:
    """What a record of this topic holds. Raises DataError, also for a settlement in a foreign submitter's topic."""
    if topic.row is not SETTLEMENTS:
        return read_rejection(value, topic.tenant)
    settlement = read_settlement(value)
    if settlement.result.submitter != topic.tenant:
        raise DataError("the settlement is another submitter's", "wrong-party")
    return settlement
