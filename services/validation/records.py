"""Priced claims into signed records, rejections into signed statements, steps into the status stream.

A record holds claims of one provider bucket, all of them first emissions or all of them retries, so that nothing downstream
has to split what is signed. The same claims give the same bytes.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from claimledger.events.v1 import events_pb2
from claims.finding import Finding, Severity
from claims.rejection import REJECTION, Rejection, RejectionReason, rejection_message
from claims.status import STEP_OF, Status, event_id
from claims.transaction import (
    MAX_CLAIMS_PER_RECORD,
    MAX_RECORD_BYTES,
    RECORD,
    Kind,
    Prefix,
    PricedClaim,
    Record,
    record_message,
)
from runtime.stage import Out
from runtime.topics import REJECTED, VALIDATED, Topic
from validation.case import Case, excluded_roles
from validation.history import BilledClaim
from validation.minutes import minutes_of

PRICING_KEY_ID: Final = 2
PREFIX_BYTES: Final = 256
CLAIM_BYTES: Final = 512
LINE_BYTES: Final = 80
"""Upper bounds of what a record, a claim of it and a line of that take in the fixed encoding."""
Sign = Callable[[bytes], bytes]
"""The payer's pricing key over a message: 64 bytes."""


@dataclass(frozen=True, slots=True)
class Priced:
    """A priced claim with what fraud scoring needs beside it."""

    claim: PricedClaim
    facts: events_pb2.ClaimFacts
    bucket: int
    """Provider bucket."""

    @property
    def is_retry(self) -> bool:
        return self.facts.attempt > 1


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose records these are, on which chain, under which rules; `sign` is the pricing key."""

    payer: str
    chain_id: bytes
    rule_set_hash: bytes
    buckets: int
    sign: Sign
    topic_prefix: str = ""
    """Of the network's names in Kafka."""

    def topic(self, row: Topic) -> str:
        return row.name(self.payer, self.topic_prefix)


def facts_of(
    case: Case,
    judged: BilledClaim,
    attempt: int,
    accepted_ms: int,
    passed_on: events_pb2.SubmittedClaim | None = None,
) -> events_pb2.ClaimFacts:
    """The side field of one claim; it ends at fraud scoring."""
    parties = case.claim.parties
    return events_pb2.ClaimFacts(
        billing_npi=parties.billing_npi,
        rendering_npi=parties.rendering_npi or parties.billing_npi,
        service_day=case.service_day,
        lines=[
            events_pb2.LineFacts(
                number=line.number,
                procedure=line.procedure,
                modifiers=line.modifiers,
                units=line.units,
                charge_cents=line.charge_cents,
                minutes=minutes_of(line.procedure),
            )
            for line in case.claim.lines
        ],
        excluded_provider=bool(excluded_roles(case)),
        same_service_elsewhere=judged.elsewhere,
        attempt=attempt,
        accepted_time_ms=accepted_ms,
        passed_on=passed_on,
    )


def validated_records(
    issuer: Issuer, priced: Iterable[Priced], passed_on: events_pb2.SubmittedBatch | None = None
) -> list[Out]:
    """Signed records for claims.validated, partition = provider bucket; each with what stood beside the claims."""
    groups: dict[tuple[int, bool], list[Priced]] = {}
    for item in priced:
        groups.setdefault((item.bucket, item.is_retry), []).append(item)
    return [
        _validated(issuer, bucket, piece, passed_on)
        for (bucket, _), group in groups.items()
        for piece in _pieces(group)
    ]


def _pieces(group: Sequence[Priced]) -> Iterator[Sequence[Priced]]:
    """In order, each within a record's claims and bytes: one that is too large could never be scored."""
    piece: list[Priced] = []
    room = MAX_RECORD_BYTES - PREFIX_BYTES
    for item in group:
        size = CLAIM_BYTES + LINE_BYTES * len(item.claim.lines)
        if piece and (len(piece) == MAX_CLAIMS_PER_RECORD or size > room):
            yield piece
            piece, room = [], MAX_RECORD_BYTES - PREFIX_BYTES
        piece.append(item)
        room -= size
    if piece:
        yield piece


def _validated(
    issuer: Issuer, bucket: int, piece: Sequence[Priced], passed_on: events_pb2.SubmittedBatch | None
) -> Out:
    prefix = Prefix(issuer.chain_id, Kind.RECORD, issuer.payer, PRICING_KEY_ID, 0, 0)
    record = RECORD.encode(Record(prefix, bucket, issuer.rule_set_hash, tuple(item.claim for item in piece)))
    value = events_pb2.ValidatedRecord(
        record=record,
        signature=issuer.sign(record_message(record)),
        facts=[item.facts for item in piece],
        passed_on=passed_on,
    )
    event = hashlib.sha256(record + str(piece[0].facts.attempt).encode()).hexdigest()[:32]
    return Out(
        issuer.topic(VALIDATED),
        bucket.to_bytes(4, "big"),
        value.SerializeToString(),
        VALIDATED.schema,
        event,
        partition=bucket,
    )


def rejected_record(issuer: Issuer, case: Case, findings: Sequence[Finding], commitment: bytes) -> Out:
    """The payer's signed statement that the claim is returned, and why."""
    rejection = REJECTION.encode(
        Rejection(
            issuer.chain_id,
            case.accepted.claim_ref,
            case.accepted.version,
            issuer.payer,
            case.accepted.submitter,
            commitment,
            tuple(
                RejectionReason(f.rule, f.path, f.carc, f.rarc, f.message)
                for f in findings
                if f.severity is Severity.REJECT
            )[:100],
        )
    )
    value = events_pb2.RejectedClaim(
        rejection=rejection, signature=issuer.sign(rejection_message(rejection)), key_id=PRICING_KEY_ID
    )
    ref = case.accepted.claim_ref
    event = event_id(ref, case.accepted.version, STEP_OF[Status.REJECTED]).hex()
    return Out(issuer.topic(REJECTED), ref, value.SerializeToString(), REJECTED.schema, event)


def status_event(case: Case, status: Status, now_ms: int, detail: str) -> events_pb2.StatusEvent:
    return events_pb2.StatusEvent(
        claim_ref=case.accepted.claim_ref,
        version=case.accepted.version,
        status=status.value,  # type: ignore[arg-type]
        step=STEP_OF[status],
        time_ms=now_ms,
        submitter=case.accepted.submitter,
        payer=case.reference.payer,
        payee=case.provider.organisation if case.provider else "",
        detail=detail,
    )
