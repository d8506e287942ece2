"""Validation as a stage: a record of accepted claims in; priced records, rejections, steps and member history out."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError as ProtoDecodeError

from claimledger.events.v1 import events_pb2
from claims.claim import ACCEPTED_CLAIM, CLAIM, commitment
from claims.encoding import DecodeError
from claims.finding import Finding, Severity
from claims.quick import quick
from claims.reference import PayerReference
from claims.status import Status
from runtime.duplicate_tags import element
from runtime.passing_on import unknown_of
from runtime.stage import DataError, Incoming, Out, Stage
from runtime.status_batches import status_records
from runtime.topics import SUBMITTED, VALIDATION_STATE, bucket_of
from validation.case import Case, case_of
from validation.edits import run_edits
from validation.history import BilledClaim, Histories
from validation.pricing import price
from validation.records import (
    Issuer,
    Priced,
    facts_of,
    rejected_record,
    status_event,
    validated_records,
)

Tags = Callable[[Sequence[bytes]], Awaitable[Sequence[bytes]]]
NO_TAG = bytes(32)


@dataclass(frozen=True, slots=True)
class Submitted:
    """One claim of a record, decoded and looked up. `elements` is one for each line, empty where nobody is known."""

    case: Case
    attempt: int
    accepted_ms: int
    elements: tuple[bytes, ...]
    tags: tuple[bytes, ...] = ()
    passed_on: events_pb2.SubmittedClaim | None = None
    """What came beside the claim from a later version."""


@dataclass(frozen=True, slots=True)
class Message:
    """A record's claims, and what a later version wrote beside them."""

    claims: tuple[Submitted, ...]
    passed_on: events_pb2.SubmittedBatch | None


_make_submitted = quick(Submitted)


class Validation(Stage[Histories, Message]):
    """Serves the payers of `issuers`. `tags` asks the duplicate tag service, `clock_ms` stamps the steps."""

    name = "validation"

    def __init__(
        self,
        issuers: Mapping[str, Issuer],
        references: Mapping[str, PayerReference],
        tags: Tags,
        clock_ms: Callable[[], int],
    ) -> None:
        self._issuers = {issuer.topic(SUBMITTED): issuer for issuer in issuers.values()}
        self._references = references
        self._tags = tags
        self._clock_ms = clock_ms
        self.topics = list(self._issuers)
        self.schemas = dict.fromkeys(self.topics, SUBMITTED.schema) | {
            issuer.topic(VALIDATION_STATE): VALIDATION_STATE.schema for issuer in issuers.values()
        }

    def state_topic(self, topic: str) -> str | None:
        return self._issuers[topic].topic(VALIDATION_STATE)

    def open_partition(self, topic: str, partition: int) -> Histories:  # noqa: ARG002 - all partitions begin alike
        return Histories()

    def restore(self, state: Histories, record: Incoming) -> None:
        try:
            state.restore(record.key or b"", record.value)
        except DecodeError as error:
            raise DataError(str(error)) from error

    def decode(self, record: Incoming) -> Message:
        reference = self._references[self._issuers[record.topic].payer]
        try:
            batch = events_pb2.SubmittedBatch.FromString(record.value)
            claims = tuple([_submitted(claim, reference) for claim in batch.claims])
            return Message(claims, unknown_of(batch))
        except (ProtoDecodeError, DecodeError) as error:
            raise DataError(str(error)) from error

    def divide(self, record: Incoming) -> Sequence[bytes]:
        """A record for each claim."""
        try:
            batch = events_pb2.SubmittedBatch.FromString(record.value)
        except ProtoDecodeError:
            return ()
        claims = [events_pb2.SubmittedBatch(claims=[claim]).SerializeToString() for claim in batch.claims]
        around = unknown_of(batch)
        beside = around.SerializeToString() if around else b""
        return [claim + beside for claim in claims]

    async def prepare(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Asks for the tags of all lines at once."""
        wanted = [e for message in messages for submitted in message.claims for e in submitted.elements]
        tags = dict(zip(wanted, await self._tags(wanted), strict=True)) if wanted else {}
        return [Message(tuple([_tagged(s, tags) for s in message.claims]), message.passed_on) for message in messages]

    def apply(self, state: Histories, record: Incoming, message: Message) -> list[Out]:
        issuer = self._issuers[record.topic]
        now_ms = self._clock_ms()
        outs: list[Out] = []
        priced: list[Priced] = []
        steps: list[events_pb2.StatusEvent] = []
        for submitted in message.claims:
            case = submitted.case
            findings = run_edits(case)
            if any(finding.severity is Severity.REJECT for finding in findings):
                outs.append(rejected_record(issuer, case, findings, _commitment(case)))
                steps.append(status_event(case, Status.REJECTED, now_ms, _detail(findings)))
                continue
            judged, kept = state.judge(case, findings)
            outs += [_state_record(issuer, key, value, record) for key, value in kept]
            findings += duplicate_findings(case, judged)
            item = self._price(issuer, submitted, findings, judged)
            priced.append(item)
            steps.append(status_event(case, Status.VALIDATED, now_ms, _detail(findings)))
        outs += validated_records(issuer, priced, message.passed_on)
        return outs + status_records(issuer.payer, issuer.buckets, steps, issuer.topic_prefix)

    def _price(self, issuer: Issuer, submitted: Submitted, findings: Sequence[Finding], judged: BilledClaim) -> Priced:
        case = submitted.case
        claim = price(case, findings, submitted.tags or (NO_TAG,) * len(case.claim.lines))
        bucket = bucket_of(case.claim.parties.billing_npi.encode(), issuer.buckets)
        facts = facts_of(case, judged, submitted.attempt, submitted.accepted_ms, submitted.passed_on)
        return Priced(claim, facts, bucket)


def _tagged(submitted: Submitted, tags: Mapping[bytes, bytes]) -> Submitted:
    given = tuple([tags[wanted] for wanted in submitted.elements])
    return _make_submitted(
        submitted.case, submitted.attempt, submitted.accepted_ms, submitted.elements, given, submitted.passed_on
    )


def _submitted(claim: events_pb2.SubmittedClaim, reference: PayerReference) -> Submitted:
    accepted = ACCEPTED_CLAIM.decode(claim.accepted)
    decoded = CLAIM.decode(accepted.claim)
    if not decoded.lines or len({line.number for line in decoded.lines}) != len(decoded.lines):
        raise DataError("a claim without lines, or with two of one number, which intake never accepts", "lines")
    case = case_of(accepted, decoded, reference)
    attempt, accepted_ms = claim.attempt, claim.accepted_time_ms
    return _make_submitted(case, attempt, accepted_ms, _elements(case), (), unknown_of(claim))


def _elements(case: Case) -> tuple[bytes, ...]:
    """What the tag service is asked about each line; nothing for a person that is not known."""
    member = case.member
    if member is None:
        return ()
    npi = case.claim.parties.billing_npi
    return tuple(
        element(member.stable_id, npi, line.from_day, line.procedure, line.modifiers, line.tooth)
        for line in case.claim.lines
    )


def duplicate_findings(case: Case, judged: BilledClaim) -> list[Finding]:
    """Lines that were billed before, as the history judged when the claim first came."""
    positions = {line.number: position for position, line in enumerate(case.claim.lines)}
    return [
        Finding(
            "duplicate.exact",
            f"lines[{positions[number]}]",
            Severity.DENY,
            "the same service was billed before",
            line=number,
            group="OA",
            carc="18",
            rarc="N522",
            hint="a correction is sent with frequency 7, not as a new claim; a repeated service with a modifier",
        )
        for number in judged.duplicates
    ]


def _commitment(case: Case) -> bytes:
    return commitment(case.accepted.salt, case.accepted.claim)


def _detail(findings: Sequence[Finding]) -> str:
    """Rule ids, each once; warnings say nothing about this claim."""
    told = dict.fromkeys(f.rule for f in findings if f.severity is not Severity.WARN)
    return " ".join(told)[:200]


def _state_record(issuer: Issuer, key: bytes, value: bytes, record: Incoming) -> Out:
    """What the history keeps of a claim; compaction drops the claims that are forgotten."""
    event = f"{record.topic}/{record.partition}/{record.offset}/{key.hex()}"
    return Out(
        issuer.topic(VALIDATION_STATE),
        key,
        value or None,
        VALIDATION_STATE.schema,
        event,
        partition=record.partition,
    )
