"""Protobuf ⇄ domain for fraud scoring."""

from typing import Final

from claimledger.events.v1 import events_pb2
from claimledger.fraud.v1 import fraud_pb2
from claims.transaction import PricedClaim
from fraud_scoring.features import MAX_SUM, ObservedLine, Score
from fraud_scoring.rules import FULL_BP, ClaimFacts

MAX_PROCEDURE: Final = 8


def facts_from(claim: PricedClaim, facts: events_pb2.ClaimFacts) -> ClaimFacts:
    """A claim of a record with its side field."""
    return ClaimFacts(
        claim.claim_ref,
        claim.version,
        facts.billing_npi,
        facts.rendering_npi,
        claim.member_ref,
        facts.service_day,
        min(sum(line.minutes * line.units for line in facts.lines), MAX_SUM),
        tuple(
            ObservedLine(line.procedure[:MAX_PROCEDURE], min(line.units, 65_535), line.charge_cents)
            for line in facts.lines
        ),
        facts.excluded_provider,
        len(facts.same_service_elsewhere),
    )


def score_to_proto(claim: PricedClaim, score: Score, *, pended: bool) -> fraud_pb2.FraudScore:
    return fraud_pb2.FraudScore(
        claim_ref=claim.claim_ref,
        version=claim.version,
        score=score.score_bp / FULL_BP,
        reasons=[
            fraud_pb2.FraudReason(rule=r.rule, weight=r.weight_bp / FULL_BP, detail=r.figures) for r in score.reasons
        ],
        pended=pended,
    )
