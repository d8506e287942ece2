"""DuplicateTagService as it runs: its bounds at their edges, whom it answers, and fields that nobody knows."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from claimledger.tags.v1 import tags_pb2, tags_pb2_grpc
from duplicate_tags.service import ELEMENT_BYTES, MAX_ELEMENTS, TagServicer, evaluate
from runtime.duplicate_tags import DuplicateTagger
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


class Faulty(TagServicer):
    """Answers wrongly at first: with these tags."""

    def __init__(self, *wrong: list[bytes]) -> None:
        super().__init__(KEY)
        self.wrong = list(wrong)

    async def Evaluate(self, request: Any, context: Any) -> Any:  # noqa: N802 - named by the contract
        if self.wrong:
            return tags_pb2.EvaluateResponse(evaluations=self.wrong.pop(0))
        return await super().Evaluate(request, context)


async def test_answers_that_are_no_tags_are_waited_out_and_fail_no_record(certificates: Certificates) -> None:
    """Too few, too many, one too short: validation asks again, as it does while the service is away, and says so."""
    tag, asked = bytes(32), [ELEMENT, bytes([1] * ELEMENT_BYTES)]
    server = GrpcServer("127.0.0.1:0", certificates("tags", Role.SERVICE))
    faulty = Faulty([tag], [tag] * 3, [tag, tag[1:]])
    tags_pb2_grpc.add_DuplicateTagServiceServicer_to_server(faulty, server.grpc)
    address = f"127.0.0.1:{await server.start('claimledger.tags.v1.DuplicateTagService')}"
    tagger = DuplicateTagger(address, certificates("payer-a", Role.SERVICE))
    with capture_logs() as logs:
        assert await asyncio.wait_for(tagger.tags(asked), 10) == [evaluate(KEY, element) for element in asked]
    await tagger.close()
    await server.drain(0)
    assert [row["reason"] for row in logs if row["event"] == "tag_service_wrong"] == [
        "1 tags for 2 elements",
        "3 tags for 2 elements",
        "a tag of 31 bytes, 32 are due",
    ]


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
