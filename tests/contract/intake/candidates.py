"""Candidates for acceptance, as the edge makes them."""

import itertools
import os

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from claim_intake.envelope import Recipient, WrappingKey, new_wrapping_key, seal
from claim_intake.intake import fingerprint, tenant_key
from claim_intake.store.accepting import Candidate

PRIVATE = X25519PrivateKey.generate()
_RECIPIENTS = (Recipient("regulator", "intake", PRIVATE.public_key()),)
_COUNT = itertools.count(1)


def wrapping_key(payer: str = "payer-one", submitter: str = "clinic-a") -> WrappingKey:
    return new_wrapping_key(os.urandom(16), os.urandom(32), payer, submitter, _RECIPIENTS)


def candidate(
    key: str = "", body: bytes = b"body", submitter: str = "clinic-a", payer: str = "payer-one", bucket: int = 0
) -> Candidate:
    """A candidate with a reference of its own; without `key` also with a key of its own."""
    draw = os.urandom(16 + 32 + 56)
    ref, salt = draw[:16], draw[16:48]
    under = wrapping_key(payer, submitter)
    return Candidate(
        fingerprint=fingerprint(tenant_key(bytes(32), submitter), key or f"key-{next(_COUNT)}", body),
        claim_ref=ref,
        version=1,
        submitter=submitter,
        payer=payer,
        bucket=bucket,
        received_ms=1_000,
        received_day=20_000,
        salt=salt,
        canonical=body,
        sealed=seal(body, ref, 1, bytes(32), under, salt, draw[48:]),
        wrapping_key=under,
    )
