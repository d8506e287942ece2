"""What the world can read of a network: its public Kafka topics as committed, and every replica's own streams.

Nothing here asks the contract or a database: records are opened with the readers' own keys, results are read and
verified by the stand-alone verifier.
"""

import asyncio
import importlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from aiokafka import TopicPartition

from claimledger.events.v1 import events_pb2
from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from claims.identifiers import control_number
from claims.status import Status
from cli.session import Session
from runtime.dlq import read_to_end
from runtime.kafka import make_consumer
from runtime.network import GENESIS_FILE
from runtime.tenant_keys import service_keys
from runtime.topics import BLOCKS, SETTLEMENTS, STATUS, Topic
from tests.e2e.running import Running

STREAM_S: Final = 20.0


@dataclass(frozen=True)
class Step:
    """One status event in an organisation's topic."""

    event: str
    status: str
    time_ms: int


@dataclass(frozen=True)
class Copy:
    """One settlement record: the leaf, and what it says."""

    leaf: int
    body: bytes
    proof: bytes


@dataclass
class Published:
    """Everything that was published. Keys: organisation, then control number or position."""

    steps: dict[str, dict[str, list[Step]]] = field(default_factory=dict)
    copies: dict[str, list[Copy]] = field(default_factory=dict)
    blocks: dict[int, bytes] = field(default_factory=dict)
    """Height → block id, of `ledger.blocks`."""
    repeated_blocks: list[int] = field(default_factory=list)
    streams: dict[str, dict[int, Copy]] = field(default_factory=dict)
    """Replica → leaf → what SubscribeSettlements gave."""
    chains: dict[str, dict[int, bytes]] = field(default_factory=dict)
    """Replica → height → block id."""
    tips: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    """Replica → executed height, state root, results root."""


@cache
def verifier(run: Path) -> Any:
    """The stand-alone verifier on the network's genesis."""
    return importlib.import_module("verify_settlement").Verifier((run / GENESIS_FILE).read_bytes())


def result_of(run: Path, proof: bytes) -> dict[str, Any]:
    """The result that a proof proves, its fields as in docs/ENCODING.md. Raises ProofError."""
    result: dict[str, Any] = verifier(run).verify(proof).result
    return result


async def read_published(running: Running) -> Published:
    """All topics to their end as it is now, and all replicas as far as the topics go."""
    found = Published()
    network = running.session().network
    for organisation in [o.id for o in network.organisations]:
        session = running.session(organisation)
        found.steps[organisation] = await _steps(session)
        found.copies[organisation] = [_copy(value) for value in await values_of(session, SETTLEMENTS)]
    await _blocks(running.session(), found)
    leaves = {copy.leaf for copies in found.copies.values() for copy in copies}
    regulator = running.session("meridian")
    for replica in network.replicas:
        found.streams[replica.organisation] = await _stream(regulator, replica.address, leaves)
        await _chain(regulator, replica.organisation, replica.address, found)
    return found


async def _steps(session: Session) -> dict[str, list[Step]]:
    steps: dict[str, list[Step]] = {}
    for value in await values_of(session, STATUS):
        event = events_pb2.StatusEvent.FromString(value)
        identity = f"{event.claim_ref.hex()}/{event.version}/{event.step}"
        step = Step(identity, Status(event.status).name, event.time_ms)
        steps.setdefault(control_number(event.claim_ref), []).append(step)
    return steps


def _copy(value: bytes) -> Copy:
    proof = ledger_pb2.SettlementProof.FromString(value)
    return Copy(proof.leaf_index, proof.result, value)


async def values_of(session: Session, topic: Topic) -> list[bytes]:
    """The committed records of an organisation's topic, opened as its own client opens them."""
    name = session.network.topic(topic, session.organisation).name
    keys = service_keys(session.run, session.network, session.organisation, "client")
    partitions = [TopicPartition(name, partition) for partition in range(session.network.buckets)]
    consumer = make_consumer(session.network.kafka, group=None, client_id="recount", read_committed=True)
    await consumer.start()
    try:
        return [
            keys.open(name, record.key, topic.schema, record.value, record.headers)
            async for record in read_to_end(consumer, partitions)
        ]
    finally:
        await consumer.stop()


async def _blocks(session: Session, found: Published) -> None:
    consumer = make_consumer(session.network.kafka, group=None, client_id="recount", read_committed=True)
    await consumer.start()
    try:
        async for record in read_to_end(consumer, [TopicPartition(session.network.topic(BLOCKS).name, 0)]):
            block = ledger_pb2.BlockEvent.FromString(record.value).block
            if block.height in found.blocks:
                found.repeated_blocks.append(block.height)
            found.blocks[block.height] = block.id
    finally:
        await consumer.stop()


async def _stream(session: Session, address: str, leaves: set[int]) -> dict[int, Copy]:
    """A replica's settlements from the first on, until every one of `leaves` has come, or STREAM_S is over."""
    got: dict[int, Copy] = {}

    async def read() -> None:
        async with session.channel(address) as channel:
            call = ledger_pb2_grpc.LedgerServiceStub(channel).SubscribeSettlements(
                ledger_pb2.SubscribeSettlementsRequest()
            )
            async for item in call:
                copy = _copy(item.proof.SerializeToString())
                assert copy.leaf not in got, f"{address} streams leaf {copy.leaf} twice"
                got[copy.leaf] = copy
                if leaves <= got.keys():
                    break
            call.cancel()

    if leaves:
        try:
            await asyncio.wait_for(read(), STREAM_S)
        except TimeoutError:
            return got
    return got


async def _chain(session: Session, organisation: str, address: str, found: Published) -> None:
    chain = found.chains[organisation] = {}
    async with session.channel(address) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        while True:
            request = ledger_pb2.ListBlocksRequest(from_height=len(chain) + 1, page_size=200)
            told = await stub.ListBlocks(request)
            if not told.blocks:
                break
            chain.update({block.height: block.id for block in told.blocks})
        status = await stub.GetStatus(ledger_pb2.GetStatusRequest())
    found.tips[organisation] = status.executed_height, status.state_root.hex(), status.results_root.hex()


def equal_tips(running: Running) -> bool:
    """Whether all replicas answer and have executed to the same height."""
    told = [running.status_of(name) for name in running.replicas]
    return len({status.executed_height if status else -1 for status in told}) == 1 and None not in told
