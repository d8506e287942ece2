"""Intake as it runs, inside the test's loop, and clients of it over real mTLS."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from claim_intake.evidence import Verify
from claim_intake.projecting import project
from claim_intake.serving import serve
from claim_intake.wiring import prepare
from claimledger.intake.v1 import intake_pb2_grpc
from runtime.grpc_channel import open_channel
from runtime.identity import Role, server_name
from tests.contract.intake.intake_world import World


@asynccontextmanager
async def serving(world: World, database: str = "", **settings: Any) -> AsyncIterator[World]:
    """The serving process; stopped as by SIGTERM at the end."""
    stop = asyncio.Event()
    ground = await prepare(world.settings(database, **settings))
    task = asyncio.create_task(serve(ground, stop))
    try:
        async with client(world, "clinic-a") as stub:
            await _answering(stub, task)
        yield world
    finally:
        stop.set()
        await task


@asynccontextmanager
async def projecting(world: World, verify: Verify, database: str = "", **settings: Any) -> AsyncIterator[None]:
    """The projecting process; stopped as by SIGTERM at the end."""
    stop = asyncio.Event()
    ground = await prepare(world.settings(database, **settings))
    task = asyncio.create_task(project(ground, stop, verify))
    try:
        yield
    finally:
        stop.set()
        await task


async def _answering(stub: Any, task: "asyncio.Task[None]") -> None:
    channel: grpc.aio.Channel = stub.channel
    ready = asyncio.create_task(channel.channel_ready())
    done, _ = await asyncio.wait([ready, task], timeout=10, return_when=asyncio.FIRST_COMPLETED)
    if task in done:
        task.result()
    assert ready in done


class Client:
    """The service's stub with its channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._stub: Any = intake_pb2_grpc.IntakeServiceStub(channel)

    def __getattr__(self, rpc: str) -> Any:
        return getattr(self._stub, rpc)


@asynccontextmanager
async def client(world: World, organisation: str, role: Role | None = None) -> AsyncIterator[Any]:
    """A stub with the certificate of an organisation of the world."""
    tls = world.caller(world.named(organisation), role)
    channel = open_channel(world.network.intake_address, tls, server_name("intake"))
    try:
        yield Client(channel)
    finally:
        await channel.close()
