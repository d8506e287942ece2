"""DuplicateTagService: HMAC-SHA256 over each element. Counts what each organisation asks; answers only services."""

import hmac
from collections import Counter
from typing import Any, Final

from claimledger.tags.v1 import tags_pb2, tags_pb2_grpc
from runtime.errors import InvalidArgumentError, PermissionDeniedError, Violation
from runtime.identity import Role, identity_of
from runtime.unknown_fields import refuse_unknown_fields

MAX_ELEMENTS: Final = 2000
ELEMENT_BYTES: Final = 32
GENERATION: Final = 1
_LABEL: Final = b"claims/duplicate-tag/hmac/v1"


def evaluate(key: bytes, element: bytes) -> bytes:
    """The tag of an element, 32 bytes."""
    return hmac.digest(key, _LABEL + element, "sha256")


class TagServicer(tags_pb2_grpc.DuplicateTagServiceServicer):
    def __init__(self, key: bytes) -> None:
        self._key = key
        self.evaluated: Counter[str] = Counter()
        """Elements by organisation."""

    async def Evaluate(self, request: tags_pb2.EvaluateRequest, context: Any) -> tags_pb2.EvaluateResponse:
        caller = identity_of(context)
        if caller.role is not Role.SERVICE:
            raise PermissionDeniedError(f"role {caller.role} may not ask for tags")
        refuse_unknown_fields(request)
        if not 1 <= len(request.elements) <= MAX_ELEMENTS:
            raise _invalid("elements", f"{len(request.elements)} elements, 1 to {MAX_ELEMENTS} are allowed")
        for position, element in enumerate(request.elements):
            if len(element) != ELEMENT_BYTES:
                raise _invalid(f"elements[{position}]", f"{len(element)} bytes, {ELEMENT_BYTES} are due")
        if request.generation not in {0, GENERATION}:
            raise _invalid("generation", f"only generation {GENERATION} is in force")
        self.evaluated[caller.organisation] += len(request.elements)
        tags = [evaluate(self._key, element) for element in request.elements]
        return tags_pb2.EvaluateResponse(evaluations=tags, generation=GENERATION)


def _invalid(field: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field}: {why}", violations=[Violation(field, why)])
