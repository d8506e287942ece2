"""The first process: IntakeService and the relay."""

import asyncio

from claim_intake.acceptance import Acceptance
from claim_intake.group_commit import GroupCommit
from claim_intake.keyring import KeyRing
from claim_intake.relay import Relay
from claim_intake.servicer import IntakeServicer
from claim_intake.store import outbox
from claim_intake.tail import EventTail
from claim_intake.wiring import Ground, idempotency_secret, now_ms, only_one
from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from runtime.grpc_server import GrpcServer
from runtime.identity import server_name
from runtime.kafka import SealingProducer, make_producer
from runtime.process import announce, run_together
from runtime.publishing_cursor import wait_for_own_topics

LEASE_MS = 10_000
GRACE_SECONDS = 2.0
SERVICE = intake_pb2.DESCRIPTOR.services_by_name["IntakeService"].full_name


async def serve(ground: Ground, stop: asyncio.Event) -> None:
    """Serves until `stop`: then no new call is taken, what is being accepted is finished, and the relay ends."""
    settings, database = ground.settings, ground.database
    place = only_one(settings.data, "serve") if database.is_sqlite else None
    try:
        keys = KeyRing(ground.network, ground.organisation, ground.private, now_ms)
        relay = _relay(ground, keys)
        writer = GroupCommit(
            database,
            relay.offer,
            now_ms,
            outbox_limit=settings.intake_outbox_limit,
            lease_ms=LEASE_MS,
            overdue_ms=settings.intake_overdue_ms,
        )
        relay.writer = writer
        await _take_over_outbox(ground, writer)
        secret = idempotency_secret(ground.directory)
        acceptance = Acceptance(ground.network, keys, secret, settings.intake_zones, now_ms)
        tail = EventTail(database)
        await _serve_until(ground, stop, IntakeServicer(acceptance, writer, database, tail), writer, relay, tail)
    finally:
        await database.close()
        if place is not None:
            place.close()


def _relay(ground: Ground, keys: KeyRing) -> Relay:
    network = ground.network
    return Relay(
        ground.database,
        keys,
        lambda: _producer(ground),
        network.buckets,
        now_ms,
        ready=lambda: wait_for_own_topics(ground.kafka, network),
        topic_prefix=network.topic_prefix,
    )


async def _serve_until(
    ground: Ground, stop: asyncio.Event, servicer: IntakeServicer, writer: GroupCommit, relay: Relay, tail: EventTail
) -> None:
    tls = ground.settings.tls(ground.organisation)
    tls.require_server(server_name("intake"))
    server = GrpcServer(ground.settings.intake_address or ground.network.intake_address, tls)
    intake_pb2_grpc.add_IntakeServiceServicer_to_server(servicer, server.grpc)
    port = await server.start(SERVICE)
    announce(
        "claim-intake",
        grpc=f"{server.address.rsplit(':', 1)[0]}:{port}",
        metrics=ground.settings.metrics_port,
        database=ground.database.url.render_as_string(),
        kafka=ground.kafka,
        logs=str(ground.settings.run / "logs"),
    )

    async def drain() -> None:
        await stop.wait()
        await server.drain(GRACE_SECONDS)
        await relay.settle(GRACE_SECONDS)

    try:
        await run_together(writer.run(), relay.run(), tail.run(), drain())
    finally:
        await server.drain(0)


async def _take_over_outbox(ground: Ground, writer: GroupCommit) -> None:
    """On SQLite this is the only relay: what its predecessor had in hand is free at once."""
    if ground.database.is_sqlite:
        async with ground.database.writing() as connection:
            await outbox.release_leases(connection)
    async with ground.database.reading() as connection:
        writer.outbox_rows = await outbox.size(connection)


def _producer(ground: Ground) -> SealingProducer:
    return SealingProducer(make_producer(ground.kafka, "claim-intake"), ground.topic_keys, "claim-intake")
