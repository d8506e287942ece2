"""Transactions that say who takes part: RegisterOrganisation, PublishPlan, EnrollMember.

Each has an order of its own within the organisation and key that made it (`sequence`).
Source: settlement.md, Transactions.
"""

import hashlib
from collections.abc import Callable, Iterable

from claims.result import TransactionResult
from claims.transaction import (
    ENROLL_MEMBER,
    PUBLISH_PLAN,
    REGISTER_ORGANISATION,
    EnrollMember,
    KeyUse,
    Kind,
    Prefix,
    PublishPlan,
    RefusalReason,
    RegisterOrganisation,
    SignedTransaction,
    transaction_message,
)
from ledger_commit.settlement.state import State

Verify = Callable[[bytes, bytes, bytes], bool]


def apply_registry(
    state: State, transaction: SignedTransaction, identity: bytes, height: int, index: int, verify: Verify
) -> TransactionResult:
    """Applies the transaction whole, or refuses it with its reason. Raises DecodeError for a body that is none."""
    body = _decode(transaction)
    if body is None:
        return TransactionResult(height, index, transaction.kind, "", identity, RefusalReason.KIND_NOT_SUPPORTED)
    reason = prefix_refusal(state, body.prefix, transaction.kind, height)
    if reason is None:
        reason = _refusal(state, body, signers(state, transaction, height, verify))
    if reason is None:
        _take_effect(state, body, transaction.body)
        state.sequences[body.prefix.organisation, body.prefix.key_id] = body.prefix.sequence
        state.transactions.add(identity)
    return TransactionResult(height, index, transaction.kind, body.prefix.organisation, identity, reason or 0)


def _decode(transaction: SignedTransaction) -> RegisterOrganisation | PublishPlan | EnrollMember | None:
    match transaction.kind:
        case Kind.REGISTER_ORGANISATION:
            return REGISTER_ORGANISATION.decode(transaction.body)
        case Kind.PUBLISH_PLAN:
            return PUBLISH_PLAN.decode(transaction.body)
        case Kind.ENROLL_MEMBER:
            return ENROLL_MEMBER.decode(transaction.body)
        case _:
            return None


def prefix_refusal(state: State, prefix: Prefix, kind: Kind, height: int) -> RefusalReason | None:
    """What is wrong with the common beginning, or None. Reviews have no sequence of their own."""
    if prefix.chain_id != state.chain_id:
        return RefusalReason.WRONG_CHAIN
    if prefix.kind is not kind:
        return RefusalReason.MALFORMED
    if prefix.expires_height and height > prefix.expires_height:
        return RefusalReason.EXPIRED
    if prefix.organisation not in state.organisations:
        return RefusalReason.UNKNOWN_ORGANISATION
    last = state.sequences.get((prefix.organisation, prefix.key_id), 0)
    if kind is not Kind.REVIEW_CLAIM and prefix.sequence <= last:
        return RefusalReason.SEQUENCE
    return None


def signers(state: State, transaction: SignedTransaction, height: int, verify: Verify) -> set[str] | None:
    """The organisations that signed with a valid key; None where any signature does not hold."""
    message = transaction_message(transaction.body)
    found = set()
    for signed in transaction.signatures:
        key = state.key_for(signed.organisation, signed.key_id, KeyUse.ORGANISATION, height)
        if key is None or not verify(key.public_key, message, signed.signature):
            return None
        found.add(signed.organisation)
    return found


def _refusal(
    state: State, body: RegisterOrganisation | PublishPlan | EnrollMember, signed: set[str] | None
) -> RefusalReason | None:
    if signed is None:
        return RefusalReason.BAD_SIGNATURE
    match body:
        case RegisterOrganisation():
            return _registration_refusal(state, body, signed)
        case PublishPlan():
            return _plan_refusal(state, body, signed)
        case EnrollMember():
            return _enrollment_refusal(state, body, signed)


def _registration_refusal(state: State, body: RegisterOrganisation, signed: set[str]) -> RefusalReason | None:
    """Two thirds of those that run replicas, rounded up."""
    if 3 * len(signed.intersection(state.governance)) < 2 * len(state.governance):
        return RefusalReason.NOT_AUTHORISED
    if body.organisation in state.organisations:
        return RefusalReason.ALREADY_REGISTERED
    if len({key.key_id for key in body.keys}) != len(body.keys) or not body.organisation:
        return RefusalReason.MALFORMED
    return None


def _plan_refusal(state: State, body: PublishPlan, signed: set[str]) -> RefusalReason | None:
    if not body.payers or not set(body.payers) <= state.organisations.keys():
        return RefusalReason.UNKNOWN_ORGANISATION
    if not set(body.payers) <= signed:
        return RefusalReason.NOT_AUTHORISED
    if body.first_day > body.last_day or _rules_repeat(body):
        return RefusalReason.MALFORMED
    known = state.plans.get((body.plan, body.year))
    if known is None:
        return None
    if not set(known.plan.payers) <= signed:
        return RefusalReason.NOT_AUTHORISED
    return RefusalReason.PLAN_LIMIT_FELL if _falls(known.plan, body) else None


def _rules_repeat(plan: PublishPlan) -> bool:
    keys = [(r.kind, r.limit_class, r.tier, r.scope) for r in plan.accumulators]
    return len(set(keys)) != len(keys) or any(r.limit_cents < 0 for r in plan.accumulators)


def _falls(before: PublishPlan, after: PublishPlan) -> bool:
    """Whether a limit of the running year fell or went away."""
    limits = {(r.kind, r.limit_class, r.tier, r.scope): r.limit_cents for r in after.accumulators}
    return any(limits.get((r.kind, r.limit_class, r.tier, r.scope), -1) < r.limit_cents for r in before.accumulators)


def _enrollment_refusal(state: State, body: EnrollMember, signed: Iterable[str]) -> RefusalReason | None:
    known = state.plans.get((body.plan, body.year))
    if known is None:
        return RefusalReason.UNKNOWN_PLAN
    if not set(signed).intersection(known.plan.payers):
        return RefusalReason.NOT_AUTHORISED
    if any(member.first_day > member.last_day for member in body.members):
        return RefusalReason.MALFORMED
    return None


def _take_effect(state: State, body: RegisterOrganisation | PublishPlan | EnrollMember, encoded: bytes) -> None:
    match body:
        case RegisterOrganisation():
            state.register(body)
        case PublishPlan():
            state.publish(body, hashlib.sha256(encoded).digest())
        case EnrollMember():
            for member in body.members:
                state.enroll(body.plan, body.year, member)
