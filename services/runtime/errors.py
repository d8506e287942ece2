"""Errors that a caller sees, and the one table that maps them to gRPC codes.

A servicer raises one of these; the server's interceptor turns it into a status with details from google.rpc:
BadRequest for located violations, ErrorInfo with a stable reason, RetryInfo where trying again may help.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

ERROR_DOMAIN: Final = "claimledger"


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong and where: `field` is a path like `claims[3].lines[0].charge_cents`, `rule` an id like `intake.range`."""

    field: str
    description: str
    rule: str = ""


class RpcError(Exception):
    """An error with a gRPC code. `reason` is an UPPER_SNAKE word that programs may rely on."""

    reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        violations: Sequence[Violation] = (),
        retry_after_ms: int | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.reason
        self.violations = tuple(violations)
        self.retry_after_ms = retry_after_ms
        self.metadata = metadata or {}


class InvalidArgumentError(RpcError):
    """The request is wrong whatever the state is; give violations."""

    reason = "INVALID_ARGUMENT"


class UnauthenticatedError(RpcError):
    reason = "UNAUTHENTICATED"


class PermissionDeniedError(RpcError):
    """The role may not call this. A foreign claim is NotFoundError, so that its existence is not told."""

    reason = "ROLE_NOT_ALLOWED"


class NotFoundError(RpcError):
    reason = "NOT_FOUND"


class AlreadyExistsError(RpcError):
    """The same key came before with another body."""

    reason = "KEY_REUSED"


class FailedPreconditionError(RpcError):
    reason = "FAILED_PRECONDITION"


class ResourceExhaustedError(RpcError):
    """A queue, quota or outbox is full; give retry_after_ms."""

    reason = "RESOURCE_EXHAUSTED"


class UnavailableError(RpcError):
    reason = "UNAVAILABLE"


class DeadlineTooShortError(RpcError):
    """Less time remains than the work needs, so it is not begun."""

    reason = "DEADLINE_TOO_SHORT"


class NotSupportedError(RpcError):
    """Known, and refused for now."""

    reason = "NOT_SUPPORTED"


CODES: Final[dict[type[RpcError], grpc.StatusCode]] = {
    InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    DeadlineTooShortError: grpc.StatusCode.DEADLINE_EXCEEDED,
    NotSupportedError: grpc.StatusCode.UNIMPLEMENTED,
}


def code_of(error: RpcError) -> grpc.StatusCode:
    """The code of the nearest class in the table; INTERNAL for one that has no row."""
    return next((CODES[c] for c in type(error).__mro__ if c in CODES), grpc.StatusCode.INTERNAL)


def _reason_of(rule: str) -> str:
    """`intake.unknown_field` in the form that google.rpc asks of a reason: INTAKE_UNKNOWN_FIELD."""
    return rule.replace(".", "_").upper()


def _rule_of(reason: str) -> str:
    """And back: a rule's first word is whose it is."""
    return reason.lower().replace("_", ".", 1)


def status_of(error: RpcError) -> status_pb2.Status:
    """The rich status of an error."""
    status = status_pb2.Status(code=code_of(error).value[0], message=error.message)
    details: list[object] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata)
    ]
    if error.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=v.field, description=v.description, reason=_reason_of(v.rule)
                    )
                    for v in error.violations
                ]
            )
        )
    if error.retry_after_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)  # type: ignore[arg-type]
        status.details.append(packed)
    return status


@dataclass(frozen=True, slots=True)
class RemoteError:
    """What a caller can read from a failed RPC."""

    code: str
    message: str
    reason: str
    violations: tuple[Violation, ...]
    retry_after_ms: int | None


def read_error(error: grpc.aio.AioRpcError) -> RemoteError:
    """Code, message and details of a failed call; for the command line and for tests."""
    status = rpc_status.from_call(error)
    reason, violations, retry = "", [], None
    for detail in status.details if status else ():
        info, bad, again = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            violations = [Violation(v.field, v.description, _rule_of(v.reason)) for v in bad.field_violations]
        elif detail.Unpack(again):
            retry = again.retry_delay.ToMilliseconds()
    return RemoteError(error.code().name, error.details() or "", reason, tuple(violations), retry)
