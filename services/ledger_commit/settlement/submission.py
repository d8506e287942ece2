"""SubmitClaim: is it a repeat, may it stand, does another claim hold its lines, and what does it come to.

Source: settlement.md, Identity of a claim; Adjudication.
"""

import hashlib

from claims.claim import MAX_AMOUNT_CENTS, Frequency
from claims.money import BASIS_POINTS
from claims.quick import quick
from claims.result import ClaimResult, Coordination, Outcome, Posting, SettledLine
from claims.transaction import (
    PRICED_CLAIM,
    Disposition,
    Group,
    PricedClaim,
    PricedLine,
    ReasonClass,
    RefusalReason,
)
from ledger_commit.settlement.accumulators import NO_LIMITS, Ledger
from ledger_commit.settlement.adjudication import adjudicate_line, deny_line
from ledger_commit.settlement.state import ClaimEntry, ClaimKey, KnownPlan, State

NO_TAG = bytes(32)
"""A line whose duplicate tag is all zeros has none."""
_claim_result = quick(ClaimResult)


def submit_claim(
    state: State, payer: str, claim: PricedClaim, *, pended: bool, height: int, index: int
) -> ClaimResult | None:
    """The claim's result, or None for a repeat, which leaves no trace. `payer` signed the record and is the claim's."""
    assert claim.payer == payer, "a record with another payer's claim is no authentic record"
    entry = state.claims.get(_key_of(claim)) or state.claims_of_payer.get((claim.payer, claim.claim_ref, claim.version))
    if entry is not None:
        return _repeat(state, entry, claim, height, index)
    reason = refusal_of(state, payer, claim)
    if reason is not None:
        _spend(state, claim, ClaimEntry(claim.commitment, 0, None, None), Outcome.REFUSED)
        return _result(claim, height, index, Outcome.REFUSED, refusal=reason)
    repeated = _repeated(state, claim)
    why = _why_pended(claim, repeated, pended=pended)
    if why is not None:
        _hold_tags(state, claim)
        linked = repeated if why is ReasonClass.DUPLICATE else None
        _spend(state, claim, ClaimEntry(claim.commitment, 0, claim, None, linked), Outcome.PENDED)
        return _result(claim, height, index, Outcome.PENDED, reason=why, linked=linked)
    return settle(state, claim, height, index, step=0)


def _repeat(state: State, entry: ClaimEntry, claim: PricedClaim, height: int, index: int) -> ClaimResult | None:
    """The same commitment is absorbed; another one is refused once, and never moves the claim."""
    if claim.commitment == entry.commitment or claim.commitment in entry.refused_commitments:
        return None
    entry.refused_commitments += (claim.commitment,)
    state.write(b"r", claim.claim_ref + claim.version.to_bytes(2, "big"), claim.commitment)
    return _result(claim, height, index, Outcome.REFUSED, refusal=RefusalReason.VERSION_SPENT)


def refusal_of(state: State, payer: str, claim: PricedClaim) -> RefusalReason | None:
    """Why the claim may not stand, or None."""
    if claim.frequency is not Frequency.ORIGINAL:
        return RefusalReason.FREQUENCY_NOT_SUPPORTED
    if claim.submitter not in state.organisations or claim.payee not in state.organisations:
        return RefusalReason.UNKNOWN_ORGANISATION
    known = state.plans.get((claim.plan, claim.plan_year))
    if known is None:
        return RefusalReason.UNKNOWN_PLAN
    if payer not in known.plan.payers:
        return RefusalReason.PAYER_NOT_OF_PLAN
    if not known.plan.first_day <= claim.service_day <= known.plan.last_day:
        return RefusalReason.SERVICE_DAY_OUTSIDE_PLAN
    member = state.members.get((claim.plan, claim.plan_year, claim.member_ref))
    if member is None or not member.first_day <= claim.service_day <= member.last_day:
        return RefusalReason.NOT_ENROLLED
    return _line_refusal(claim)


def _line_refusal(claim: PricedClaim) -> RefusalReason | None:
    numbers = {line.number for line in claim.lines}
    if not claim.lines or len(numbers) != len(claim.lines):
        return RefusalReason.DUPLICATE_LINE_NUMBER
    for line in claim.lines:
        if not _amounts_are_in_range(line):
            return RefusalReason.AMOUNT_OUT_OF_RANGE
        if line.allowed_cents > line.charge_cents:
            return RefusalReason.ALLOWED_EXCEEDS_CHARGE
        if line.contractual_group not in {Group.CO, Group.PR}:
            return RefusalReason.MALFORMED
        if claim.disposition is Disposition.DENY and not line.denial_carc:
            return RefusalReason.BAD_DISPOSITION
    return None


def _amounts_are_in_range(line: PricedLine) -> bool:
    return (
        0 <= line.charge_cents <= MAX_AMOUNT_CENTS
        and 0 <= line.allowed_cents <= MAX_AMOUNT_CENTS
        and 0 <= line.copay_cents <= MAX_AMOUNT_CENTS
        and 0 <= line.other_payer_paid_cents <= MAX_AMOUNT_CENTS
        and line.coinsurance_bp <= BASIS_POINTS
    )


def _why_pended(claim: PricedClaim, repeated: bytes | None, *, pended: bool) -> ReasonClass | None:
    """Pend bits and duplicates turn pay into pend, and nothing else.

    A duplicate goes before other reasons, so that whoever reviews the claim sees the link.
    """
    if claim.disposition is Disposition.DENY:
        return None
    if repeated is not None:
        return ReasonClass.DUPLICATE
    if claim.disposition is Disposition.PEND:
        return claim.reason
    return ReasonClass.FRAUD_SUSPICION if pended else None


def _live_tags(claim: PricedClaim) -> list[bytes]:
    return [line.duplicate_tag for line in claim.lines if line.duplicate_tag != NO_TAG and not line.denial_carc]


def _key_of(claim: PricedClaim) -> ClaimKey:
    return (claim.submitter, claim.claim_ref, claim.version)


def _repeated(state: State, claim: PricedClaim) -> bytes | None:
    """The claim whose line this one repeats: another live one, else itself where two of its own lines have one tag.

    A tag says that the service is the same, and neither units nor charge, so a hit within the claim denies nothing either: a
    person decides (ADR 0025).
    """
    other = _other_live(state, claim)
    if other is not None:
        return other
    tags = _live_tags(claim)
    return claim.claim_ref if len(set(tags)) < len(tags) else None


def _other_live(state: State, claim: PricedClaim) -> bytes | None:
    """A live claim with one of this claim's tags. A prior payer's claim for the same service is no duplicate.

    Only where it is on this ledger as the claim names it: what it paid is then taken off. One under the same reference is
    another submitter's claim or another version, and as much a second one as any. Also one that does not hold the tag,
    because the prior claim does: two secondaries of one primary are duplicates.
    """
    coordinated = [state.claims_of_payer.get((p.payer, p.claim_ref, p.version)) for p in claim.prior]
    for tag in _live_tags(claim):
        holder = state.tags.get(tag)
        if holder is None:
            continue
        for other in (holder, *state.waiting.get(tag, ())):
            if not any(prior is state.claims[other] for prior in coordinated):
                return other[1]
    return None


def _hold_tags(state: State, claim: PricedClaim) -> None:
    """Takes the tags that nobody holds and waits for the others, pended or settled: either is live."""
    key = _key_of(claim)
    for tag in _live_tags(claim):
        if tag not in state.tags:
            state.hold_tag(tag, key)
        elif key not in (state.tags[tag], *state.waiting.get(tag, ())):
            state.waiting.setdefault(tag, []).append(key)


def _free_tags(state: State, claim: PricedClaim) -> None:
    """A claim that is denied is no longer live: it waits for no tag, and what it held goes to a settled claim that
    waits, else to a pended one, the longest first, else to nobody.
    """
    key = _key_of(claim)
    for tag in dict.fromkeys(_live_tags(claim)):
        waiting = state.waiting.pop(tag, [])
        leaves: ClaimKey | None = key
        if state.tags[tag] == key:
            leaves = min(waiting, key=lambda other: state.claims[other].pending is not None, default=None)
            state.hold_tag(tag, leaves)
        if rest := [other for other in waiting if other != leaves]:
            state.waiting[tag] = rest


def settle(
    state: State,
    claim: PricedClaim,
    height: int,
    index: int,
    step: int,
    *,
    reason: ReasonClass = ReasonClass.NONE,
    linked: bytes | None = None,
) -> ClaimResult:
    """Adjudicates the claim at this place in the order and posts its accumulators."""
    known = state.plans[claim.plan, claim.plan_year]
    ledger = _accumulators(state, known, claim)
    coordination, other_paid = _paid_before(state, claim)
    cob = known.plan.cob_method
    lines = tuple(
        [adjudicate_line(line, ledger, cob, paid) for line, paid in zip(claim.lines, other_paid, strict=True)]
    )
    denied = all(line.denial_carc for line in claim.lines)
    outcome = Outcome.DENIED if denied else Outcome.SETTLED
    changed = ledger.changed()
    result = _result(
        claim,
        height,
        index,
        outcome,
        reason=reason,
        linked=linked,
        lines=lines,
        postings=tuple([account.posting(claim.plan, claim.plan_year) for account in changed]),
        step=step,
        coordination=coordination,
    )
    state.post_accumulators(changed)
    state.post_payment(claim.payer, claim.payee, result.paid_cents)
    _hold_tags(state, claim)
    _spend(state, claim, ClaimEntry(claim.commitment, step, None, _paid(lines)), outcome)
    return result


def deny_whole(
    state: State,
    claim: PricedClaim,
    carc: str,
    height: int,
    index: int,
    step: int,
    *,
    reason: ReasonClass,
    linked: bytes | None,
) -> ClaimResult:
    """Every line denied by a review; group CO unless the line was denied before."""
    lines = tuple(
        deny_line(line, line.denial_group if line.denial_carc else Group.CO, line.denial_carc or carc)
        for line in claim.lines
    )
    _free_tags(state, claim)
    _spend(state, claim, ClaimEntry(claim.commitment, step, None, _paid(lines)), Outcome.DENIED)
    return _result(claim, height, index, Outcome.DENIED, reason=reason, linked=linked, lines=lines, step=step)


def _accumulators(state: State, known: KnownPlan, claim: PricedClaim) -> Ledger:
    member = state.members[claim.plan, claim.plan_year, claim.member_ref]
    return Ledger(state.accumulators, known.limits.get(claim.tier, NO_LIMITS), claim.member_ref, member.family_ref)


def _paid_before(state: State, claim: PricedClaim) -> tuple[Coordination, list[int]]:
    """For each line what earlier payers paid: from their ledgered results where all are here, else as submitted.

    Lines of two claims are the same where their numbers are; where a prior claim has other numbers than this one, what it paid
    cannot be told line by line, and the submitted amounts count.
    """
    submitted = [line.other_payer_paid_cents for line in claim.lines]
    if not claim.prior:
        return (Coordination.SUBMITTED if any(submitted) else Coordination.NONE), submitted
    entries = [state.claims_of_payer.get((p.payer, p.claim_ref, p.version)) for p in claim.prior]
    numbers = {line.number for line in claim.lines}
    paid: dict[int, int] = {}
    for entry in entries:
        if entry is None or entry.paid is None or any(number not in numbers for number, _ in entry.paid):
            return Coordination.SUBMITTED, submitted
        for number, paid_cents in entry.paid:
            paid[number] = paid.get(number, 0) + paid_cents
    return Coordination.LEDGERED, [paid.get(line.number, 0) for line in claim.lines]


def _paid(lines: tuple[SettledLine, ...]) -> tuple[tuple[int, int], ...]:
    return tuple([(line.number, line.paid_cents) for line in lines])


def _spend(state: State, claim: PricedClaim, entry: ClaimEntry, outcome: Outcome) -> None:
    of_submitter = _key_of(claim)
    before = state.claims.get(of_submitter)
    if before is not None:
        entry.refused_commitments = before.refused_commitments
    state.claims[of_submitter] = entry
    state.claims_of_payer[claim.payer, claim.claim_ref, claim.version] = entry
    name = claim.submitter.encode() + claim.claim_ref + claim.version.to_bytes(2, "big")
    held = b"" if entry.pending is None else hashlib.sha256(PRICED_CLAIM.encode(entry.pending)).digest()
    state.write(b"c", name, bytes((outcome,)) + entry.step.to_bytes(2, "big") + claim.commitment + held)


def _result(
    claim: PricedClaim,
    height: int,
    index: int,
    outcome: Outcome,
    *,
    reason: ReasonClass = ReasonClass.NONE,
    refusal: RefusalReason | None = None,
    linked: bytes | None = None,
    lines: tuple[SettledLine, ...] = (),
    postings: tuple[Posting, ...] = (),
    step: int = 0,
    coordination: Coordination = Coordination.NONE,
) -> ClaimResult:
    charge = sum(line.charge_cents for line in claim.lines) if refusal is None else 0
    paid = sum(line.paid_cents for line in lines)
    patient = sum(a.amount_cents for line in lines for a in line.adjustments if a.group is Group.PR)
    return _claim_result(
        height=height,
        index=index,
        outcome=outcome,
        claim_ref=claim.claim_ref,
        version=claim.version,
        step=step,
        submitter=claim.submitter,
        payer=claim.payer,
        payee=claim.payee,
        plan=claim.plan,
        reason=reason,
        refusal=refusal or 0,
        linked=linked,
        commitment=claim.commitment,
        charge_cents=charge,
        paid_cents=paid,
        patient_cents=patient,
        lines=lines,
        postings=postings,
        coordination=coordination,
    )
