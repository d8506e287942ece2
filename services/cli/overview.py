"""The network at a glance: processes, replicas, and how far consumers are behind."""

import asyncio
from typing import Any, Final

import grpc
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from cli.gauges import LAG, OUTBOX, PARTITIONS, Gauges, read_gauges
from cli.output import when
from cli.processes import Processes
from cli.session import Session
from cli.supervised import Told, told_of
from runtime.grpc_channel import WrongServerError
from runtime.kafka import make_consumer
from runtime.network import Network
from runtime.topics import SCORED, SUBMITTED, VALIDATED

FEED: Final = "claim-intake-status-feed"
READERS: Final = ("claim-intake-projector", "claim-intake-keeper", FEED)
"""What the projector's process reads and feeds. Its places are in its own database; the feed's group in Kafka holds the
number of an event in the place of an offset."""
SOURCES: Final = {"validation": SUBMITTED, "fraud-scoring": VALIDATED, "ledger-commit": SCORED}
"""Groups that every network has, and what they read of each payer."""
ROOT_DIGITS: Final = 6
"""Hex digits of the state root: enough to see at a glance that replicas agree."""


def process_rows(processes: Processes) -> list[dict[str, Any]]:
    """One row for each process, with what its supervisor has told of it."""
    told = told_of(processes.run)
    return [
        {
            "process": state.name,
            "running": state.pid is not None,
            "answers": state.answers,
            "pid": state.pid,
            "address": state.address or None,
            "rss_mb": round(state.rss_mb, 1),
            "cpu_s": round(state.cpu_s, 1),
            "restarts": told.get(state.name, Told()).restarts,
        }
        for state in processes.states()
    ]


def ends(processes: Processes) -> list[dict[str, Any]]:
    """One row for each process that has ended by itself since `up`, with its log."""
    return [
        {
            "ended": name,
            "last_end": when(told.last_end_ms),
            "restarts": told.restarts,
            "given_up": told.given_up,
            "log": told.log,
        }
        for name, told in told_of(processes.run).items()
    ]


def replica_rows(session: Session) -> list[dict[str, Any]]:
    """One row for each replica; one that does not answer says so."""
    return [_replica_row(session, r.organisation, r.address) for r in session.network.replicas]


def _replica_row(session: Session, organisation: str, address: str) -> dict[str, Any]:
    try:
        told = session.replica_status(address)
    except (grpc.RpcError, WrongServerError) as error:
        why = error.code().name if isinstance(error, grpc.RpcError) else f"no certificate of {error.server_name}"
        return {
            "replica": organisation, "round": None, "height": None, "executed": None, "results": None,
            "root": None, "published": None, "peers": None, "accused": None, "state": f"no answer ({why})",
        }  # fmt: skip
    state = told.not_voting or ("publisher" if told.publisher else "votes")
    return {
        "replica": organisation,
        "round": told.round,
        "height": told.committed_height,
        "executed": told.executed_height,
        "results": told.results_size,
        "root": told.state_root.hex()[:ROOT_DIGITS],
        "published": told.published_height,
        "peers": len(told.connected_peers),
        "accused": ", ".join(sorted({each.organisation for each in told.evidence})) or None,
        "state": state,
    }


def consumer_rows(processes: Processes, kafka: str) -> list[dict[str, Any]]:
    """How far everything that reads is behind, in the order of a claim's way: intake's own readers as they tell, the
    groups as Kafka knows them. Empty where no broker answers."""
    groups = asyncio.run(lag_rows(kafka, processes.network))
    if groups is None:
        return []
    outbox = read_gauges(processes.metrics_port("intake")).get((OUTBOX, ""))
    relay = {"group": "claim-intake-outbox", "partitions": None, "lag_records": outbox}
    told = read_gauges(processes.metrics_port("projector"))
    return [relay, *groups, *(_reader_row(name, told) for name in READERS)]


def _reader_row(name: str, told: Gauges) -> dict[str, Any]:
    return {"group": name, "partitions": told.get((PARTITIONS, name)), "lag_records": told.get((LAG, name))}


async def lag_rows(kafka: str, network: Network) -> list[dict[str, Any]] | None:
    """For each consumer group: how many records it has not acknowledged. None where no broker answers."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka, client_id="claimledger-status", request_timeout_ms=3000)
    try:
        await admin.start()
    except (KafkaError, OSError):
        await admin.close()
        return None
    try:
        groups = _groups(network, {str(group) for group, *_ in await admin.list_consumer_groups()})
        offsets = {group: await admin.list_consumer_group_offsets(network.in_kafka(group)) for group in groups}
        topics = set(await admin.list_topics())
    finally:
        await admin.close()
    own = {topic.name for topic in network.topics()}
    partitions = {
        group: {p for p in (*offsets[group], *_sources(group, network, topics)) if p.topic in own} for group in groups
    }
    ends = await _ends(kafka, set().union(*partitions.values()))
    return [
        {
            "group": group,
            "partitions": len(read),
            "lag_records": sum(max(0, ends[p] - _next(offsets[group].get(p))) for p in read),
        }
        for group, read in partitions.items()
        if read
    ]


def _groups(network: Network, known: set[str]) -> list[str]:
    """The network's groups without its prefix. What stands here without one may be another network's, and reads none of
    this one's topics."""
    lead = network.in_kafka("")
    found = {group.removeprefix(lead) for group in known if group.startswith(lead)}
    return [*SOURCES, *sorted(found - set(SOURCES) - {FEED})]


def _sources(group: str, network: Network, topics: set[str]) -> set[TopicPartition]:
    """What the group has to read, whether it has acknowledged anything there or not."""
    if group not in SOURCES:
        return set()
    names = {network.topic(SOURCES[group], payer).name for payer in network.payers} & topics
    return {TopicPartition(name, bucket) for name in names for bucket in range(network.buckets)}


def _next(place: Any) -> int:
    """The offset that a group reads next; its first one where it has acknowledged nothing."""
    return max(0, place.offset) if place else 0


async def _ends(kafka: str, partitions: set[TopicPartition]) -> dict[TopicPartition, int]:
    if not partitions:
        return {}
    consumer = make_consumer(kafka, group=None, client_id="claimledger-status")
    await consumer.start()
    try:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(list(partitions))
    finally:
        await consumer.stop()
    return ends
