"""Errors as a person reads them: what is wrong, where, and what to do."""

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cli.bootstrap import BootstrapError
from cli.claim_files import ClaimFileError
from cli.processes import ProcessError
from cli.session import UsageError
from runtime.broker import BrokerError
from runtime.pki import KeyFileError

EXPECTED = (
    UsageError, BootstrapError, ClaimFileError, ProcessError, BrokerError, KeyFileError, ConnectionError,
    FileNotFoundError, PermissionError,
)  # fmt: skip
"""Errors that say themselves what to do."""


def explain(error: grpc.RpcError) -> str:
    """Code, message and each located violation of a failed call."""
    code, details = error.code(), error.details()
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"nobody answers ({details}): see `claimledger status`, or start with `make up`"
    found = [f"{code.name}: {details}"]
    status = rpc_status.from_call(error) if hasattr(error, "trailing_metadata") else None
    for detail in status.details if status else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found += [f"  {violation.field}: {violation.description}" for violation in bad.field_violations]
    return "\n".join(found)
