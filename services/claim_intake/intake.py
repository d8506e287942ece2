"""What accepting a claim means, without a clock, a database or a random source.

Idempotency: a key belongs to an organisation. The same key with the same body has the first answer for ever, with
another body it is a conflict. Neither key nor body digest is stored as such: both go through an HMAC under a secret
of the tenant, since a digest of a claim with few unknowns can be guessed.

Source: claims.md, One canonical claim; security.md, B1 and B2.
"""

import hashlib
import hmac
from dataclasses import dataclass
from enum import Enum
from typing import Final

from claims.claim import CLAIM, Claim
from claims.encoding import EncodeError
from claims.finding import Finding, Severity

FIRST_VERSION: Final = 1
MAX_CLIENT_KEY_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Submission:
    """A well-formed claim with its idempotency key, as one organisation handed it in."""

    organisation: str
    client_key: str
    claim: Claim
    canonical: bytes
    """CLAIM.encode(claim)."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is kept of a submission for ever: which key it was, and what the body was."""

    key: bytes
    """16 bytes."""
    body: bytes
    """32 bytes."""


class Verdict(Enum):
    """How a submission relates to what was accepted under its key."""

    NEW = "new"
    REPEATED = "repeated"
    CONFLICT = "conflict"


def tenant_key(secret: bytes, organisation: str) -> bytes:
    """The organisation's own HMAC key, 32 bytes, from the intake's secret."""
    return hmac.new(secret, b"claims/idempotency/v1" + organisation.encode(), hashlib.sha256).digest()


def fingerprint(key: bytes, client_key: str, canonical: bytes) -> Fingerprint:
    """Key and body of a submission under a tenant's HMAC key; the two inputs are told apart by their first byte."""
    return Fingerprint(
        hmac.digest(key, b"\x01" + client_key.encode(), "sha256")[:16],
        hmac.digest(key, b"\x02" + hashlib.sha256(canonical).digest(), "sha256"),
    )


def verdict(claim_ref: bytes, body: bytes, kept_claim_ref: bytes, kept_body: bytes) -> Verdict:
    """Compares a submission with the row that stands under its key after the attempt to insert its own."""
    if claim_ref == kept_claim_ref:
        return Verdict.NEW
    return Verdict.REPEATED if hmac.compare_digest(body, kept_body) else Verdict.CONFLICT


def client_key_findings(client_key: str) -> list[Finding]:
    """Why a client key is none: 1 to 64 bytes of printable ASCII."""
    if 1 <= len(client_key) <= MAX_CLIENT_KEY_BYTES and client_key.isascii() and client_key.isprintable():
        return []
    message = f"1 to {MAX_CLIENT_KEY_BYTES} printable ASCII characters are a client key"
    return [Finding("intake.client_key", "client_key", Severity.REJECT, message)]


def canonical_bytes(claim: Claim) -> bytes | list[Finding]:
    """The claim's one encoding, or a finding for what the encoding refuses."""
    try:
        return CLAIM.encode(claim)
    except EncodeError as error:
        return [Finding("intake.encoding", "claim", Severity.REJECT, str(error))]


def retry_delay_ms(attempt: int, first_ms: int, cap_ms: int) -> int:
    """How long after emission number `attempt` a claim is overdue: `first_ms`, doubling, at most `cap_ms`."""
    return min(first_ms << min(attempt - 1, 30), cap_ms)
