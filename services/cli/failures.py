"""Errors as a person reads them: what is wrong, where, and what to do."""

import grpc
from aiokafka.errors import KafkaError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cli.bootstrap import BootstrapError
from cli.claim_files import ClaimFileError
from cli.processes import ProcessError
from cli.session import UsageError
from runtime.broker import BrokerError
from runtime.grpc_channel import WrongServerError
from runtime.pki import KeyFileError
from runtime.publishing_cursor import ForeignTopicsError

EXPECTED = (
    grpc.RpcError, UsageError, BootstrapError, ClaimFileError, ProcessError, BrokerError, KeyFileError, KafkaError,
    OSError, ForeignTopicsError, WrongServerError,
)  # fmt: skip
"""What the surroundings may do to a command; anything else is a bug and shows its traceback."""

_REMEDIES = {
    grpc.StatusCode.UNAVAILABLE: "see `claimledger status`, or start with `claimledger up`",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the service is there and slow: try again, or see `claimledger status`",
    grpc.StatusCode.NOT_FOUND: "a claim exists for its submitter, payer and billing provider alone: see --org",
    grpc.StatusCode.PERMISSION_DENIED: "the certificate's role may not do this: see --org",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "try again in a moment",
}


def describe(error: BaseException) -> str:
    """One of EXPECTED for people."""
    if isinstance(error, grpc.RpcError):
        return explain(error)
    if isinstance(error, KafkaError):
        return f"Kafka: {error}: see `claimledger status`"
    if isinstance(error, OSError) and error.filename is not None:
        return _file_error(error)
    return str(error)


def explain(error: grpc.RpcError) -> str:
    """Code, message and each located violation of a failed call, and what to do where that is known."""
    code, details = error.code(), error.details()
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"nobody answers ({details}): {_REMEDIES[code]}"
    violations = [f"  {v.field}: {v.description}" for v in _violations(error)]
    remedy = f" ({_REMEDIES[code]})" if code in _REMEDIES else ""
    return "\n".join([f"{code.name}: {details}{remedy}", *violations])


def _violations(error: grpc.RpcError) -> list[error_details_pb2.BadRequest.FieldViolation]:
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details that contradict the code: the code and message alone are shown
        return []
    found = []
    for detail in status.details if status else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found += bad.field_violations
    return found


def _file_error(error: OSError) -> str:
    remedies = {
        PermissionError: "run as its owner, or give yourself the right",
        FileNotFoundError: "check the path, or name the network with --run",
    }
    remedy = next((text for kind, text in remedies.items() if isinstance(error, kind)), "")
    return f"{error.filename}: {error.strerror}{f': {remedy}' if remedy else ''}"
