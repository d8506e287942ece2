"""The network at a glance: processes, replicas, and how far consumers are behind."""

from collections.abc import Sequence
from typing import Any, Final

import grpc
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from cli.processes import Processes
from cli.session import Session
from runtime.kafka import make_consumer

ROOT_DIGITS: Final = 6
"""Hex digits of the state root: enough to see at a glance that replicas agree."""


def process_rows(processes: Processes) -> list[dict[str, Any]]:
    """One row for each process."""
    return [
        {
            "process": state.name,
            "running": state.pid is not None,
            "answers": state.answers,
            "pid": state.pid,
            "address": state.address or None,
            "rss_mb": round(state.rss_mb, 1),
            "cpu_s": round(state.cpu_s, 1),
        }
        for state in processes.states()
    ]


def replica_rows(session: Session) -> list[dict[str, Any]]:
    """One row for each replica; one that does not answer says so."""
    return [_replica_row(session, r.organisation, r.address) for r in session.network.replicas]


def _replica_row(session: Session, organisation: str, address: str) -> dict[str, Any]:
    try:
        told = session.replica_status(address)
    except grpc.RpcError as error:
        return {
            "replica": organisation, "round": None, "height": None, "executed": None, "results": None,
            "root": None, "published": None, "peers": None, "state": f"no answer ({error.code().name})",
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
        "state": state,
    }


async def lag_rows(kafka: str) -> list[dict[str, Any]]:
    """For each consumer group: how many records it has not acknowledged. Empty where no broker answers."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka, client_id="claimledger-status", request_timeout_ms=3000)
    try:
        await admin.start()
    except (KafkaError, OSError):
        await admin.close()
        return []
    try:
        groups = sorted({str(group) for group, *_ in await admin.list_consumer_groups()})
        offsets = {group: await admin.list_consumer_group_offsets(group) for group in groups}
    finally:
        await admin.close()
    ends = await _ends(kafka, [p for found in offsets.values() for p in found])
    return [
        {
            "group": group,
            "partitions": len(found),
            "lag_records": sum(max(0, ends.get(p, 0) - max(0, o.offset)) for p, o in found.items()),
        }
        for group, found in offsets.items()
        if found
    ]


async def _ends(kafka: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    consumer = make_consumer(kafka, group=None, client_id="claimledger-status")
    await consumer.start()
    try:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(list(set(partitions)))
    finally:
        await consumer.stop()
    return ends
