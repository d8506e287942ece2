"""Proof that a member signed what no honest replica signs, for anybody who has the committee.

A piece is two statements of one member under its own signatures, which contradict each other. An honest replica makes its
statements durable before they leave and repeats only the same ones, so that no order of messages and no restart makes a
piece of what it says. What a lost record makes of it is excused by the operator's statement (`Court.excuses`).

Source: consensus.md §3, §5 V11; docs/adr/0018-evidence-in-blocks.md.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, Any, Final

from claims.encoding import U64, Codec, DecodeError, Fixed
from ledger_commit.consensus.certificates import Signatures
from ledger_commit.consensus.committee import Committee
from ledger_commit.consensus.messages import (
    BATCH_REF,
    VOTE_DATA,
    BatchRef,
    BlsSignature,
    Header,
    MemberIndex,
    Round,
    Timeout,
    Vote,
    batch_message,
    block_id,
    timeout_message,
    vote_message,
)

VERDICTS_LIMIT: Final = 1024
"""Remembered pieces: more than a committee of 64 can have on the chain in an epoch (5 for each member)."""
VerifyLane = Callable[[bytes, bytes, bytes], bool]
"""Ed25519 over (public key, message, signature)."""


class EvidenceKind(IntEnum):
    DOUBLE_VOTE = 1
    DOUBLE_PROPOSAL = 2
    LOCK_VIOLATION = 3
    DOUBLE_TIMEOUT = 4
    DOUBLE_BATCH = 5


@dataclass(frozen=True, slots=True)
class SignedHeader:
    """A proposal without what its signature does not need."""

    header: Header
    signature: BlsSignature


@dataclass(frozen=True, slots=True)
class SignedTimeout:
    """A timeout as it is signed: of its certificates the round of the high QC alone."""

    epoch: Annotated[int, U64]
    round: Round
    high_qc_round: Round
    voter: MemberIndex
    signature: BlsSignature


@dataclass(frozen=True, slots=True)
class SignedBatch:
    """A batch as its lane signs it, without its records."""

    ref: BatchRef
    signature: Annotated[bytes, Fixed(64)]


@dataclass(frozen=True, slots=True)
class DoubleVote:
    """Two votes of one round that say different things; the one with the lower data first."""

    first: Vote
    second: Vote


@dataclass(frozen=True, slots=True)
class DoubleProposal:
    """Two blocks of one round; the one with the lower id first."""

    first: SignedHeader
    second: SignedHeader


@dataclass(frozen=True, slots=True)
class LockViolation:
    """A vote on a parent whose QC is above the high QC that a timeout of that round or a later one tells of."""

    first: Vote
    second: SignedTimeout


@dataclass(frozen=True, slots=True)
class DoubleTimeout:
    """Two timeouts of one round with different high QCs; the one with the lower first."""

    first: SignedTimeout
    second: SignedTimeout


@dataclass(frozen=True, slots=True)
class DoubleBatch:
    """Two batches for one place of a lane; the one with the lower reference first."""

    first: SignedBatch
    second: SignedBatch


Statement = Vote | SignedHeader | SignedTimeout | SignedBatch
Evidence = DoubleVote | DoubleProposal | LockViolation | DoubleTimeout | DoubleBatch
Charge = tuple[int, EvidenceKind]
"""Whom a piece accuses of what. One piece for each in an epoch: a second one tells nothing more."""

DOUBLE_VOTE: Final = Codec(DoubleVote)
DOUBLE_PROPOSAL: Final = Codec(DoubleProposal)
LOCK_VIOLATION: Final = Codec(LockViolation)
DOUBLE_TIMEOUT: Final = Codec(DoubleTimeout)
DOUBLE_BATCH: Final = Codec(DoubleBatch)
_CODECS: Final[dict[EvidenceKind, Codec[Any]]] = {
    EvidenceKind.DOUBLE_VOTE: DOUBLE_VOTE,
    EvidenceKind.DOUBLE_PROPOSAL: DOUBLE_PROPOSAL,
    EvidenceKind.LOCK_VIOLATION: LOCK_VIOLATION,
    EvidenceKind.DOUBLE_TIMEOUT: DOUBLE_TIMEOUT,
    EvidenceKind.DOUBLE_BATCH: DOUBLE_BATCH,
}
_KINDS: Final[dict[type, EvidenceKind]] = {
    DoubleVote: EvidenceKind.DOUBLE_VOTE,
    DoubleProposal: EvidenceKind.DOUBLE_PROPOSAL,
    LockViolation: EvidenceKind.LOCK_VIOLATION,
    DoubleTimeout: EvidenceKind.DOUBLE_TIMEOUT,
    DoubleBatch: EvidenceKind.DOUBLE_BATCH,
}


def encode(piece: Evidence) -> bytes:
    """One byte for the kind, then the encoding of its structure."""
    kind = _KINDS[type(piece)]
    return bytes((kind,)) + _CODECS[kind].encode(piece)


def decode(encoded: bytes) -> Evidence:
    """Raises DecodeError, also for a kind that is none."""
    codec = _CODECS.get(encoded[0]) if encoded else None  # type: ignore[call-overload]
    if codec is None:
        raise DecodeError("no kind of evidence", 0)
    piece: Evidence = codec.decode(encoded[1:])
    return piece


def timeout_as_signed(timeout: Timeout) -> SignedTimeout:
    return SignedTimeout(timeout.epoch, timeout.round, timeout.high_qc.round, timeout.voter, timeout.signature)


def author_of(statement: Statement) -> int:
    """The index of the member that is said to have signed it."""
    match statement:
        case Vote() | SignedTimeout():
            return statement.voter
        case SignedHeader(header):
            return header.proposer
    return statement.ref.member


def charge_of(piece: Evidence) -> Charge:
    return author_of(piece.first), _KINDS[type(piece)]


def charges_of(pieces: Iterable[bytes]) -> frozenset[Charge]:
    """Of a block's evidence, whose form has been checked."""
    return frozenset(charge_of(decode(encoded)) for encoded in pieces)


def contradicts_itself(piece: Evidence) -> bool:
    """Whether no honest member says both, whoever signed it. Strict order makes one piece of two statements."""
    match piece:
        case DoubleVote(a, b):
            alike = (a.voter, a.data.round) == (b.voter, b.data.round)
            return alike and VOTE_DATA.encode(a.data) < VOTE_DATA.encode(b.data)
        case DoubleProposal(a, b):
            alike = (a.header.proposer, a.header.round) == (b.header.proposer, b.header.round)
            return alike and block_id(a.header) < block_id(b.header)
        case DoubleTimeout(a, b):
            return (a.voter, a.round) == (b.voter, b.round) and a.high_qc_round < b.high_qc_round
        case DoubleBatch(a, b):
            alike = (a.ref.lane, a.ref.seq) == (b.ref.lane, b.ref.seq)
            return alike and BATCH_REF.encode(a.ref) < BATCH_REF.encode(b.ref)
    vote, timeout = piece.first, piece.second
    in_order = vote.voter == timeout.voter and vote.data.round <= timeout.round
    return in_order and timeout.high_qc_round < vote.data.parent_round


def is_of(statement: Statement, committee: Committee) -> bool:
    """Of a member, and of this chain and epoch, as far as the signature does not tell."""
    if author_of(statement) >= len(committee):
        return False
    match statement:
        case Vote(data):
            return data.epoch == committee.epoch
        case SignedHeader(header):
            return (header.chain_id, header.epoch) == (committee.chain_id, committee.epoch)
        case SignedTimeout():
            return statement.epoch == committee.epoch
    return True


def form_error(pieces: tuple[bytes, ...], committee: Committee) -> str:
    """What is wrong with a block's evidence before any signature is looked at, or an empty string."""
    charges: set[Charge] = set()
    for encoded in pieces:
        try:
            piece = decode(encoded)
        except DecodeError:
            return "evidence that does not decode"
        if not (is_of(piece.first, committee) and is_of(piece.second, committee) and contradicts_itself(piece)):
            return "evidence of nothing"
        charges.add(charge_of(piece))
    return "" if len(charges) == len(pieces) else "evidence of one charge twice"


def evidence_root(pieces: tuple[bytes, ...]) -> bytes:
    """SHA-256 over the pieces in order, each behind its length(4); zeros where the block has none."""
    if not pieces:
        return bytes(32)
    return hashlib.sha256(b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces)).digest()


@dataclass(slots=True)
class Court:
    """What a replica judges evidence by: keys, and what the executed ledger says of operators' statements."""

    committee: Committee
    signatures: Signatures
    verify_lane: VerifyLane
    executed_round: int = 0
    """Round of the newest block that the contract has executed here."""
    statement_rounds: dict[int, int] = field(default_factory=dict)
    """By member: the last_voted_round of its newest executed statement after a lost record. Whoever tells of an execution
    (`Executed`) fills it first."""
    _verdicts: OrderedDict[bytes, bool] = field(default_factory=OrderedDict)

    def proves(self, encoded: bytes) -> bool:
        """Whether both statements are signed. Each piece is looked at once, whatever comes of it."""
        held = self._verdicts.get(encoded)
        if held is None:
            piece = decode(encoded)
            held = self.is_signed(piece.first) and self.is_signed(piece.second)
            self._verdicts[encoded] = held
            if len(self._verdicts) > VERDICTS_LIMIT:
                self._verdicts.popitem(last=False)
        return held

    def is_signed(self, statement: Statement) -> bool:
        """By its author, whom the caller knows for a member of the epoch."""
        member, chain_id = self.committee.members[author_of(statement)], self.committee.chain_id
        match statement:
            case SignedBatch(ref):
                return self.verify_lane(member.lane_key, batch_message(chain_id, ref), statement.signature)
            case Vote(data):
                message = vote_message(chain_id, data)
            case SignedHeader(header):
                message = block_id(header)
            case _:  # SignedTimeout
                message = timeout_message(chain_id, statement.epoch, statement.round, statement.high_qc_round)
        return self.signatures.verify(member.public_key, message, statement.signature)

    def is_ripe(self, piece: Evidence) -> bool:
        """Whether every statement that could excuse it has been executed here.

        A member that lost its record signs nothing before its statement is committed, so that the statement stands below every
        block of the timeout's round or a later one.
        """
        return not isinstance(piece, LockViolation) or piece.second.round <= self.executed_round

    def excuses(self, piece: Evidence) -> bool:
        """A lock that the member had before its last statement may have been lost with its record."""
        return isinstance(piece, LockViolation) and piece.first.data.round <= self.statement_rounds.get(
            piece.first.voter, 0
        )
