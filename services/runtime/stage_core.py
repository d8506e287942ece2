"""What both runners share: opening, decoding, applying and sending the records of a partition, and its state."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition

from runtime.dlq import dead_letter, read_to_end
from runtime.kafka import SealingProducer, make_consumer
from runtime.log import get_logger
from runtime.metrics import DEAD_LETTERS, STAGE_OUTPUTS, STAGE_RECORDS
from runtime.stage import AnyStage, DataError, Incoming, Out
from runtime.topic_keys import SealedValueError, TopicKeys


@dataclass(frozen=True, slots=True)
class _Decoded:
    raw: Any
    record: Incoming
    message: Any


class StageCore:
    """A stage with its open partitions. `kafka` is the broker's address, for rebuilding state."""

    def __init__(self, stage: AnyStage, kafka: str, keys: TopicKeys, producer: SealingProducer) -> None:
        self.stage = stage
        self._kafka = kafka
        self._keys = keys
        self._producer = producer
        self._states: dict[tuple[str, int], Any] = {}
        self._log = get_logger("stage").bind(stage=stage.name)

    async def process(self, records: Sequence[Any]) -> list[Any]:
        """Applies ConsumerRecords of one partition, in order; returns futures of what they gave, sent but unconfirmed.

        Raises what the stage raises, DataError excepted: that record becomes a dead letter.
        """
        outs: list[Out] = []
        decoded = [d for raw in records if (d := self._decode(raw, outs)) is not None]
        messages = await self.stage.prepare([d.message for d in decoded]) if decoded else []
        for item, message in zip(decoded, messages, strict=True):
            state = await self._state(item.record.topic, item.record.partition)
            try:
                outs += self.stage.apply(state, item.record, message)
            except DataError as error:
                outs.append(self._dead(item.raw, error))
        STAGE_RECORDS.labels(self.stage.name, records[0].topic).inc(len(records))
        STAGE_OUTPUTS.labels(self.stage.name).inc(len(outs))
        trace = next((v for k, v in records[0].headers if k == "traceparent"), None)
        return list(await self._producer.begin(outs, time.time_ns() // 1_000_000, trace))

    def close(self, topic: str, partition: int) -> None:
        """Drops a partition's state, if it was open."""
        state = self._states.pop((topic, partition), None)
        if state is not None:
            self.stage.close_partition(topic, partition, state)

    def close_all(self) -> None:
        """Drops all state."""
        for topic, partition in list(self._states):
            self.close(topic, partition)

    def _decode(self, raw: Any, outs: list[Out]) -> _Decoded | None:
        try:
            record = self._open(raw)
            return _Decoded(raw, record, self.stage.decode(record))
        except (DataError, SealedValueError) as error:
            outs.append(self._dead(raw, error))
            return None

    def _dead(self, raw: Any, error: DataError | SealedValueError) -> Out:
        DEAD_LETTERS.labels(raw.topic, error.kind).inc()
        self._log.warning("dead_letter", topic=raw.topic, partition=raw.partition, offset=raw.offset, kind=error.kind)
        return dead_letter(raw, error, self.stage.name)

    def _open(self, raw: Any) -> Incoming:
        headers = tuple(raw.headers)
        value = raw.value or b""
        if raw.value is not None:
            value = self._keys.open(raw.topic, raw.key, self.stage.schemas[raw.topic], raw.value, headers)
        return Incoming(raw.topic, raw.partition, raw.offset, raw.key, value, headers, raw.timestamp)

    async def _state(self, topic: str, partition: int) -> Any:
        found = self._states.get((topic, partition))
        if found is None:
            found = self.stage.open_partition(topic, partition)
            await self._restore(topic, partition, found)
            self._states[topic, partition] = found
        return found

    async def _restore(self, topic: str, partition: int, state: Any) -> None:
        """Rebuilds state from the stage's state topic. A record that nobody with the key wrote is skipped and logged."""
        source = self.stage.state_topic(topic)
        if source is None:
            return
        consumer = make_consumer(self._kafka, group=None, client_id=f"{self.stage.name}-restore")
        await consumer.start()
        count = 0
        try:
            async for raw in read_to_end(consumer, [TopicPartition(source, partition)]):
                try:
                    self.stage.restore(state, self._open(raw))
                    count += 1
                except SealedValueError as error:
                    self._log.error("state_record_skipped", topic=source, offset=raw.offset, kind=error.kind)
        finally:
            await consumer.stop()
        self._log.info("state_restored", topic=source, partition=partition, records=count)
