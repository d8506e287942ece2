"""A payer-signed statement that a claim was returned unprocessed.

With the settlement's proof it is the other way in which intake's duty for an accepted claim ends.
Source: claims.md, Status; architecture.md, Delivery.
"""

from dataclasses import dataclass
from typing import Annotated, Final

from claims.claim import ClaimRef, OrganisationId
from claims.encoding import U16, Codec, Hash, Many, Text


@dataclass(frozen=True, slots=True)
class RejectionReason:
    """One finding of severity reject: which rule, where, and the codes a submitter's system understands."""

    rule: Annotated[str, Text(32)]
    path: Annotated[str, Text(80)]
    carc: Annotated[str, Text(5)]
    rarc: Annotated[str, Text(8)]
    message: Annotated[str, Text(300)]


@dataclass(frozen=True, slots=True)
class Rejection:
    chain_id: Hash
    claim_ref: ClaimRef
    version: Annotated[int, U16]
    payer: OrganisationId
    submitter: OrganisationId
    commitment: Hash
    """Binds the statement to what was rejected."""
    reasons: Annotated[tuple[RejectionReason, ...], Many(100)]


REJECTION: Final = Codec(Rejection)


def rejection_message(rejection: bytes) -> bytes:
    """What the payer's pricing key signs."""
    return b"claimledger/v1/rejection" + rejection
