"""What replicas sign, send and keep, with its fixed encoding.

A signed message is always 32 bytes: H("claimledger/v1" ‖ type(1) ‖ chain_id(32) ‖ epoch(8) ‖ body). The id of a block is
its proposal message, so the proposer's signature is over the id, and the id covers everything but that
signature: the certificates by their digests, the payload by its root.

Source: consensus.md §2–3.
"""

import hashlib
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Annotated, Final

from claims.encoding import U16, U32, U64, Bytes, Codec, Fixed, Hash, Many

ZERO: Final = bytes(32)
PROTOCOL: Final = 1
MAX_COMMITTEE: Final = 64
MAX_BATCHES_PER_BLOCK: Final = 64
MAX_BATCH_BYTES: Final = 1024 * 1024
MAX_RECORDS_PER_BATCH: Final = 1000
MAX_EVIDENCE_PER_BLOCK: Final = 8
"""Each costs every voter two signatures to verify: 16 take 14 ms, which a round bears. More wait for the next leader."""
MAX_EVIDENCE_BYTES: Final = 1024
"""The largest piece, two headers, has 1,018 bytes."""

BlsSignature = Annotated[bytes, Fixed(96)]
Bitmap = Annotated[bytes, Bytes(MAX_COMMITTEE // 8)]
"""Bit i (least significant first within a byte) stands for committee member i; ⌈n/8⌉ bytes."""
MemberIndex = Annotated[int, U16]
Round = Annotated[int, U64]

UNSIGNED: Final = bytes(96)
"""Stands where the driver puts the signature, once what the signature relies on is durable."""


class MessageType(IntEnum):
    PROPOSAL = 1
    VOTE = 2
    TIMEOUT = 3
    JOIN = 4
    OPERATOR = 5
    BATCH = 6
    READINESS = 7


def signed_message(kind: MessageType, chain_id: bytes, epoch: int, body: bytes) -> bytes:
    """The 32 bytes that are signed for a message of this kind."""
    head = b"claimledger/v1" + bytes((kind,)) + chain_id + epoch.to_bytes(8, "big")
    return hashlib.sha256(head + body).digest()


@dataclass(frozen=True, slots=True)
class Header:
    """A block without its payload. All fields have fixed width: 413 bytes with the version byte.

    `proposer` is an index into the epoch's committee. The fields of snapshots and reconfiguration are zero until those are
    there, and stand here so that the layout need not change.
    """

    chain_id: Hash
    protocol: Annotated[int, U16]
    epoch: Annotated[int, U64]
    round: Round
    height: Annotated[int, U64]
    proposer: MemberIndex
    parent_id: Hash
    qc_digest: Hash
    tc_digest: Hash
    batches_root: Hash
    time_ms: Annotated[int, U64]
    exec_height: Annotated[int, U64]
    exec_state_root: Hash
    exec_results_size: Annotated[int, U64]
    exec_results_root: Hash
    schedule_digest: Hash
    snapshot_height: Annotated[int, U64]
    snapshot_root: Hash
    evidence_root: Hash
    next_committee_hash: Hash


@dataclass(frozen=True, slots=True)
class VoteData:
    """What a vote says. `commit_digest` is that of the parent where the rounds are consecutive, else zero."""

    epoch: Annotated[int, U64]
    round: Round
    block_id: Hash
    parent_id: Hash
    parent_round: Round
    commit_digest: Hash


@dataclass(frozen=True, slots=True)
class QuorumCert:
    data: VoteData
    signers: Bitmap
    aggregate: BlsSignature

    @property
    def round(self) -> int:
        return self.data.round

    @property
    def block_id(self) -> bytes:
        return self.data.block_id


@dataclass(frozen=True, slots=True)
class TimeoutGroup:
    """Those who timed out with a high QC of this round."""

    qc_round: Round
    signers: Bitmap


@dataclass(frozen=True, slots=True)
class TimeoutCert:
    """A quorum gave up on a round; `high_qc` is the highest any of them had."""

    epoch: Annotated[int, U64]
    round: Round
    high_qc: QuorumCert
    groups: Annotated[tuple[TimeoutGroup, ...], Many(MAX_COMMITTEE)]
    aggregate: BlsSignature


@dataclass(frozen=True, slots=True)
class Vote:
    data: VoteData
    voter: MemberIndex
    signature: BlsSignature


@dataclass(frozen=True, slots=True)
class Timeout:
    """The signature is over the epoch, the round and high_qc's round (`timeout_message`)."""

    epoch: Annotated[int, U64]
    round: Round
    high_qc: QuorumCert
    last_tc: TimeoutCert | None
    voter: MemberIndex
    signature: BlsSignature


@dataclass(frozen=True, slots=True)
class BatchRef:
    """A batch as a block names it. The lane is (member, incarnation); `seq` rises by one in a lane, from 1."""

    member: MemberIndex
    incarnation: Annotated[int, U32]
    seq: Annotated[int, U64]
    digest: Hash
    count: Annotated[int, U32]
    size_bytes: Annotated[int, U32]

    @property
    def lane(self) -> tuple[int, int]:
        return (self.member, self.incarnation)


@dataclass(frozen=True, slots=True)
class Batch:
    """Payload, opaque to consensus: ledger entries of one organisation under its Ed25519 signature over the BatchRef."""

    member: MemberIndex
    incarnation: Annotated[int, U32]
    seq: Annotated[int, U64]
    count: Annotated[int, U32]
    """Claims and transactions in it, as its maker counts them; for display and flow control only."""
    records: Annotated[tuple[Annotated[bytes, Bytes(MAX_BATCH_BYTES)], ...], Many(MAX_RECORDS_PER_BATCH)]
    signature: Annotated[bytes, Fixed(64)]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A block with what justifies it. The pieces of evidence are in evidence.py; `readiness` is empty in protocol 1."""

    header: Header
    batches: Annotated[tuple[BatchRef, ...], Many(MAX_BATCHES_PER_BLOCK)]
    qc: QuorumCert
    tc: TimeoutCert | None
    evidence: Annotated[tuple[Annotated[bytes, Bytes(MAX_EVIDENCE_BYTES)], ...], Many(MAX_EVIDENCE_PER_BLOCK)]
    readiness: Annotated[tuple[Annotated[bytes, Bytes(256)], ...], Many(0)]
    signature: BlsSignature


@dataclass(frozen=True, slots=True)
class SyncInfo:
    """Where a replica is, for one that is behind."""

    high_qc: QuorumCert
    high_tc: TimeoutCert | None
    committed_height: Annotated[int, U64]


HEADER: Final = Codec(Header)
VOTE_DATA: Final = Codec(VoteData)
QUORUM_CERT: Final = Codec(QuorumCert)
TIMEOUT_CERT: Final = Codec(TimeoutCert)
VOTE: Final = Codec(Vote)
TIMEOUT: Final = Codec(Timeout)
BATCH: Final = Codec(Batch)
BATCH_REF: Final = Codec(BatchRef)
PROPOSAL: Final = Codec(Proposal)
SYNC_INFO: Final = Codec(SyncInfo)

Message = Proposal | Vote | Timeout | TimeoutCert | SyncInfo


def block_id(header: Header) -> bytes:
    """H(proposal domain ‖ encode(header)), 32 bytes; also what the proposer signs."""
    return signed_message(MessageType.PROPOSAL, header.chain_id, header.epoch, HEADER.encode(header))


def vote_message(chain_id: bytes, data: VoteData) -> bytes:
    return signed_message(MessageType.VOTE, chain_id, data.epoch, VOTE_DATA.encode(data))


def timeout_message(chain_id: bytes, epoch: int, timeout_round: int, high_qc_round: int) -> bytes:
    body = timeout_round.to_bytes(8, "big") + high_qc_round.to_bytes(8, "big")
    return signed_message(MessageType.TIMEOUT, chain_id, epoch, body)


def commit_digest(epoch: int, height: int, identity: bytes, block_round: int) -> bytes:
    """H(epoch(8) ‖ height(8) ‖ id ‖ round(8)) of the block that a quorum's votes commit."""
    return hashlib.sha256(
        epoch.to_bytes(8, "big") + height.to_bytes(8, "big") + identity + block_round.to_bytes(8, "big")
    ).digest()


def certificate_digest(certificate: QuorumCert | TimeoutCert | None) -> bytes:
    """SHA-256 of the encoding; zeros where there is none."""
    if certificate is None:
        return ZERO
    codec = QUORUM_CERT if isinstance(certificate, QuorumCert) else TIMEOUT_CERT
    return hashlib.sha256(codec.encode(certificate)).digest()  # type: ignore[arg-type]


def batches_root(batches: tuple[BatchRef, ...]) -> bytes:
    """SHA-256 over the references' encodings in order; zeros where the block has no payload."""
    return hashlib.sha256(b"".join(map(BATCH_REF.encode, batches))).digest() if batches else ZERO


def batch_digest(batch: Batch) -> bytes:
    """SHA-256 of the encoding with zeros for the signature."""
    return hashlib.sha256(BATCH.encode(replace(batch, signature=bytes(64)))).digest()


def batch_message(chain_id: bytes, ref: BatchRef) -> bytes:
    """What the lane's Ed25519 key signs: place and digest, so that two for one place show without their records.

    Batches outlive epochs, so the epoch is 0.
    """
    return signed_message(MessageType.BATCH, chain_id, 0, BATCH_REF.encode(ref))


def genesis_cert(genesis_id: bytes) -> QuorumCert:
    """The constant unsigned certificate on which the first block stands."""
    return QuorumCert(VoteData(0, 0, genesis_id, ZERO, 0, ZERO), b"", UNSIGNED)
