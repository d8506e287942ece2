"""Runs a Stage as a Faust worker, by the one pattern that loses nothing.

Faust acknowledges too early in several ways: a handler that raises acknowledges its event, concurrent handlers commit past
each other, and acknowledgements out of order jump a head that is not done. So here: events without automatic
acknowledgement, one handler, sends through our own idempotent producer, an AckWindow for each partition, and
acknowledgement of the contiguous confirmed prefix only. An unexpected exception stops the worker with that prefix
acknowledged and nothing after it; when whoever runs the process (systemd, Kubernetes, …) has started it again, the events
come again.
Source: stack.md, Faust.
"""

import asyncio
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import faust
from faust.worker import Worker

from runtime.ack_window import AckWindow
from runtime.kafka import SealingProducer, confirmed, make_producer
from runtime.log import get_logger
from runtime.metrics import STAGE_LAST_ACK, STAGE_PARTITIONS
from runtime.network import Network
from runtime.process import collect_seldom
from runtime.stage import AnyStage
from runtime.stage_core import StageCore
from runtime.stage_place import group_of, wait_for_sources
from runtime.topic_keys import TopicKeys

IN_FLIGHT: Final = 64
"""Records applied and not yet confirmed."""
STREAM_BUFFER: Final = 128
COMMIT_INTERVAL_S: Final = 0.5
DRAIN_S: Final = 10.0


def run_faust_stage(
    stage: AnyStage,
    *,
    kafka: str,
    keys: TopicKeys,
    network: Network | None = None,
    data: str = "",
    drain_s: float = DRAIN_S,
) -> None:
    """Runs the worker until SIGTERM or SIGINT; ends the process, with exit code 1 after an unexpected exception.

    Call it from `__main__` after logging is configured: Faust owns the loop. `data` is a directory for Faust's own files.
    What is in hand at the end has `drain_s` to be confirmed; what is not by then comes again.
    """
    if data:
        Path(data).mkdir(parents=True, exist_ok=True)
    collect_seldom()
    asyncio.run(wait_for_sources(stage, kafka, network))  # Faust ends where no broker answers
    app = faust_app(group_of(stage, network), kafka, data, drain_s)
    worker = _FaustStage(stage, app, kafka, keys)
    try:
        Worker(app, loglevel="WARN", redirect_stdouts=False, quiet=True).execute_from_commandline()
    finally:
        if worker.failure is not None:
            sys.exit(1)


class _App(faust.App):
    """Faust waits without end for the acknowledgement of what it has taken; at the end of the process this does not."""

    drain_s = 0.0
    _draining: "asyncio.Future[None] | None" = None

    async def _consumer_wait_empty(self, consumer: Any, logger: Any) -> None:
        if not self.should_stop:  # a rebalance: what is in hand is finished before its partition goes
            await super()._consumer_wait_empty(consumer, logger)
            return
        # Cancelling does not end it; that the consumer stops does, which comes next.
        self._draining = asyncio.ensure_future(super()._consumer_wait_empty(consumer, logger))
        _, late = await asyncio.wait([self._draining], timeout=self.drain_s)
        if late:
            get_logger("faust").warning("drain_timed_out", seconds=self.drain_s)


def faust_app(group: str, kafka: str, data: str, drain_s: float) -> Any:
    """A Faust app with the settings that the pattern needs. Its web server stays off: it would show data on 0.0.0.0."""
    app = _App(
        group,
        broker=f"kafka://{kafka}",
        store="memory://",
        **({"datadir": data} if data else {}),
        key_serializer="raw",
        value_serializer="raw",
        topic_disable_leader=True,
        topic_allow_declare=False,
        broker_commit_interval=COMMIT_INTERVAL_S,
        broker_session_timeout=6.0,
        broker_heartbeat_interval=1.5,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=STREAM_BUFFER,
        stream_wait_empty=True,
    )
    app.drain_s = drain_s
    app.conf.web_enabled = False  # what `faust worker --without-web` does; the constructor's argument is ignored by it
    return app


@dataclass(slots=True)
class _Partition:
    """Events of one partition that are applied and not yet acknowledged, by offset."""

    window: AckWindow = field(default_factory=AckWindow)
    events: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Raw:
    """A Faust message in the form of aiokafka's ConsumerRecord."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int


def _raw(message: Any) -> _Raw:
    headers = message.headers or ()
    pairs = headers.items() if hasattr(headers, "items") else headers
    moment = int((message.timestamp or 0) * 1000)
    return _Raw(message.topic, message.partition, message.offset, message.key, message.value, tuple(pairs), moment)


class _FaustStage:
    """The agent, its producer and its windows."""

    def __init__(self, stage: AnyStage, app: Any, kafka: str, keys: TopicKeys) -> None:
        self.failure: BaseException | None = None
        self._app = app
        self._stage = stage
        self._kafka = kafka
        self._keys = keys
        self._core: StageCore | None = None
        self._producer: Any = None
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._confirmations: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._log = get_logger("faust").bind(stage=stage.name)
        topic = app.topic(*stage.topics, key_type=bytes, value_type=bytes)
        app.agent(topic, concurrency=1, name=f"{stage.name}-agent")(self._consume)
        app.on_partitions_assigned.connect(self._on_assigned, weak=False)
        app.on_partitions_revoked.connect(self._on_revoked, weak=False)
        app.on_before_shutdown.connect(self._on_shutdown, weak=False)

    async def _consume(self, stream: Any) -> None:
        """The agent's body: every event in order, until one fails unexpectedly."""
        try:
            core = await self._open()
            async for event in stream.noack().events():
                if self.failure is None:
                    await self._take(core, event)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - Faust would restart the agent and go on with the next event
            await self._fail(error)

    async def _open(self) -> StageCore:
        if self._core is None:
            self._producer = make_producer(self._kafka, self._stage.name)
            await self._producer.start()
            sealing = SealingProducer(self._producer, self._keys, self._stage.name)
            self._core = StageCore(self._stage, self._kafka, self._keys, sealing)
        return self._core

    async def _take(self, core: StageCore, event: Any) -> None:
        """Applies one event and leaves its confirmation to a task."""
        raw = _raw(event.message)
        partition = self._partitions.setdefault((raw.topic, raw.partition), _Partition())
        partition.window.take(raw.offset)
        partition.events[raw.offset] = event
        await self._room.acquire()
        try:
            futures = await core.process([raw])
        except BaseException:
            self._room.release()
            raise
        task = asyncio.ensure_future(self._confirm(partition, raw.offset, futures))
        self._confirmations.add(task)
        task.add_done_callback(self._confirmations.discard)

    async def _confirm(self, partition: _Partition, offset: int, futures: list[Any]) -> None:
        """Waits for the broker, then acknowledges what has become the finished prefix."""
        try:
            await confirmed(futures)
        except Exception as error:  # noqa: BLE001 - nothing after this record may be acknowledged
            await self._fail(error)
            return
        finally:
            self._room.release()
        for done in partition.window.finish(offset):
            partition.events.pop(done).ack()
        STAGE_LAST_ACK.labels(self._stage.name).set(time.time())

    async def _fail(self, error: BaseException) -> None:
        """Remembers the first failure and stops the worker."""
        if self.failure is None:
            self.failure = error
            self._log.error("stage_failed", type=type(error).__name__, exc_info=error)
            self._app.conf.stream_wait_empty = False  # the failed event will never be acknowledged: do not wait for it
            await self._app.crash(error)

    async def _on_assigned(self, _: Any, assigned: Iterable[Any] = (), **__: Any) -> None:
        """State is opened with a partition's first record."""
        count = len(list(assigned))
        STAGE_PARTITIONS.labels(self._stage.name).set(count)
        self._log.info("partitions_assigned", count=count)

    async def _on_revoked(self, _: Any, revoked: Iterable[Any] = (), **__: Any) -> None:
        """Faust has waited for the events in hand; what belonged to the partitions goes."""
        STAGE_PARTITIONS.labels(self._stage.name).set(0)
        for partition in revoked:
            self._partitions.pop((partition.topic, partition.partition), None)
            if self._core is not None:
                self._core.close(partition.topic, partition.partition)

    async def _on_shutdown(self, *_: Any, **__: Any) -> None:
        """Lets confirmations arrive, so that Faust's last commit has them."""
        if self._confirmations:
            await asyncio.wait(list(self._confirmations), timeout=5)
        if self._producer is not None:
            await self._producer.stop()
