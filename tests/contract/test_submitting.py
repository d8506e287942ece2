"""The patient submitter against an intake that breaks its streams: every claim is answered, none is left behind."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from cli import submitting
from cli.submitting import Submitter

BATCHES = 120


class BreakingIntake(intake_pb2_grpc.IntakeServiceServicer):
    """Answers a few batches of each stream and then ends it, between two batches or with some unanswered."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.streams = 0

    async def SubmitClaims(self, requests: Any, context: Any) -> AsyncIterator[intake_pb2.SubmitClaimsResponse]:  # noqa: N802
        self.streams += 1
        left = self.chance.randrange(1, 12)
        async for request in requests:
            if left == 0:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
            left -= 1
            answers = [
                intake_pb2.ClaimAnswer(accepted=intake_pb2.Accepted(control_number=claim.client_key))
                for claim in request.claims
            ]
            yield intake_pb2.SubmitClaimsResponse(sequence=request.sequence, answers=answers)
            if left == 0 and self.chance.random() < 0.5:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")


class Somewhere:
    """What a Submitter needs of a session: the way to intake."""

    def __init__(self, port: int) -> None:
        self._port = port

    def intake_channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"127.0.0.1:{self._port}")


@asynccontextmanager
async def intake(servicer: BreakingIntake) -> AsyncIterator[Any]:
    server = grpc.aio.server()
    intake_pb2_grpc.add_IntakeServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Somewhere(port)
    finally:
        await server.stop(0)


async def test_every_batch_is_answered_over_broken_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches come while a stream is breaking: the requests of the dying stream must not swallow them."""
    monkeypatch.setattr(submitting, "RECONNECT_S", 0.005)
    answered: Counter[str] = Counter()
    servicer = BreakingIntake(seed=4)  # type: ignore[abstract]  # it has what a Submitter calls  # type: ignore[abstract]

    def note(request: intake_pb2.SubmitClaimRequest, answer: intake_pb2.ClaimAnswer) -> None:
        assert answer.accepted.control_number == request.client_key, "an answer belongs to its request"
        answered[request.client_key] += 1

    async with intake(servicer) as session:
        submitter = Submitter(session, note)
        running = asyncio.ensure_future(submitter.run())
        for number in range(BATCHES):
            await submitter.put([intake_pb2.SubmitClaimRequest(client_key=f"{number}-{i}") for i in range(2)])
            await asyncio.sleep(0.002 * servicer.chance.random())
        await submitter.close()
        await asyncio.wait_for(running, 20)
    assert servicer.streams > 10
    assert answered == Counter({f"{number}-{i}": 1 for number in range(BATCHES) for i in range(2)})
