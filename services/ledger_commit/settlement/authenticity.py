"""Who stands behind an entry: do the signatures hold, whatever it says?

Asked by the contract before anything else, and by an honest replica before it takes the entry into its lane. Keys are those
that the ledger has registered; whether one is valid at a height is a question of its own, which the contract answers.

Source: settlement.md, Transactions; ADR 0025.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from claims.encoding import Codec
from claims.transaction import (
    ENROLL_MEMBER,
    PUBLISH_PLAN,
    RECORD,
    REGISTER_ORGANISATION,
    REOPEN_LANE,
    REVIEW_CLAIM,
    EnrollMember,
    KeyUse,
    Kind,
    PartySignature,
    Prefix,
    PublishPlan,
    RegisterOrganisation,
    ReopenLane,
    ReviewClaim,
    ScoredRecord,
    SignedTransaction,
    operator_message,
    record_message,
    scoring_message,
    transaction_message,
)
from ledger_commit.settlement.state import State

Verify = Callable[[bytes, bytes, bytes], bool]
"""(Ed25519 public key, message, signature) → whether it holds."""
Body = RegisterOrganisation | PublishPlan | EnrollMember | ReopenLane | ReviewClaim
_BODIES: Final[dict[Kind, Codec[Any]]] = {
    Kind.REGISTER_ORGANISATION: REGISTER_ORGANISATION,
    Kind.PUBLISH_PLAN: PUBLISH_PLAN,
    Kind.ENROLL_MEMBER: ENROLL_MEMBER,
    Kind.REVIEW_CLAIM: REVIEW_CLAIM,
    Kind.REOPEN_LANE: REOPEN_LANE,
}


@dataclass(frozen=True, slots=True)
class Forgery:
    """What keeps an entry from being anybody's: `field` is a path in it, empty for the whole."""

    field: str
    why: str


def body_of(transaction: SignedTransaction) -> Body | Forgery:
    """The body, decoded. Raises DecodeError where it is none of its kind."""
    codec = _BODIES.get(transaction.kind)
    if codec is None:
        return Forgery("kind", f"{transaction.kind.name} travels with signatures of its own, never as a transaction")
    body: Body = codec.decode(transaction.body)
    return body


def forgery_of(state: State, transaction: SignedTransaction, body: Body, verify: Verify) -> Forgery | None:
    """The first signature that does not hold, or that of the key named in the prefix where it is missing; else None.

    All of them count: nobody may be made to look as if they had agreed, and nobody else may speak for whom the prefix names.
    """
    named = (body.prefix.organisation, body.prefix.key_id)
    if not any((s.organisation, s.key_id) == named for s in transaction.signatures):
        return Forgery("signatures", f"key {named[1]} of {named[0]!r}, which the prefix names, did not sign")
    message = _message(body, transaction.body)
    for position, signed in enumerate(transaction.signatures):
        why = _fault_of(state, signed, message, verify)
        if why:
            return Forgery(f"signatures[{position}]", why)
    return None


def _fault_of(state: State, signed: PartySignature, message: bytes, verify: Verify) -> str:
    """Why a party's signature does not hold, or nothing."""
    key = state.keys.get((signed.organisation, signed.key_id))
    if key is None or key.use is not KeyUse.ORGANISATION:
        return f"{signed.organisation!r} has registered no key {signed.key_id} for transactions here"
    if not verify(key.public_key, message, signed.signature):
        return f"the signature of {signed.organisation!r} with key {signed.key_id} does not hold"
    return ""


def _message(body: Body, encoded: bytes) -> bytes:
    """What the signatures of a transaction are over."""
    if isinstance(body, ReopenLane):
        return operator_message(body.prefix.chain_id, body.epoch, encoded)
    return transaction_message(encoded)


def forgery_of_record(state: State, scored: ScoredRecord, verify: Verify) -> Forgery | None:
    """Which of the payer's two signatures does not hold; None where both do. Of the record only the prefix is read.

    Raises DecodeError for a record that has none.
    """
    prefix: Prefix = RECORD.decode_first(scored.record)
    pricing = state.keys.get((prefix.organisation, prefix.key_id))
    if pricing is None or pricing.use is not KeyUse.PRICING:
        return Forgery("signature", f"{prefix.organisation!r} has registered no pricing key {prefix.key_id} here")
    if not verify(pricing.public_key, record_message(scored.record), scored.signature):
        return Forgery("signature", f"the pricing signature of {prefix.organisation!r} does not hold")
    scoring = state.keys.get((prefix.organisation, scored.scoring_key_id))
    if scoring is None or scoring.use is not KeyUse.SCORING:
        why = f"{prefix.organisation!r} has registered no scoring key {scored.scoring_key_id} here"
        return Forgery("scoring_signature", why)
    digest = hashlib.sha256(scored.record).digest()
    if not verify(scoring.public_key, scoring_message(digest, scored.pend_bits), scored.scoring_signature):
        return Forgery("scoring_signature", f"the scoring signature of {prefix.organisation!r} does not hold")
    return None
