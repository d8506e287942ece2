"""The gRPC shell over real connections: mutual TLS, identity, rich errors, deadline, health, drain."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from claimledger.tags.v1 import tags_pb2, tags_pb2_grpc
from runtime.errors import InvalidArgumentError, ResourceExhaustedError, Violation, read_error
from runtime.grpc_channel import open_channel
from runtime.grpc_server import GrpcServer
from runtime.identity import Identity, Role, identity_of, server_name
from tests.fixtures.tls import Certificates

SERVICE = "claimledger.tags.v1.DuplicateTagService"


class Tags(tags_pb2_grpc.DuplicateTagServiceServicer):
    """Fails in the way that the request's generation asks for, else echoes; remembers its caller."""

    def __init__(self) -> None:
        self.caller: Identity | None = None
        self.slow = asyncio.Event()

    async def Evaluate(self, request: Any, context: Any) -> Any:  # noqa: N802 - named by the contract
        self.caller = identity_of(context)
        if request.generation == 1:
            raise InvalidArgumentError("bad", violations=[Violation("elements[3]", "31 bytes")])
        if request.generation == 2:
            raise ResourceExhaustedError("full", retry_after_ms=250)
        if request.generation == 3:
            raise ZeroDivisionError("a secret of the claim")
        if request.generation == 4:
            await self.slow.wait()
        return tags_pb2.EvaluateResponse(evaluations=request.elements)


@pytest.fixture
async def server(certificates: Certificates) -> AsyncIterator[tuple[GrpcServer, Tags, str]]:
    servicer = Tags()
    made = GrpcServer("127.0.0.1:0", certificates("tags", Role.SERVICE))
    tags_pb2_grpc.add_DuplicateTagServiceServicer_to_server(servicer, made.grpc)
    port = await made.start(SERVICE)
    yield made, servicer, f"127.0.0.1:{port}"
    await made.drain(0)


async def call(address: str, tls: Any, generation: int, timeout_s: float = 5) -> Any:
    async with open_channel(address, tls, server_name("tags")) as channel:
        stub = tags_pb2_grpc.DuplicateTagServiceStub(channel)
        return await stub.Evaluate(tags_pb2.EvaluateRequest(elements=[b"x"], generation=generation), timeout=timeout_s)


async def test_the_caller_is_who_the_certificate_says(server: Any, certificates: Certificates) -> None:
    _, servicer, address = server
    assert (await call(address, certificates("payer-a", Role.INSURER), 0)).evaluations == [b"x"]
    assert servicer.caller == Identity("payer-a", Role.INSURER)


async def test_without_a_certificate_nothing_is_reached(server: Any, certificates: Certificates) -> None:
    _, servicer, address = server
    root = certificates("payer-a", Role.INSURER).authority.read_bytes()
    named = [("grpc.ssl_target_name_override", server_name("tags"))]  # else the client would refuse the server
    async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(root), named) as channel:
        stub = tags_pb2_grpc.DuplicateTagServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Evaluate(tags_pb2.EvaluateRequest(), timeout=3)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert servicer.caller is None


async def test_errors_carry_their_details(server: Any, certificates: Certificates) -> None:
    _, _, address = server
    tls = certificates("payer-a", Role.INSURER)
    seen = []
    for generation in (1, 2, 3):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(address, tls, generation)
        seen.append(read_error(error.value))
    assert (seen[0].code, seen[0].violations) == ("INVALID_ARGUMENT", (Violation("elements[3]", "31 bytes"),))
    assert (seen[1].code, seen[1].reason, seen[1].retry_after_ms) == ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", 250)
    assert (seen[2].code, "secret" in seen[2].message) == ("INTERNAL", False)


async def test_health_answers_and_a_drain_lets_the_running_call_end(server: Any, certificates: Certificates) -> None:
    made, servicer, address = server
    tls = certificates("payer-a", Role.INSURER)
    async with open_channel(address, tls, server_name("tags")) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=3)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    running = asyncio.ensure_future(call(address, tls, 4))
    while servicer.caller is None:
        await asyncio.sleep(0.01)
    draining = asyncio.ensure_future(made.drain(5))
    await asyncio.sleep(0.05)
    servicer.slow.set()
    assert (await running).evaluations == [b"x"]
    await draining


async def test_a_busy_port_is_named(server: Any, certificates: Certificates) -> None:
    _, _, address = server
    with pytest.raises(OSError, match=address):
        await GrpcServer(address, certificates("tags", Role.SERVICE)).start(SERVICE)
