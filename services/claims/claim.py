"""The canonical claim: one shape whatever the way in (protobuf now, X12 837 and FHIR later).

The same claim given in any format yields the same canonical bytes (`CLAIM.encode`), and so the same
digest and the same plaintext under its commitment. The canonical digest never leaves the tenant.
"""

import hmac
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Final

from claims.encoding import U8, U16, U32, Ascii, Bytes, Cents, Codec, Day, Fixed, Hash, Many, Text

MAX_LINES: Final = 50
"""Service lines of one claim (837P: at most 50 LX)."""
MAX_DIAGNOSES: Final = 12
MAX_AMOUNT_CENTS: Final = 10**11
"""Largest amount of a line, in cents (settlement.md)."""

ClaimRef = Annotated[bytes, Fixed(16)]
"""16 random bytes drawn at intake; names a chain of claim versions."""
OrganisationId = Annotated[str, Ascii(32)]


class ClaimKind(IntEnum):
    """The three guides of X12 837."""

    PROFESSIONAL = 1
    INSTITUTIONAL = 2
    DENTAL = 3


class Frequency(IntEnum):
    """CLM05-3: what a claim is to the one before it."""

    ORIGINAL = 1
    REPLACEMENT = 7
    VOID = 8


class Sex(IntEnum):
    UNKNOWN = 0
    FEMALE = 1
    MALE = 2


class PayerSequence(IntEnum):
    """SBR01: which payer this is in the order of benefits."""

    PRIMARY = 1
    SECONDARY = 2
    TERTIARY = 3


@dataclass(frozen=True, slots=True)
class Header:
    """What stands once for the whole claim."""

    kind: ClaimKind
    frequency: Frequency
    sequence: PayerSequence
    total_charge_cents: Cents
    patient_control_number: Annotated[str, Text(38)]
    """CLM01; returns to the submitter as CLP01."""
    place_of_service: Annotated[str, Text(2)]
    payer: OrganisationId
    plan: Annotated[str, Ascii(32)]
    currency: Annotated[str, Text(3)]
    authorization: Annotated[str, Text(50)]
    """Prior authorisation number; empty when none."""
    original: ClaimRef | None
    """The claim that this one replaces or voids (REF*F8)."""


@dataclass(frozen=True, slots=True)
class Patient:
    member_id: Annotated[str, Text(80)]
    """The number on the card, as the payer issued it."""
    family_name: Annotated[str, Text(60)]
    given_name: Annotated[str, Text(35)]
    birth_day: Day
    sex: Sex


@dataclass(frozen=True, slots=True)
class Parties:
    patient: Patient
    billing_npi: Annotated[str, Text(10)]
    billing_taxonomy: Annotated[str, Text(10)]
    rendering_npi: Annotated[str, Text(10)]
    """Empty when the billing provider rendered the service."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """ICD-10-CM without the dot, upper case."""

    code: Annotated[str, Text(8)]


@dataclass(frozen=True, slots=True)
class ServiceLine:
    """One service. `pointers` are 1-based positions in the claim's diagnoses, the first one principal."""

    number: Annotated[int, U16]
    units: Annotated[int, U16]
    charge_cents: Cents
    from_day: Day
    through_day: Day
    procedure: Annotated[str, Text(5)]
    modifiers: Annotated[tuple[Annotated[str, Text(2)], ...], Many(4)]
    pointers: Annotated[tuple[Annotated[int, U8], ...], Many(4)]
    revenue_code: Annotated[str, Text(4)]
    tooth: Annotated[str, Text(2)]


@dataclass(frozen=True, slots=True)
class OtherPayer:
    """What another payer already did with this claim, line by line (2320, 2430)."""

    payer: OrganisationId
    sequence: PayerSequence
    claim_ref: ClaimRef | None
    """The other payer's claim on this ledger, where it is known."""
    version: Annotated[int, U16]
    line_paid_cents: Annotated[tuple[Cents, ...], Many(MAX_LINES)]
    """One amount for each service line, in line order."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A document that stays outside the pipeline, named by its digest."""

    digest: Hash
    media_type: Annotated[str, Text(64)]
    size_bytes: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class Claim:
    header: Header
    parties: Parties
    diagnoses: Annotated[tuple[Diagnosis, ...], Many(MAX_DIAGNOSES)]
    lines: Annotated[tuple[ServiceLine, ...], Many(MAX_LINES)]
    other_payers: Annotated[tuple[OtherPayer, ...], Many(2)]
    attachments: Annotated[tuple[Attachment, ...], Many(10)]


CLAIM: Final = Codec(Claim)


@dataclass(frozen=True, slots=True)
class AcceptedClaim:
    """A claim as intake sends it on: the canonical bytes and what intake fixed once and for all."""

    claim_ref: ClaimRef
    version: Annotated[int, U16]
    submitter: OrganisationId
    received_day: Day
    salt: Annotated[bytes, Fixed(32)]
    """The key of the commitment; random, drawn at intake, known to the tenant alone."""
    envelope_digest: Hash
    claim: Annotated[bytes, Bytes(32 * 1024)]


ACCEPTED_CLAIM: Final = Codec(AcceptedClaim)

_PADDED_KIB: Final = (1, 2, 4, 8, 16, 32)


def padded(canonical: bytes) -> bytes:
    """The plaintext of the envelope: the canonical claim, 0x80, then zeros up to 1, 2, 4, 8, 16 or 32 KiB.

    The size classes hide how long a claim is. Raises ValueError above 32 KiB. Source: security.md, Envelope.
    """
    for kib in _PADDED_KIB:
        if len(canonical) < kib * 1024:
            return canonical + b"\x80" + bytes(kib * 1024 - len(canonical) - 1)
    raise ValueError(f"a canonical claim of {len(canonical)} bytes does not fit 32 KiB")


def commitment(salt: bytes, canonical: bytes) -> bytes:
    """HMAC-SHA256(salt, "claims/commit/v1" ‖ padded claim): what the ledger holds in the claim's place, 32 bytes."""
    return hmac.digest(salt, b"claims/commit/v1" + padded(canonical), "sha256")
