"""Feeders on a real broker, each with a real lane; the test says when a block orders what was announced."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from claimledger.events.v1 import events_pb2
from claims.result import ClaimResult
from ledger_commit.adapters.block_log import BlockLog
from ledger_commit.adapters.disk import RealFile
from ledger_commit.consensus.messages import BATCH, BatchRef
from ledger_commit.feeder import Feeder
from ledger_commit.lane import Lane
from ledger_commit.seen import SeenRecords
from ledger_commit.settlement.authenticity import forgery_of_record
from runtime.kafka import SealingProducer, create_topics, make_producer
from runtime.network import Network, Organisation
from runtime.stage import Out
from runtime.topic_keys import TopicKeys
from runtime.topics import RETRY, SCORED, NamedTopic, Topic
from tests.contract.ledger.publishing import PATIENCE_S, ended, keys_in
from tests.fixtures.kafka import now_ms
from tests.fixtures.ledger_world import CHAIN_ID, LedgerWorld, claim, line, scored_entry, verify

PAYER = "aurora"
PARTITIONS = 2
NETWORK = Network(
    name="feeding",
    chain_id=CHAIN_ID.hex(),
    kafka="",
    buckets=PARTITIONS,
    intake_address="",
    tags_address="",
    organisations=(Organisation(PAYER, ("insurer",)),),
    replicas=(),
    endpoints=(),
    pricing_keys={},
    npi_organisations={},
)


def own(row: Topic, prefix: str) -> Topic:
    """The row under a name of one test alone."""
    return replace(row, suffix=f"{prefix}.{row.suffix}")


def entries(count: int, name: str = "claim") -> list[bytes]:
    """One claim each."""
    return [scored_entry([claim(f"{name}-{number}", [line()])]) for number in range(count)]


@dataclass
class Member:
    """A replica as far as feeding goes: its lane, what that announced, and the feeders that fill it."""

    lane: Lane
    log: BlockLog
    seen: SeenRecords
    announced: list[BatchRef]
    running: list["asyncio.Task[None]"] = field(default_factory=list)

    @property
    def taken(self) -> list[bytes]:
        """Entries announced and not yet ordered, in the order of the lane."""
        return [entry for ref in self.announced for entry in self._entries(ref)]

    def _entries(self, ref: BatchRef) -> tuple[bytes, ...]:
        encoded = self.log.batch_bytes(ref.digest)
        assert encoded is not None
        return BATCH.decode(encoded).records

    def order(self, *places: int) -> list[bytes]:
        """A block orders the announced batches in these places, or all of them; returns their entries."""
        chosen = [self.announced[place] for place in places] if places else list(self.announced)
        ordered = [entry for ref in chosen for entry in self._entries(ref)]
        for ref in chosen:
            self.announced.remove(ref)
        self.seen.add(ordered)
        self.lane.on_commit(tuple(chosen))
        return ordered

    async def crash(self) -> None:
        for task in self.running:
            await ended(task)
        self.running.clear()


@dataclass
class Feeding:
    """The broker, the topics and groups of one test, its members, and the one ledger that executes what they order."""

    kafka: str
    directory: Path
    keys: TopicKeys
    prefix: str
    scored: Topic
    retry: Topic
    producer: SealingProducer
    world: LedgerWorld = field(default_factory=LedgerWorld)
    members: list[Member] = field(default_factory=list)

    def member(self) -> Member:
        number, announced = len(self.members), list[BatchRef]()
        log = BlockLog(RealFile(self.directory / f"blocks-{number}.log"), CHAIN_ID, 0)
        key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"%d" % number).digest())
        lane = Lane(log, key, CHAIN_ID, number, 1, lambda ref, _encoded: announced.append(ref))
        self.members.append(Member(lane, log, SeenRecords(), announced))
        return self.members[-1]

    def feed(self, member: Member, topic: Topic, group: str = "shared", **changes: Any) -> Feeder:
        """Starts a feeder of the member; on `retry` with the turn that `turn_s` gives."""
        name = f"{self.prefix}.{group}"
        judge = partial(forgery_of_record, self.world.state, verify=verify)
        feeder = Feeder(self.kafka, name, topic, NETWORK, self.keys, member.lane, self.producer, judge=judge, **changes)
        member.running.append(asyncio.create_task(feeder.run()))
        return feeder

    async def send(self, topic: Topic, sent: Sequence[bytes], partition: int | None = None) -> None:
        """A record for each entry, to one partition or to each in turn."""
        name, outs = topic.name(PAYER), []
        for number, entry in enumerate(sent):
            value = events_pb2.ScoredRecord(scored_record=entry[1:]).SerializeToString()
            place = number % PARTITIONS if partition is None else partition
            outs.append(Out(name, b"key", value, topic.schema, "event", place))
        await self.producer.send_all(outs, now_ms())

    async def acknowledged(self, topic: Topic, group: str = "shared") -> list[int]:
        """The group's offset in each partition, 0 where it has none."""
        told = await acknowledged(self.kafka, f"{self.prefix}.{group}")
        return [told.get(TopicPartition(topic.name(PAYER), partition), 0) for partition in range(PARTITIONS)]

    async def until_acknowledged(self, topic: Topic, wanted: list[int], group: str = "shared") -> None:
        async with asyncio.timeout(PATIENCE_S):
            while await self.acknowledged(topic, group) != wanted:
                await asyncio.sleep(0.05)

    def execute(self, ordered: Sequence[bytes]) -> list[ClaimResult]:
        """The results of a block of these entries."""
        outcomes = self.world.block(*ordered).outcomes
        return [outcome for outcome in outcomes if isinstance(outcome, ClaimResult)]


async def acknowledged(kafka: str, group: str) -> dict[TopicPartition, int]:
    """The offsets that a group has committed; of a new group there is no word at first."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        told = await admin.list_consumer_group_offsets(group)
    except GroupCoordinatorNotAvailableError:
        return {}
    finally:
        await admin.close()
    return {place: at.offset for place, at in told.items() if at.offset >= 0}


async def eventually(found: Callable[[], Any], wanted: Any, seconds: float = PATIENCE_S) -> None:
    """Returns when `found` gives what is wanted; else fails with what it gave last."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while found() != wanted:
                await asyncio.sleep(0.02)
    last = found()
    assert last == wanted, f"{last!r} and not {wanted!r} after {seconds} s"


@contextlib.asynccontextmanager
async def opened(kafka: str, directory: Path, prefix: str) -> AsyncIterator[Feeding]:
    """With its topics made, and a plan and its members on the ledger."""
    scored, retry = own(SCORED, prefix), own(RETRY, prefix)
    await create_topics(kafka, [NamedTopic(scored, PAYER), NamedTopic(retry, PAYER)], PARTITIONS)
    keys = keys_in(directory)
    async with SealingProducer(make_producer(kafka, "test"), keys, "test") as producer:
        made = Feeding(kafka, directory, keys, prefix, scored, retry, producer)
        made.world.plan()
        made.world.enroll("ada")
        try:
            yield made
        finally:
            for member in made.members:
                await member.crash()
                member.lane.flush()
                member.log.close()
