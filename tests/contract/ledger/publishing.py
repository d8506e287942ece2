"""Publishers on a real broker, each with a ledger of its own that executes the same blocks; consensus is left out.

Topics, group and transactional id have the prefix of one test alone.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from claimledger.events.v1 import events_pb2
from claimledger.ledger.v1 import ledger_pb2
from claims.result import CLAIM_RESULT
from claims.status import AFTER_REVIEW_STEP, STEP_OF, Status
from claims.transaction import RefusalReason
from ledger_commit import publications
from ledger_commit.cursor import Progress, PublishingWatch
from ledger_commit.publisher import NAME, Publisher
from ledger_commit.results import CLAIM_RESULT_VERSION, block_message
from runtime.dlq import read_to_end
from runtime.kafka import create_topics, make_consumer
from runtime.network import Network, Organisation
from runtime.stage import Out
from runtime.topic_keys import KEY_ID, TopicKeys
from runtime.topics import BLOCKS, PUBLISHER, RAW_STATUS, SETTLEMENTS, NamedTopic
from tests.fixtures.executed import Block, Executor, time_of
from tests.fixtures.ledger_world import CHAIN_ID, ORGANISATIONS

PAYERS = ("aurora", "borealis", "cygnus")
NETWORK = Network(
    name="publishing",
    chain_id=CHAIN_ID.hex(),
    kafka="",
    buckets=1,
    intake_address="",
    tags_address="",
    organisations=tuple(Organisation(o, ("insurer",) if o in PAYERS else ()) for o in ORGANISATIONS),
    replicas=(),
    endpoints=(),
    pricing_keys={},
    npi_organisations={},
)
ME = "aurora/replica"
PATIENCE_S = 45
"""Longer than a client waits for one answer, so that a test on a starved machine is slow and does not fail."""


def network_of(prefix: str) -> Network:
    """The network under names of one test alone."""
    return replace(NETWORK, topic_prefix=prefix)


def topics_of(network: Network) -> list[NamedTopic]:
    """All that a publisher writes to."""
    common = [network.topic(row) for row in (PUBLISHER, BLOCKS)]
    settlements = [network.topic(SETTLEMENTS, o) for o in ORGANISATIONS]
    return [*common, *settlements, *(network.topic(RAW_STATUS, p) for p in PAYERS)]


Settled = tuple[str, bytes]
"""A party's part and the proof."""
Step = tuple[bytes, int, int, int]
"""Reference, status, step and time."""


@dataclass(frozen=True)
class Published:
    """What readers of committed records see: by organisation, by payer, and for all."""

    settlements: dict[str, list[Settled]]
    steps: dict[str, list[Step]]
    blocks: list[bytes]

    @property
    def records(self) -> int:
        return len(self.blocks) + sum(map(len, self.settlements.values())) + sum(map(len, self.steps.values()))


async def due(executor: Executor) -> Published:
    """What has to be published of this ledger, each thing once."""
    settlements: dict[str, list[Settled]] = {o: [] for o in ORGANISATIONS}
    steps: dict[str, list[Step]] = {p: [] for p in PAYERS}
    for leaf, body in enumerate(await executor.results.bodies(0, executor.results.size)):
        if body[0] != CLAIM_RESULT_VERSION:
            continue
        result, proof = CLAIM_RESULT.decode(body), executor.ledger.prove(leaf, body)
        assert proof is not None
        refused_repeat = result.refusal == RefusalReason.VERSION_SPENT
        parts = {result.payee: "payee", result.payer: "payer", result.submitter: "submitter"}
        for organisation, part in parts.items():
            if part == "submitter" or not refused_repeat:
                settlements[organisation].append((part, proof.SerializeToString()))
        if refused_repeat:
            continue
        outcome, time_ms = Status[result.outcome.name], time_of(result.height)
        if not result.step:
            steps[result.payer].append((result.claim_ref, Status.ORDERED, STEP_OF[Status.ORDERED], time_ms))
        step = AFTER_REVIEW_STEP if result.step else STEP_OF[outcome]
        steps[result.payer].append((result.claim_ref, outcome, step, time_ms))
    rows = [row for row in await executor.projection.blocks(1, executor.height) if row.commit_qc]
    blocks = [ledger_pb2.BlockEvent(block=block_message(row)).SerializeToString() for row in rows]
    return Published(settlements, steps, blocks)


@dataclass
class Publishing:
    """The broker, the network, and who stands for publisher."""

    kafka: str
    directory: Path
    network: Network
    keys: TopicKeys
    executors: list[Executor] = field(default_factory=list)
    _standing: dict[Publisher, "asyncio.Task[None]"] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """Of the publishers, and their transactional id."""
        return self.network.in_kafka(NAME)

    def cursor(self, next_leaf: int, block_height: int) -> Out:
        """A cursor of this network's."""
        return publications.cursor_record(next_leaf, block_height, self.network)

    async def executor(self, *blocks: Block) -> Executor:
        made = Executor(self.directory / f"executor{len(self.executors)}")
        self.executors.append(made)
        await made.projection.open()
        await made.execute(*blocks)
        return made

    def publisher(self, executor: Executor, keys: TopicKeys | None = None) -> Publisher:
        keys = keys or self.keys
        return Publisher(self.kafka, self.network, keys, executor.results, executor.projection, lambda: executor.height)

    def watch(self, executor: Executor) -> PublishingWatch:
        return PublishingWatch(self.kafka, self.network, lambda: executor.progress)

    def stand(self, executor: Executor, keys: TopicKeys | None = None) -> Publisher:
        made = self.publisher(executor, keys)
        self._standing[made] = asyncio.create_task(made.run())
        return made

    async def dismiss(self, *standing: Publisher) -> None:
        for each in standing:
            await ended(self._standing.pop(each))

    async def dismiss_all(self) -> None:
        await self.dismiss(*list(self._standing))
        for executor in self.executors:
            await executor.projection.close()

    async def published(self, *, committed: bool = True) -> Published:
        """All that is in the topics now."""
        network = self.network
        found = await self._records([topic.name for topic in topics_of(network)], committed=committed)
        settlements = {o: found[network.topic(SETTLEMENTS, o).name] for o in ORGANISATIONS}
        batches = {p: found[network.topic(RAW_STATUS, p).name] for p in PAYERS}
        return Published(
            {o: [(dict(r.headers)["party"].decode(), r.value) for r in rs] for o, rs in settlements.items()},
            {p: [step for record in rs for step in steps_in(record.value)] for p, rs in batches.items()},
            [record.value for record in found[network.topic(BLOCKS).name]],
        )

    async def cursors(self, *, committed: bool = True) -> list[bytes]:
        topic = self.network.topic(PUBLISHER).name
        return [record.value for record in (await self._records([topic], committed=committed))[topic]]

    async def _records(self, names: list[str], *, committed: bool) -> dict[str, list[Any]]:
        """By topic, in order, opened where they are sealed."""
        found: dict[str, list[Any]] = {name: [] for name in names}
        consumer = make_consumer(self.kafka, group=None, client_id="test", read_committed=committed)
        await consumer.start()
        try:
            async for record in read_to_end(consumer, [TopicPartition(name, 0) for name in names]):
                found[record.topic].append(self._opened(record))
        finally:
            await consumer.stop()
        return found

    def _opened(self, record: Any) -> Any:
        headers = dict(record.headers)
        if KEY_ID not in headers:
            return record
        schema = headers["ce_type"].decode()
        return replace(record, value=self.keys.open(record.topic, record.key, schema, record.value, record.headers))

    async def until_published(self, executor: Executor, seconds: float = PATIENCE_S) -> Published:
        """What is published, once the cursor has come as far as this ledger."""
        async with asyncio.timeout(seconds):
            wanted = self.cursor(executor.progress.next_leaf, executor.progress.block_height).value
            while not (cursors := await self.cursors()) or cursors[-1] != wanted:
                await asyncio.sleep(0.05)
        return await self.published()


async def members(kafka: str, group: str) -> int:
    """How many stand in a consumer group, once it has handed out its partitions; of a new one there is no word at first."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        (answer,) = await admin.describe_consumer_groups([group])
    except GroupCoordinatorNotAvailableError:
        return 0
    finally:
        await admin.close()
    _, _, state, _, _, found, *_ = answer.groups[0]
    return len(found) if state == "Stable" else 0


def steps_in(batch: bytes) -> list[Step]:
    return [(e.claim_ref, int(e.status), e.step, e.time_ms) for e in events_pb2.StatusBatch.FromString(batch).events]


def progress_of(told: bytes) -> Progress:
    found = ledger_pb2.PublisherCursor.FromString(told)
    return Progress(found.next_leaf, found.block_height)


async def ended(task: "asyncio.Task[Any]") -> None:
    """Cancels it and waits for its end."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def true(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Returns when the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def keys_in(directory: Path) -> TopicKeys:
    """Keys that every process of one test may open."""
    key = X25519PrivateKey.from_private_bytes(hashlib.sha256(b"publishing").digest())
    public = key.public_key().public_bytes_raw().hex()
    return TopicKeys(directory / "keys", ME, key, lambda _: {ME: public})


@contextlib.asynccontextmanager
async def opened(kafka: str, directory: Path, network: Network) -> AsyncIterator[Publishing]:
    """With its topics made."""
    await create_topics(kafka, topics_of(network), 1)
    made = Publishing(kafka, directory, network, keys_in(directory))
    try:
        yield made
    finally:
        await made.dismiss_all()
