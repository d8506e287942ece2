"""DuplicateTagService as it runs: its bounds at their edges, whom it answers, and fields that nobody knows."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from claimledger.tags.v1 import tags_pb2, tags_pb2_grpc
from duplicate_tags.service import ELEMENT_BYTES, MAX_ELEMENTS, TagServicer, evaluate
from runtime.errors import read_error
from runtime.grpc_channel import open_channel
from runtime.grpc_server import GrpcServer
from runtime.identity import Role, server_name
from tests.fixtures.tls import Certificates

KEY = bytes(32)
ELEMENT = bytes(ELEMENT_BYTES)


@pytest.fixture
async def address(certificates: Certificates) -> AsyncIterator[str]:
    server = GrpcServer("127.0.0.1:0", certificates("tags", Role.SERVICE))
    tags_pb2_grpc.add_DuplicateTagServiceServicer_to_server(TagServicer(KEY), server.grpc)
    yield f"127.0.0.1:{await server.start('claimledger.tags.v1.DuplicateTagService')}"
    await server.drain(0)


async def ask(address: str, certificates: Certificates, request: Any, role: Role = Role.SERVICE) -> Any:
    async with open_channel(address, certificates("payer-a", role), server_name("tags")) as channel:
        return await tags_pb2_grpc.DuplicateTagServiceStub(channel).Evaluate(request, timeout=5)


@pytest.mark.parametrize(("count", "generation"), [(1, 0), (MAX_ELEMENTS, 1)])
async def test_what_just_holds_is_evaluated(
    address: str, certificates: Certificates, count: int, generation: int
) -> None:
    answer = await ask(
        address, certificates, tags_pb2.EvaluateRequest(elements=[ELEMENT] * count, generation=generation)
    )
    assert (list(answer.evaluations), answer.generation) == ([evaluate(KEY, ELEMENT)] * count, 1)


@pytest.mark.parametrize(
    ("elements", "generation", "field"),
    [
        ([], 0, "elements"),
        ([ELEMENT] * (MAX_ELEMENTS + 1), 0, "elements"),
        ([ELEMENT, ELEMENT[1:]], 0, "elements[1]"),
        ([ELEMENT + b"x"], 0, "elements[0]"),
        ([ELEMENT], 2, "generation"),
    ],
)
async def test_what_just_breaks_is_refused_at_its_place(
    address: str, certificates: Certificates, elements: list[bytes], generation: int, field: str
) -> None:
    request = tags_pb2.EvaluateRequest(elements=elements, generation=generation)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(address, certificates, request)
    error = read_error(caught.value)
    assert (error.code, [v.field for v in error.violations]) == ("INVALID_ARGUMENT", [field])


async def test_a_field_that_nobody_knows_is_refused_by_its_number(address: str, certificates: Certificates) -> None:
    request = tags_pb2.EvaluateRequest(elements=[ELEMENT])
    request.MergeFromString(b"\xa0\x06\x06")  # field 100, varint 6
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(address, certificates, request)
    error = read_error(caught.value)
    assert [(v.field, v.rule) for v in error.violations] == [("request", "request.unknown_field")]
    assert "100" in error.violations[0].description
