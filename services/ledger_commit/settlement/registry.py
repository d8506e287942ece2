"""Transactions that say who takes part: RegisterOrganisation, PublishPlan, EnrollMember, ReopenLane.

Each has an order of its own within the organisation and key that made it (`sequence`), but ReopenLane, whose order is that
of the incarnations. Source: settlement.md, Transactions; consensus.md §8.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from claims.result import TransactionResult
from claims.transaction import (
    FIRST_LANE,
    AccumulatorKind,
    AccumulatorScope,
    EnrollMember,
    KeyUse,
    Kind,
    OpenLane,
    Prefix,
    PublishPlan,
    RefusalReason,
    RegisterOrganisation,
    ReopenLane,
    Role,
    SignedTransaction,
    Tier,
)
from ledger_commit.settlement.state import State

RegistryBody = RegisterOrganisation | PublishPlan | EnrollMember | ReopenLane
_UNSEQUENCED: Final = (Kind.REVIEW_CLAIM, Kind.REOPEN_LANE)
_ORGANISATION: Final = re.compile(r"[a-z0-9][a-z0-9-]*")
"""As certificates and topics name organisations; the length is the encoding's."""


def apply_registry(
    state: State, transaction: SignedTransaction, body: RegistryBody, identity: bytes, height: int, index: int
) -> TransactionResult:
    """Applies an authentic transaction whole, or refuses it with its reason."""
    reason = prefix_refusal(state, body.prefix, transaction.kind, height)
    if reason is None:
        reason = _refusal(state, body, signers(state, transaction, height))
    if reason is None:
        _take_effect(state, body, transaction.body)
        if transaction.kind not in _UNSEQUENCED:
            state.use_sequence(body.prefix.organisation, body.prefix.key_id, body.prefix.sequence)
        state.take_effect_once(identity)
    return TransactionResult(height, index, transaction.kind, body.prefix.organisation, identity, reason or 0)


def prefix_refusal(state: State, prefix: Prefix, kind: Kind, height: int) -> RefusalReason | None:
    """What is wrong with the common beginning, or None. Reviews and reopened lanes have no sequence."""
    if prefix.chain_id != state.chain_id:
        return RefusalReason.WRONG_CHAIN
    if prefix.kind is not kind:
        return RefusalReason.MALFORMED
    if prefix.expires_height and height > prefix.expires_height:
        return RefusalReason.EXPIRED
    last = state.sequences.get((prefix.organisation, prefix.key_id), 0)
    if kind not in _UNSEQUENCED and prefix.sequence <= last:
        return RefusalReason.SEQUENCE
    return None


def signers(state: State, transaction: SignedTransaction, height: int) -> set[str] | None:
    """The organisations that signed an authentic transaction; None where a key of theirs is not valid at the height."""
    found = set()
    for signed in transaction.signatures:
        if state.key_for(signed.organisation, signed.key_id, KeyUse.ORGANISATION, height) is None:
            return None
        found.add(signed.organisation)
    return found


def _refusal(state: State, body: RegistryBody, signed: set[str] | None) -> RefusalReason | None:
    if signed is None:
        return RefusalReason.KEY_NOT_VALID
    if isinstance(body, RegisterOrganisation):
        return _registration_refusal(state, body, signed)
    if isinstance(body, PublishPlan):
        return _plan_refusal(state, body, signed)
    if isinstance(body, ReopenLane):
        return _reopening_refusal(state, body)
    return _enrollment_refusal(state, body, signed)


def _registration_refusal(state: State, body: RegisterOrganisation, signed: set[str]) -> RefusalReason | None:
    """Two thirds of those that run replicas, rounded up."""
    if 3 * len(signed.intersection(state.governance)) < 2 * len(state.governance):
        return RefusalReason.NOT_AUTHORISED
    if body.organisation in state.organisations:
        return RefusalReason.ALREADY_REGISTERED
    if len({key.key_id for key in body.keys}) != len(body.keys) or not body.keys or not body.roles:
        return RefusalReason.MALFORMED
    return None if _ORGANISATION.fullmatch(body.organisation) else RefusalReason.MALFORMED


def _plan_refusal(state: State, body: PublishPlan, signed: set[str]) -> RefusalReason | None:
    if not body.payers or not set(body.payers) <= state.organisations.keys():
        return RefusalReason.UNKNOWN_ORGANISATION
    if not set(body.payers) <= signed:
        return RefusalReason.NOT_AUTHORISED
    if any(Role.INSURER not in state.organisations[payer].roles for payer in body.payers):
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
    """Whether a limit of the running year fell or went away, or a class of services without one got a limit."""
    old, new = _limit_table(before), _limit_table(after)
    if any(new.get(key, -1) < limit for key, limit in old.items()):
        return True
    return any(kind is AccumulatorKind.LIMIT_CLASS and (kind, *rest) not in old for kind, *rest in new)


def _limit_table(plan: PublishPlan) -> dict[tuple[AccumulatorKind, int, Tier, AccumulatorScope], int]:
    return {(r.kind, r.limit_class, r.tier, r.scope): r.limit_cents for r in plan.accumulators}


def _enrollment_refusal(state: State, body: EnrollMember, signed: Iterable[str]) -> RefusalReason | None:
    known = state.plans.get((body.plan, body.year))
    if known is None:
        return RefusalReason.UNKNOWN_PLAN
    if not set(signed).intersection(known.plan.payers):
        return RefusalReason.NOT_AUTHORISED
    if any(member.first_day > member.last_day for member in body.members):
        return RefusalReason.MALFORMED
    return None


def _reopening_refusal(state: State, body: ReopenLane) -> RefusalReason | None:
    """The organisation of the prefix has signed, and speaks for its own replica alone."""
    if body.prefix.organisation not in state.governance:
        return RefusalReason.NOT_AUTHORISED
    if body.epoch != state.epoch:
        return RefusalReason.WRONG_EPOCH
    before = state.lanes.get(body.prefix.organisation, FIRST_LANE)
    if body.incarnation != before.incarnation + 1:
        return RefusalReason.WRONG_INCARNATION
    if body.last_voted_round <= max(before.after_round, body.high_qc_round):
        return RefusalReason.ROUND_NOT_LATER
    # Q have signed in the round before the one that an honest statement is made in, so no block of an earlier one follows. What
    # lies ahead would excuse what the member has yet to sign, or silence it for ever.
    return RefusalReason.ROUND_NOT_REACHED if body.last_voted_round > state.round + 1 else None


def _take_effect(state: State, body: RegistryBody, encoded: bytes) -> None:
    if isinstance(body, RegisterOrganisation):
        state.register(body)
    elif isinstance(body, PublishPlan):
        state.publish(body, hashlib.sha256(encoded).digest())
    elif isinstance(body, ReopenLane):
        state.open_lane(body.prefix.organisation, OpenLane(body.incarnation, body.last_voted_round))
    else:
        for member in body.members:
            state.enroll(body.plan, body.year, member)
