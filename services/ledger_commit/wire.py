"""Consensus messages and their protobuf envelope: bytes of the fixed encoding in a oneof."""

from typing import Any, Final

from claimledger.ledger.v1 import ledger_pb2
from claims.encoding import Codec, DecodeError
from ledger_commit.consensus.messages import (
    PROPOSAL,
    QUORUM_CERT,
    SYNC_INFO,
    TIMEOUT,
    TIMEOUT_CERT,
    VOTE,
    Message,
    Proposal,
    QuorumCert,
    SyncInfo,
    Timeout,
    TimeoutCert,
    Vote,
)
from ledger_commit.last_seen import Signed, round_of

_FIELDS: Final[dict[type, tuple[str, Codec[Any]]]] = {
    Proposal: ("proposal", PROPOSAL),
    Vote: ("vote", VOTE),
    Timeout: ("timeout", TIMEOUT),
    TimeoutCert: ("timeout_cert", TIMEOUT_CERT),
    SyncInfo: ("sync_info", SYNC_INFO),
}
_CODECS: Final = dict(_FIELDS.values())
_SEEN_FIELDS: Final[dict[type, tuple[str, Codec[Any]]]] = {
    **{kind: _FIELDS[kind] for kind in (Proposal, Vote, Timeout)},
    QuorumCert: ("quorum_cert", QUORUM_CERT),
}
_SEEN_CODECS: Final = dict(_SEEN_FIELDS.values())
MAX_SEEN_BYTES: Final = 1024
"""Of the one message in an answer to GetLastSeen; a header and a QC, the longest of them, come to less."""


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


def to_last_seen(message: Signed | None) -> ledger_pb2.GetLastSeenResponse:
    if message is None:
        return ledger_pb2.GetLastSeenResponse()
    field, codec = _SEEN_FIELDS[type(message)]
    return ledger_pb2.GetLastSeenResponse(round=round_of(message), **{field: codec.encode(message)})


def from_last_seen(answer: ledger_pb2.GetLastSeenResponse) -> Signed | None:
    """The message, unverified; None where the peer has seen nothing.

    Raises DecodeError, also for a round that no message, or one of another round, stands beside.
    """
    field = answer.WhichOneof("message")
    if field is None and answer.round == 0:
        return None
    if field is None:
        raise DecodeError(f"nothing beside round {answer.round}", 0)
    encoded = getattr(answer, field)
    if len(encoded) > MAX_SEEN_BYTES:
        raise DecodeError(f"{len(encoded)} bytes beside round {answer.round}", MAX_SEEN_BYTES)
    message: Signed = _SEEN_CODECS[field].decode(encoded)
    if round_of(message) != answer.round:
        raise DecodeError(f"a message of round {round_of(message)} beside round {answer.round}", 0)
    return message
