"""Streams of answers over real connections: how many there may be, and what becomes of a reader who does not read."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from runtime import grpc_server
from runtime.errors import read_error
from runtime.grpc_server import GrpcServer
from runtime.identity import Role, identity_of, server_name
from runtime.stream_limits import StreamLimits
from tests.fixtures.tls import Certificates

SERVICE = "claimledger.intake.v1.IntakeService"
OF_ONE, OF_ALL = 2, 3
STALL_S = 0.4
NARROW = (
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 64 * 1024),
    ("grpc.ssl_target_name_override", server_name("intake")),
)
"""A connection that takes 64 KiB ahead of its reader and no more, however fast it is."""


class Endless(intake_pb2_grpc.IntakeServiceServicer):
    """Answers of 32 KiB for ever."""

    def __init__(self) -> None:
        self.limits = StreamLimits(OF_ONE, OF_ALL)

    async def TrackClaims(self, _request: Any, context: Any) -> AsyncIterator[intake_pb2.TrackClaimsResponse]:  # noqa: N802
        self.limits.admit(identity_of(context).organisation, context)
        while True:
            yield intake_pb2.TrackClaimsResponse(detail="x" * 32 * 1024)
            await asyncio.sleep(0)


class Served:
    """The server, and streams from it."""

    def __init__(self, certificates: Certificates) -> None:
        self.servicer = Endless()  # type: ignore[abstract]  # nothing else is called
        self.certificates = certificates
        self.server = GrpcServer("127.0.0.1:0", certificates("intake", Role.SERVICE))
        intake_pb2_grpc.add_IntakeServiceServicer_to_server(self.servicer, self.server.grpc)
        self.port = 0
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def stream(self, organisation: str) -> Any:
        """A stream of which one answer has been read."""
        if organisation not in self._channels:
            key, chain, root = self.certificates(organisation, Role.PROVIDER).read()
            credentials = grpc.ssl_channel_credentials(root, key, chain)
            self._channels[organisation] = grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, NARROW)
        stub: Any = intake_pb2_grpc.IntakeServiceStub(self._channels[organisation])
        stream = stub.TrackClaims(intake_pb2.TrackClaimsRequest())
        await stream.read()
        return stream

    async def refused(self, organisation: str) -> Any:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.stream(organisation)
        return read_error(caught.value)

    async def open_streams(self, expected: dict[str, int]) -> None:
        """Returns when so many streams are counted."""
        async with asyncio.timeout(5):
            while dict(self.servicer.limits.open) != expected:
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
        await self.server.drain(0)


@pytest.fixture
async def served(certificates: Certificates) -> AsyncIterator[Served]:
    made = Served(certificates)
    made.port = await made.server.start(SERVICE)
    yield made
    await made.close()


async def test_an_organisation_has_so_many_streams_and_one_more_when_one_has_ended(served: Served) -> None:
    """The bound is in the message; another organisation is not touched by it."""
    first, _ = [await served.stream("clinic-a") for _ in range(OF_ONE)]
    error = await served.refused("clinic-a")
    assert (error.code, error.reason, error.retry_after_ms) == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS", 1_000)
    assert f"clinic-a has {OF_ONE} streams open" in error.message
    await served.stream("clinic-b")
    first.cancel()
    await served.open_streams({"clinic-a": OF_ONE - 1, "clinic-b": 1})
    await served.stream("clinic-a")


async def test_all_organisations_together_have_so_many_streams(served: Served) -> None:
    for number in range(OF_ALL):
        await served.stream(f"clinic-{number}")
    error = await served.refused("clinic-more")
    assert error.code == "RESOURCE_EXHAUSTED"
    assert f"{OF_ALL} streams are open" in error.message
    await served.open_streams({f"clinic-{number}": 1 for number in range(OF_ALL)})


async def test_a_reader_who_takes_nothing_is_let_go_and_a_slow_one_is_not(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the stalled stream held is free for others; the slow one reads on through more than two stall times."""
    monkeypatch.setattr(grpc_server, "LONGEST_STALL_S", STALL_S)
    stalled = await served.stream("clinic-a")
    slow = await served.stream("clinic-b")
    for _ in range(60):
        assert (await slow.read()).detail
        await asyncio.sleep(STALL_S / 20)
    assert dict(served.servicer.limits.open) == {"clinic-b": 1}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all(stalled)
    assert (read_error(caught.value).code, read_error(caught.value).reason) == ("RESOURCE_EXHAUSTED", "STREAM_STALLED")
    async with asyncio.timeout(5):
        while grpc_server._TELLING:
            await asyncio.sleep(0.01)


async def read_all(stream: Any) -> None:
    async with asyncio.timeout(5):
        while await stream.read() is not grpc.aio.EOF:
            pass
