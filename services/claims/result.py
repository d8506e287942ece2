"""What the contract says of a transaction: one canonical result, a leaf of the ledger's Merkle tree for ever.

Source: settlement.md, Results.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Final

from claims.claim import MAX_LINES, ClaimRef, OrganisationId
from claims.encoding import U8, U16, U32, U64, Ascii, Cents, Codec, Hash, Many
from claims.transaction import (
    AccumulatorKind,
    AccumulatorScope,
    Group,
    Kind,
    PlanId,
    ReasonClass,
    Ref,
    RefusalReason,
    Tier,
)


class Outcome(IntEnum):
    SETTLED = 1
    DENIED = 2
    PENDED = 3
    REFUSED = 4
    REVERSED = 5


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One CAS triple: how much of the charge is not paid, by whom it is borne, and why."""

    group: Group
    carc: Annotated[str, Ascii(5)]
    amount_cents: Cents


@dataclass(frozen=True, slots=True)
class SettledLine:
    number: Annotated[int, U16]
    charge_cents: Cents
    allowed_cents: Cents
    paid_cents: Cents
    adjustments: Annotated[tuple[Adjustment, ...], Many(8)]


@dataclass(frozen=True, slots=True)
class Posting:
    """One accumulator before and after this claim."""

    plan: PlanId
    year: Annotated[int, U16]
    kind: AccumulatorKind
    limit_class: Annotated[int, U8]
    tier: Tier
    scope: AccumulatorScope
    holder: Ref
    """member_ref or family_ref, by scope."""
    before_cents: Cents
    after_cents: Cents


class Coordination(IntEnum):
    """Where the amounts of earlier payers came from (settlement.md, step 7)."""

    NONE = 0
    """No earlier payer."""
    LEDGERED = 1
    """Their results on this ledger."""
    SUBMITTED = 2
    """What the claim says, since not all of them are settled here."""


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The outcome of one claim version at one place in the one order."""

    height: Annotated[int, U64]
    index: Annotated[int, U32]
    """Position among the results of this height, from 0. The leaf's index in the tree is separate."""
    outcome: Outcome
    claim_ref: ClaimRef
    version: Annotated[int, U16]
    step: Annotated[int, U16]
    """0 for the first result of this version, 1 for what a review made of it, and so on."""
    submitter: OrganisationId
    payer: OrganisationId
    payee: OrganisationId
    plan: PlanId
    reason: ReasonClass
    refusal: Annotated[int, U16]
    """A RefusalReason where the outcome is REFUSED, else 0."""
    linked: ClaimRef | None
    """The live claim whose line this one repeats, where the reason is DUPLICATE or a review decided such a hold; itself where
    two of its own lines are the same service."""
    commitment: Hash
    charge_cents: Cents
    paid_cents: Cents
    patient_cents: Cents
    """Σ of group PR: what the patient owes."""
    lines: Annotated[tuple[SettledLine, ...], Many(MAX_LINES)]
    postings: Annotated[tuple[Posting, ...], Many(4 * MAX_LINES)]
    coordination: Coordination = Coordination.NONE


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """The outcome of a transaction that is not a claim."""

    height: Annotated[int, U64]
    index: Annotated[int, U32]
    kind: Kind
    organisation: OrganisationId
    transaction_id: Hash
    """SHA-256 of the transaction's body."""
    refusal: Annotated[int, U16]
    """A RefusalReason, or 0 where it took effect."""


CLAIM_RESULT: Final = Codec(ClaimResult, version=1)
TRANSACTION_RESULT: Final = Codec(TransactionResult, version=2)
"""The two result layouts differ in their first byte, so a leaf tells what it is."""


def refusal_of(result: ClaimResult | TransactionResult) -> RefusalReason | None:
    """The typed reason, or None where nothing was refused."""
    return RefusalReason(result.refusal) if result.refusal else None
