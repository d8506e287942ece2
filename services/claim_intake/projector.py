"""The status projector: reads every payer's raw status reports and writes one ordered stream per claim.

It is the only writer of status events. What it has read and what it made of it are one database transaction, so a crash
neither loses nor repeats a step.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from claim_intake.patience import patiently
from claim_intake.reader import OffsetReader, Source
from claim_intake.resting import rest_s
from claim_intake.rounds import READER, Reported, RoundResult, Rounds
from claim_intake.store.projecting import load_offsets
from claim_intake.wiring import Ground
from claimledger.events.v1 import events_pb2
from claims.quick import quick
from claims.status import Status, StatusEvent
from runtime.kafka import SealingProducer, make_producer
from runtime.log import get_logger
from runtime.metrics import STAGE_LAST_ACK, STAGE_OUTPUTS, STAGE_RECORDS
from runtime.publishing_cursor import wait_for_own_topics
from runtime.stage import DataError
from runtime.topic_keys import SealedValueError
from runtime.topics import RAW_STATUS

NAME: Final = "claim-intake-projector"
POLL_MS: Final = 100
GAP_CHECK_S: Final = 2.0
MAX_STEP: Final = 2**15
NUL: Final = "\0"
LONGEST_PAYEE: Final = 32
"""Of any organisation's id; the index over payees has no room for texts of some thousand characters."""
_STATUSES: Final = {int(status): status for status in Status}
_status_event, _reported = quick(StatusEvent), quick(Reported)
_Dead = tuple[Any, DataError | SealedValueError]


class Projector:
    """Runs rounds. `on_events` is called after each round that wrote something."""

    def __init__(
        self, ground: Ground, rounds: Rounds, on_events: Callable[[], None], clock_ms: Callable[[], int]
    ) -> None:
        self._ground = ground
        self._rounds = rounds
        self._on_events = on_events
        self._clock_ms = clock_ms
        self._log = get_logger("projector")

    async def run(self) -> None:
        """Projects until cancelled; waits where the broker is away. Raises SQLAlchemyError where the database is."""
        await patiently(self._read_forever, self._log)

    async def _read_forever(self) -> None:
        ground = self._ground
        network = ground.network
        await wait_for_own_topics(ground.kafka, network)
        source = Source([network.topic(RAW_STATUS, payer) for payer in network.payers], network.buckets)
        reader = OffsetReader(NAME, ground.kafka, ground.topic_keys, source)
        producer = SealingProducer(make_producer(ground.kafka, NAME), ground.topic_keys, NAME)
        async with ground.database.reading() as connection:
            offsets = await load_offsets(connection, READER)
        async with producer as dead_letters:
            try:
                await reader.start(offsets)
                self._log.info("projector_connected", partitions=len(source.topics) * source.partitions)
                await self._rounds_forever(reader, dead_letters)
            finally:
                await reader.stop()

    async def _rounds_forever(self, reader: OffsetReader, dead_letters: SealingProducer) -> None:
        checked = time.monotonic()
        while True:
            applied = await self._round(reader, dead_letters)
            if time.monotonic() - checked > GAP_CHECK_S:
                checked = time.monotonic()
                self._told(await self._rounds.close_gaps(self._ground.settings.intake_hold_ms), "gaps_closed")
            await asyncio.sleep(rest_s(applied))

    async def _round(self, reader: OffsetReader, dead_letters: SealingProducer) -> int:
        poll = await reader.poll(POLL_MS)
        if not poll.records:
            return 0
        reported: list[Reported] = []
        dead: list[_Dead] = []
        for record in poll.records:
            try:
                value = reader.open(record, poll)
                if value is not None:
                    reported += reports_of(value, reader.topic_of(record).tenant)
            except (DataError, SealedValueError) as error:
                dead.append((record, error))
        await reader.bury(dead, dead_letters, self._clock_ms())
        result = await self._rounds.take(reported, poll.offsets)
        STAGE_RECORDS.labels(NAME, RAW_STATUS.suffix).inc(len(poll.records))
        STAGE_LAST_ACK.labels(NAME).set(time.time())
        self._told(result, "")
        return result.applied

    def _told(self, result: RoundResult, event: str) -> None:
        STAGE_OUTPUTS.labels(NAME).inc(result.applied)
        unusual = {reason: count for reason, count in result.dropped.items() if reason != "repeated"}
        if unusual:
            self._log.warning("steps_dropped", **unusual)
        if result.applied:
            self._on_events()
            if event:
                self._log.warning(event, steps=result.applied)


def reports_of(value: bytes, payer: str) -> list[Reported]:
    """The steps of a StatusBatch from a payer's topic. Raises DataError, for the whole batch."""
    try:
        batch = events_pb2.StatusBatch.FromString(value)
    except DecodeError:
        raise DataError("not a StatusBatch") from None
    return [_reported(payer, _event(event)) for event in batch.events]


def _event(message: events_pb2.StatusEvent) -> StatusEvent:
    status = _STATUSES.get(message.status)
    if status is None or len(message.claim_ref) != 16 or message.step > MAX_STEP or not 0 < message.version < 2**16:
        raise DataError(f"a status event with status {message.status}, step {message.step} or a reference that is none")
    if NUL in message.detail or NUL in message.payee or len(message.payee) > LONGEST_PAYEE:
        raise DataError("a status event with a NUL in its text or an overlong payee, which PostgreSQL does not take")
    return _status_event(
        message.claim_ref, message.version, status, message.step, message.time_ms, message.submitter, message.payer,
        message.payee, message.detail,
    )  # fmt: skip
