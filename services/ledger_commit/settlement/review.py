"""ReviewClaim: the payer's decision on a pended claim, at a new place in the order.

A release adjudicates the claim as of now; a denial takes every line off. Yields the outcome of the review itself and, where
it took effect, the claim's next result.
"""

from dataclasses import replace

from claims.result import ClaimResult, TransactionResult
from claims.transaction import (
    Disposition,
    RefusalReason,
    ReviewClaim,
    ReviewDecision,
    SignedTransaction,
)
from ledger_commit.settlement.registry import prefix_refusal, signers
from ledger_commit.settlement.state import ClaimEntry, State
from ledger_commit.settlement.submission import deny_whole, settle


def apply_review(
    state: State,
    transaction: SignedTransaction,
    review: ReviewClaim,
    identity: bytes,
    height: int,
    index: int,
) -> list[ClaimResult | TransactionResult]:
    """One or two results of a transaction that is authentic."""
    organisation = review.prefix.organisation
    entry = state.claims_of_payer.get((organisation, review.claim_ref, review.version))
    reason = prefix_refusal(state, review.prefix, transaction.kind, height)
    if reason is None:
        signed = signers(state, transaction, height)
        reason = RefusalReason.KEY_NOT_VALID if signed is None else _refusal(review, entry)
    told = TransactionResult(height, index, transaction.kind, organisation, identity, reason or 0)
    if reason is not None or entry is None:
        return [told]
    state.take_effect_once(identity)
    return [told, _decide(state, review, entry, height, index + 1)]


def _refusal(review: ReviewClaim, entry: ClaimEntry | None) -> RefusalReason | None:
    """`entry` is the claim under the payer that the review's prefix names, whose key has signed."""
    if entry is None:
        return RefusalReason.UNKNOWN_CLAIM
    if entry.pending is None:
        return RefusalReason.NOT_PENDED
    if (review.decision is ReviewDecision.DENY) != bool(review.denial_carc):
        return RefusalReason.BAD_DISPOSITION
    return None


def _decide(state: State, review: ReviewClaim, entry: ClaimEntry, height: int, index: int) -> ClaimResult:
    assert entry.pending is not None
    step = entry.step + 1
    if review.decision is ReviewDecision.DENY:
        carc = review.denial_carc
        return deny_whole(state, entry.pending, carc, height, index, step, reason=review.reason, linked=entry.linked)
    released = replace(entry.pending, disposition=Disposition.PAY)
    return settle(state, released, height, index, step, reason=review.reason, linked=entry.linked)
