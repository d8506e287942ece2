"""Duplicate tags of service lines, from the neutral tag service.

The client has the shape of the oblivious evaluation that will follow: an element is blinded, evaluated by the service,
unblinded. For now blinding is the identity, and the service holds an HMAC key that no payer has; it sees only hashes. A
tag says that two lines are the same service for the same person, and nothing else.

Source: security.md, Duplicate tags across payers; ADR 0007.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import grpc

from claimledger.tags.v1 import tags_pb2, tags_pb2_grpc
from runtime.grpc_channel import WrongServerError, open_channel, require_right_server
from runtime.identity import server_name
from runtime.log import get_logger
from runtime.pki import TlsFiles

_LABEL: Final = b"claims/duplicate-tag/v1"
SERVER: Final = server_name("tags")
MAX_ELEMENTS: Final = 2000
CACHED_TAGS: Final = 50_000
TAG_BYTES: Final = 32
TIMEOUT_S: Final = 5.0
RETRY_PAUSE_S: Final = (0.1, 2.0)


def element(stable_id: str, npi: str, service_day: int, procedure: str, modifiers: Sequence[str], tooth: str) -> bytes:
    """What identifies a service of a person across payers, hashed: 32 bytes. Parts are length-prefixed."""
    parts = (stable_id, npi, str(service_day), procedure, ",".join(sorted(modifiers)), tooth)
    raw = [part.encode() for part in parts]
    return hashlib.sha256(_LABEL + b"".join([len(part).to_bytes(2, "big") + part for part in raw])).digest()


class DuplicateTagger:
    """Asks for tags in bounded batches, remembers a bounded number, and tries again while the service is away."""

    def __init__(self, address: str, tls: TlsFiles) -> None:
        self._address = address
        self._tls = tls
        self._channel: grpc.aio.Channel | None = None
        self._known: OrderedDict[bytes, bytes] = OrderedDict()

    async def tags(self, elements: Sequence[bytes]) -> Sequence[bytes]:
        """One tag of 32 bytes for each element, in order."""
        missing = list(dict.fromkeys(e for e in elements if e not in self._known))
        found = {e: self._known[e] for e in elements if e in self._known}
        for start in range(0, len(missing), MAX_ELEMENTS):
            found |= await self._evaluate(missing[start : start + MAX_ELEMENTS])
        self._remember(found)
        return [found[e] for e in elements]

    def _remember(self, found: dict[bytes, bytes]) -> None:
        self._known.update(found)
        while len(self._known) > CACHED_TAGS:
            self._known.popitem(last=False)

    async def _evaluate(self, elements: list[bytes]) -> dict[bytes, bytes]:
        blinded = [_blind(e) for e in elements]
        answer = await self._ask(tags_pb2.EvaluateRequest(elements=blinded))
        tags = [_unblind(evaluation) for evaluation in answer.evaluations]
        return dict(zip(elements, tags, strict=True))

    async def _ask(self, request: tags_pb2.EvaluateRequest) -> tags_pb2.EvaluateResponse:
        """Until there is an answer that can be used: without tags nothing may go on, and nothing is lost by waiting.

        An answer that cannot is the service's failure as its absence is, and not that of the record which asked.
        """
        pause, longest = RETRY_PAUSE_S
        while True:
            # Opened here, since a Faust worker makes its loop late.
            self._channel = self._channel or open_channel(self._address, self._tls, SERVER)
            try:
                stub = tags_pb2_grpc.DuplicateTagServiceStub(self._channel)
                answer = await stub.Evaluate(request, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                if error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED}:
                    raise
                self._say(error)
            else:
                if not (why := _unusable(answer.evaluations, len(request.elements))):
                    return answer
                get_logger("tags").error("tag_service_wrong", reason=why)
            await asyncio.sleep(pause)
            pause = min(longest, pause * 2)

    def _say(self, error: grpc.aio.AioRpcError) -> None:
        try:
            require_right_server(error, self._address, SERVER)
        except WrongServerError as wrong:
            get_logger("tags").error("wrong_server", expected=SERVER, reason=str(wrong))
        else:
            get_logger("tags").warning("tag_service_away", code=error.code().name)

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


def _unusable(tags: Sequence[bytes], wanted: int) -> str:
    """Why these cannot be the tags of so many elements; empty where they can."""
    if len(tags) != wanted:
        return f"{len(tags)} tags for {wanted} elements"
    wrong = [len(tag) for tag in tags if len(tag) != TAG_BYTES]
    return f"a tag of {wrong[0]} bytes, {TAG_BYTES} are due" if wrong else ""


def _blind(plain: bytes) -> bytes:
    return plain


def _unblind(evaluation: bytes) -> bytes:
    return evaluation
