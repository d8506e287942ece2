"""Streams of events as async iterators of documents: status, alerts, settlements."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from claimledger.fraud.v1 import fraud_pb2
from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from claims.identifiers import control_number
from claims.result import CLAIM_RESULT
from claims.status import Status
from cli.session import Session, reach_kafka
from runtime.grpc_channel import probe
from runtime.kafka import make_consumer
from runtime.tenant_keys import service_keys
from runtime.topics import ALERTS

RECONNECT_S = 0.3
REACHED_WITHIN_S = 5.0
_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


async def status_events(session: Session, control: str = "", cursor: str = "") -> AsyncIterator[dict[str, Any]]:
    """The organisation's status events from the cursor on, without end; goes on after a lost connection.

    Raises ConnectionError where nobody answers from the beginning.
    """
    async with session.intake_channel() as channel:
        await reached(channel, session, session.network.intake_address)
        async for event in tracked(channel, control, cursor):
            yield {
                "control_number": event.control_number,
                "version": event.version,
                "status": Status(event.status).name,
                "time_ms": event.time_ms,
                "detail": event.detail,
                "cursor": event.cursor,
            }


def tracked(
    channel: grpc.aio.Channel, control: str = "", cursor: str = ""
) -> AsyncIterator[intake_pb2.TrackClaimsResponse]:
    """The caller's status events as intake tells them, from the cursor on, without end."""
    stub = intake_pb2_grpc.IntakeServiceStub(channel)

    def opened(after: str) -> Any:
        return stub.TrackClaims(intake_pb2.TrackClaimsRequest(cursor=after, control_number=control))

    return _resumed(opened, cursor)


async def settlements(session: Session, cursor: str = "") -> AsyncIterator[dict[str, Any]]:
    """The organisation's results with their proofs in hex, from the cursor on, without end.

    Raises ConnectionError where nobody answers from the beginning.
    """
    async with session.replica_channel() as channel:
        await reached(channel, session, session.replica_address)
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)

        def opened(after: str) -> Any:
            return stub.SubscribeSettlements(ledger_pb2.SubscribeSettlementsRequest(cursor=after))

        async for item in _resumed(opened, cursor):
            yield settlement_document(item.proof) | {"cursor": item.cursor}


async def _resumed(opened: Callable[[str], Any], cursor: str) -> AsyncIterator[Any]:
    """The items of a stream that bear cursors; after a lost connection it is opened again behind the last one."""
    while True:
        try:
            async for item in opened(cursor):
                cursor = item.cursor
                yield item
        except grpc.aio.AioRpcError as error:
            if error.code() not in _PASSING:
                raise
        await asyncio.sleep(RECONNECT_S)


async def reached(channel: grpc.aio.Channel, session: Session, address: str) -> None:
    """Returns when the server answers; a stream that waits for a network which is not there would say nothing.

    Raises ConnectionError where none does, WrongServerError where it is another one.
    """
    try:
        await asyncio.wait_for(channel.channel_ready(), REACHED_WITHIN_S)
    except TimeoutError:
        await probe(channel, address, session.network.server_at(address))
        raise ConnectionError(
            f"nobody answers at {address}: see `claimledger status`, or start with `claimledger up`"
        ) from None


def settlement_document(proof: ledger_pb2.SettlementProof) -> dict[str, Any]:
    """What a settlement says, and its proof."""
    result = CLAIM_RESULT.decode(proof.result)
    return {
        "control_number": control_number(result.claim_ref),
        "version": result.version,
        "outcome": result.outcome.name,
        "payer": result.payer,
        "payee": result.payee,
        "charge_cents": result.charge_cents,
        "paid_cents": result.paid_cents,
        "patient_cents": result.patient_cents,
        "height": result.height,
        "leaf": proof.leaf_index,
        "proof": proof.SerializeToString().hex(),
    }


async def alerts(session: Session, kafka: str) -> AsyncIterator[dict[str, Any]]:
    """The payer's fraud alerts from the first one that Kafka holds, without end.

    Raises ConnectionError where no broker answers.
    """
    await reach_kafka(kafka)
    topic = session.network.topic(ALERTS, session.organisation).name
    keys = service_keys(session.run, session.network, session.organisation, "client")
    consumer = make_consumer(kafka, topic, group=None, client_id="claimledger-tail")
    await consumer.start()
    try:
        async for record in consumer:
            value = keys.open(topic, record.key, ALERTS.schema, record.value, record.headers)
            alert = fraud_pb2.FraudAlert.FromString(value)
            yield {
                "control_number": control_number(alert.score.claim_ref),
                "version": alert.score.version,
                "score": round(alert.score.score, 4),
                "pended": alert.score.pended,
                "reasons": [f"{r.rule} ({r.weight:.2f}): {r.detail}" for r in alert.score.reasons],
                "time_ms": alert.time_ms,
            }
    finally:
        await consumer.stop()
