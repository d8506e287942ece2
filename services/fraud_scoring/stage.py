"""Fraud scoring as a stage: a payer's signed record with facts beside it in; the same record with pend bits out.

The record's bytes are never touched: what scoring says stands beside them under the payer's scoring key. Here all codes
and identifiers end; `claims.scored` has neither. Retries go to `claims.retry`, which every replica reads.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError as ProtoDecodeError

from claimledger.events.v1 import events_pb2
from claimledger.fraud.v1 import fraud_pb2
from claims.encoding import DecodeError
from claims.status import STEP_OF, Status, event_id
from claims.transaction import (
    RECORD,
    SCORED_RECORD,
    Disposition,
    PricedClaim,
    Record,
    ScoredRecord,
    scoring_message,
)
from fraud_scoring.features import Observation, Score
from fraud_scoring.rules import ClaimFacts, observation_of, score
from fraud_scoring.state_log import KeyedState, StateLog
from fraud_scoring.wire import facts_from, score_to_proto
from runtime.stage import DataError, Incoming, Out, Stage
from runtime.status_batches import status_records
from runtime.topics import ALERTS, FRAUD_STATE, RETRY, SCORED, SCORES, VALIDATED, Topic

SCORING_KEY_ID: Final = 3


@dataclass(frozen=True, slots=True)
class Scorer:
    """A payer whose claims are scored. `sign` is its scoring key; `threshold_bp` the score that holds a claim."""

    payer: str
    buckets: int
    threshold_bp: int
    sign: Callable[[bytes], bytes]
    topic_prefix: str = ""
    """Of the network's names in Kafka."""

    def topic(self, row: Topic) -> str:
        return row.name(self.payer, self.topic_prefix)


@dataclass(frozen=True, slots=True)
class Validated:
    """A decoded record. `encoded` are the bytes that the payer signed."""

    encoded: bytes
    signature: bytes
    record: Record
    facts: tuple[ClaimFacts, ...]
    is_retry: bool


@dataclass(frozen=True, slots=True)
class _Judged:
    claim: PricedClaim
    score: Score
    suspected: bool
    """The score reached the threshold."""
    held: bool
    """Suspected, and the payer would pay: so the pend bit is set."""

    @property
    def pended(self) -> bool:
        """The claim goes on to wait for a person: by the pend bit, or because the payer's own edits said so before."""
        return self.held or self.claim.disposition is Disposition.PEND


class FraudScoring(Stage[StateLog, Validated]):
    """Serves the payers of `scorers`; `clock_ms` stamps steps and alerts."""

    name = "fraud-scoring"

    def __init__(self, scorers: Mapping[str, Scorer], clock_ms: Callable[[], int]) -> None:
        self._scorers = {scorer.topic(VALIDATED): scorer for scorer in scorers.values()}
        self._clock_ms = clock_ms
        self.topics = list(self._scorers)
        self.schemas = dict.fromkeys(self.topics, VALIDATED.schema) | {
            scorer.topic(FRAUD_STATE): FRAUD_STATE.schema for scorer in scorers.values()
        }

    def state_topic(self, topic: str) -> str | None:
        return self._scorers[topic].topic(FRAUD_STATE)

    def open_partition(self, topic: str, partition: int) -> StateLog:  # noqa: ARG002 - all partitions begin alike
        return StateLog()

    def restore(self, state: StateLog, record: Incoming) -> None:
        if not record.value:
            return
        try:
            state.restore(record.key or b"", fraud_pb2.ScoringSnapshot.FromString(record.value))
        except (ProtoDecodeError, DecodeError) as error:
            raise DataError(str(error)) from error

    def decode(self, record: Incoming) -> Validated:
        try:
            value = events_pb2.ValidatedRecord.FromString(record.value)
            decoded = RECORD.decode(value.record)
        except (ProtoDecodeError, DecodeError) as error:
            raise DataError(str(error)) from error
        payer = self._scorers[record.topic].payer
        if decoded.prefix.organisation != payer:
            raise DataError(f"a record of {decoded.prefix.organisation} on a topic of {payer}", "foreign")
        if len(value.facts) != len(decoded.claims):
            raise DataError(f"{len(value.facts)} facts for {len(decoded.claims)} claims", "facts")
        attempts = {facts.attempt > 1 for facts in value.facts}
        if len(attempts) != 1:
            raise DataError("first emissions and retries in one record, or no claim", "facts")
        facts = tuple(facts_from(claim, fact) for claim, fact in zip(decoded.claims, value.facts, strict=True))
        return Validated(value.record, value.signature, decoded, facts, attempts.pop())

    def apply(self, state: StateLog, record: Incoming, message: Validated) -> list[Out]:
        scorer = self._scorers[record.topic]
        now_ms = self._clock_ms()
        judged, new = _judge(state, message, scorer.threshold_bp)
        outs = [_scored(scorer, message, judged)]
        outs += [_score_out(scorer, item) for item in judged]
        outs += [_alert_out(scorer, item, now_ms) for item in judged if item.suspected]
        steps = [_step(item, now_ms) for item in judged]
        outs += status_records(scorer.payer, scorer.buckets, steps, scorer.topic_prefix)
        if new:
            outs += [_state_out(scorer, record, keyed) for keyed in state.record(record.offset, new)]
        return outs


def _judge(log: StateLog, message: Validated, threshold_bp: int) -> tuple[list[_Judged], tuple[Observation, ...]]:
    """Scores in order, each claim seeing those before it; and what is new to the state."""
    judged, new = [], []
    for claim, facts in zip(message.record.claims, message.facts, strict=True):
        given = log.state.score_of(claim.claim_ref, claim.version)
        if given is None:
            given = score(facts, log.state)
            seen = observation_of(facts, given)
            log.state.observe(seen)
            new.append(seen)
        suspected = given.score_bp >= threshold_bp
        judged.append(_Judged(claim, given, suspected, suspected and claim.disposition is Disposition.PAY))
    return judged, tuple(new)


def pend_bits_of(held: Iterator[bool], count: int) -> bytes:
    """Bit i, least significant first within a byte, is claim i."""
    bits = bytearray(-(-count // 8))
    for position, is_held in enumerate(held):
        bits[position // 8] |= is_held << position % 8
    return bytes(bits)


def _scored(scorer: Scorer, message: Validated, judged: list[_Judged]) -> Out:
    bits = pend_bits_of((item.held for item in judged), len(judged))
    signature = scorer.sign(scoring_message(hashlib.sha256(message.encoded).digest(), bits))
    scored = SCORED_RECORD.encode(ScoredRecord(message.encoded, message.signature, bits, SCORING_KEY_ID, signature))
    topic, bucket = RETRY if message.is_retry else SCORED, message.record.bucket
    return Out(
        scorer.topic(topic),
        bucket.to_bytes(4, "big"),
        events_pb2.ScoredRecord(scored_record=scored).SerializeToString(),
        topic.schema,
        hashlib.sha256(scored).hexdigest()[:32],
        partition=bucket,
    )


def _score_out(scorer: Scorer, item: _Judged) -> Out:
    value = score_to_proto(item.claim, item.score, pended=item.pended)
    return Out(scorer.topic(SCORES), item.claim.claim_ref, value.SerializeToString(), SCORES.schema, _event(item))


def _alert_out(scorer: Scorer, item: _Judged, now_ms: int) -> Out:
    value = fraud_pb2.FraudAlert(
        score=score_to_proto(item.claim, item.score, pended=item.pended), time_ms=now_ms, payer=scorer.payer
    )
    return Out(scorer.topic(ALERTS), item.claim.claim_ref, value.SerializeToString(), ALERTS.schema, _event(item))


def _event(item: _Judged) -> str:
    return event_id(item.claim.claim_ref, item.claim.version, STEP_OF[Status.SCORED]).hex()


def _step(item: _Judged, now_ms: int) -> events_pb2.StatusEvent:
    claim = item.claim
    return events_pb2.StatusEvent(
        claim_ref=claim.claim_ref,
        version=claim.version,
        status=Status.SCORED.value,  # type: ignore[arg-type]
        step=STEP_OF[Status.SCORED],
        time_ms=now_ms,
        submitter=claim.submitter,
        payer=claim.payer,
        payee=claim.payee,
        detail="held for review" if item.pended else "",
    )


def _state_out(scorer: Scorer, record: Incoming, keyed: KeyedState) -> Out:
    key, value = keyed
    return Out(
        scorer.topic(FRAUD_STATE),
        key,
        value.SerializeToString(),
        FRAUD_STATE.schema,
        f"{record.topic}/{record.partition}/{record.offset}/{key.decode()}",
        partition=record.partition,
    )
