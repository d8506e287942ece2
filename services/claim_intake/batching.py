"""Accepted claims as Kafka records: micro-batches for the pipeline, RECEIVED reports for the projector.

Cost is per record, so a record takes as many claims of one payer and member bucket as wait, up to its bounds.
Source: stack.md, Shape that decides the speed.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from claim_intake.store.accepting import Candidate
from claimledger.events.v1 import events_pb2
from claims.claim import ACCEPTED_CLAIM, AcceptedClaim
from claims.quick import quick
from claims.status import STEP_OF, Status
from runtime.stage import Out
from runtime.topics import RAW_STATUS, SUBMITTED, bucket_of

MAX_CLAIMS: Final = 200
MAX_BYTES: Final = 200 * 1024
"""Bytes of claims in a record; leaves room for framing and the seal below the 256 KiB of a record."""
MAX_EVENTS: Final = 500


@dataclass(frozen=True, slots=True)
class Emission:
    """A claim that is to be sent. `accepted` is the fixed encoding of AcceptedClaim."""

    claim_id: int
    attempt: int
    claim_ref: bytes
    version: int
    submitter: str
    payer: str
    bucket: int
    received_ms: int
    accepted: bytes


@dataclass(frozen=True, slots=True)
class SubmittedRecord:
    """A record of claims.submitted with the outbox rows that its confirmation ends: (claim_id, attempt)."""

    out: Out
    rows: tuple[tuple[int, int], ...]


_accepted_claim, _emission = quick(AcceptedClaim), quick(Emission)


def emission_of(claim_id: int, candidate: Candidate) -> Emission:
    """The first emission of a claim that was just accepted."""
    accepted = _accepted_claim(
        candidate.claim_ref, candidate.version, candidate.submitter, candidate.received_day, candidate.salt,
        candidate.sealed.digest, candidate.canonical,
    )  # fmt: skip
    return _emission(
        claim_id, 1, candidate.claim_ref, candidate.version, candidate.submitter, candidate.payer, candidate.bucket,
        candidate.received_ms, ACCEPTED_CLAIM.encode(accepted),
    )  # fmt: skip


def submitted_records(emissions: Iterable[Emission], topic_prefix: str = "") -> Iterator[SubmittedRecord]:
    """Records for claims.submitted, one payer and member bucket each, in the order of the claims."""
    groups: dict[tuple[str, int], list[Emission]] = {}
    for emission in emissions:
        groups.setdefault((emission.payer, emission.bucket), []).append(emission)
    for (payer, bucket), group in groups.items():
        for piece in _pieces(group):
            yield _submitted(SUBMITTED.name(payer, topic_prefix), bucket, piece)


def received_records(emissions: Iterable[Emission], buckets: int, topic_prefix: str = "") -> Iterator[Out]:
    """RECEIVED reports for status.raw, one payer and claim bucket each; only for first emissions."""
    groups: dict[tuple[str, int], list[Emission]] = {}
    for emission in emissions:
        if emission.attempt == 1:
            groups.setdefault((emission.payer, bucket_of(emission.claim_ref, buckets)), []).append(emission)
    for (payer, bucket), group in groups.items():
        for start in range(0, len(group), MAX_EVENTS):
            yield _received(RAW_STATUS.name(payer, topic_prefix), bucket, group[start : start + MAX_EVENTS])


def _pieces(group: Sequence[Emission]) -> Iterator[Sequence[Emission]]:
    piece: list[Emission] = []
    size = 0
    for emission in group:
        if piece and (len(piece) == MAX_CLAIMS or size + len(emission.accepted) > MAX_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(emission)
        size += len(emission.accepted)
    yield piece


def _submitted(topic: str, bucket: int, piece: Sequence[Emission]) -> SubmittedRecord:
    batch = events_pb2.SubmittedBatch()
    for e in piece:
        batch.claims.add(accepted=e.accepted, attempt=e.attempt, accepted_time_ms=e.received_ms)
    out = Out(
        topic=topic,
        key=bucket.to_bytes(4, "big"),
        value=batch.SerializeToString(),
        schema=SUBMITTED.schema,
        event_id=_event_id(b"submitted", piece),
        partition=bucket,
    )
    return SubmittedRecord(out, tuple([(e.claim_id, e.attempt) for e in piece]))


def _received(topic: str, bucket: int, group: Sequence[Emission]) -> Out:
    batch = events_pb2.StatusBatch()
    for e in group:
        batch.events.add(
            claim_ref=e.claim_ref, version=e.version, status=int(Status.RECEIVED), step=STEP_OF[Status.RECEIVED],
            time_ms=e.received_ms, submitter=e.submitter, payer=e.payer,
        )  # fmt: skip
    return Out(
        topic=topic,
        key=bucket.to_bytes(4, "big"),
        value=batch.SerializeToString(),
        schema=RAW_STATUS.schema,
        event_id=_event_id(b"received", group),
        partition=bucket,
    )


def _event_id(word: bytes, piece: Sequence[Emission]) -> str:
    """The same for the same claims in the same attempt."""
    digest = hashlib.sha256(word)
    for emission in piece:
        digest.update(emission.claim_ref + emission.version.to_bytes(2, "big") + emission.attempt.to_bytes(4, "big"))
    return digest.hexdigest()[:32]
