"""Consensus messages and their protobuf envelope: bytes of the fixed encoding in a oneof."""

from typing import Any, Final

from claimledger.ledger.v1 import ledger_pb2
from claims.encoding import Codec
from ledger_commit.consensus.messages import (
    PROPOSAL,
    SYNC_INFO,
    TIMEOUT,
    TIMEOUT_CERT,
    VOTE,
    Message,
    Proposal,
    SyncInfo,
    Timeout,
    TimeoutCert,
    Vote,
)

_FIELDS: Final[dict[type, tuple[str, Codec[Any]]]] = {
    Proposal: ("proposal", PROPOSAL),
    Vote: ("vote", VOTE),
    Timeout: ("timeout", TIMEOUT),
    TimeoutCert: ("timeout_cert", TIMEOUT_CERT),
    SyncInfo: ("sync_info", SYNC_INFO),
}
_CODECS: Final = dict(_FIELDS.values())


def to_request(message: Message) -> ledger_pb2.ExchangeRequest:
    field, codec = _FIELDS[type(message)]
    return ledger_pb2.ExchangeRequest(**{field: codec.encode(message)})


def from_request(request: ledger_pb2.ExchangeRequest) -> Message | bytes | None:
    """The message, or the bytes of a batch, or None for an empty request. Raises DecodeError."""
    field = request.WhichOneof("message")
    if field is None:
        return None
    if field == "batch":
        return request.batch
    message: Message = _CODECS[field].decode(getattr(request, field))
    return message
