"""The envelope in which an accepted claim is stored, and the only copy that intake keeps of it.

Each claim version has a fresh AES-256-GCM key. The plaintext is the padded canonical claim, the header (suite, chain,
claim_ref, version, tenant, schema, commitment, SHA-256 of the key) is the additional data. The envelope's digest goes
to the ledger.

The claim key is not wrapped by HPKE directly, which costs 80 µs for each recipient. It is wrapped, together with the
commitment's salt, by AES-256-GCM under a wrapping key that serves one payer and submitter for a short time
and is itself wrapped by HPKE to each recipient: the payer, the submitter where it has an endpoint, and intake itself,
which must send an overdue claim again. Deleting a claim's wrap shreds that claim alone.

Source: security.md, Envelope; RFC 9180.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Annotated, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from claims.claim import ClaimRef, OrganisationId, commitment, padded
from claims.encoding import U8, U16, Bytes, Codec, Fixed, Hash, Many, Text
from claims.quick import quick

SUITE_AES_256_GCM: Final = 1
SCHEMA: Final = "claimledger.claims.v1.Claim/canonical/1"
_HPKE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_INFO: Final = b"claimledger/v1/envelope-key"
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class EnvelopeHeader:
    suite: Annotated[int, U8]
    chain_id: Hash
    claim_ref: ClaimRef
    version: Annotated[int, U16]
    commitment: Hash
    key_digest: Hash
    tenant: OrganisationId
    schema: Annotated[str, Text(64)]


@dataclass(frozen=True, slots=True)
class Envelope:
    header: Annotated[bytes, Bytes(512)]
    nonce: Annotated[bytes, Fixed(_NONCE_BYTES)]
    ciphertext: Annotated[bytes, Bytes(32 * 1024 + 16)]


@dataclass(frozen=True, slots=True)
class Wrap:
    """A wrapping key for one recipient: HPKE's encapsulation and ciphertext, 80 bytes."""

    organisation: OrganisationId
    service: Annotated[str, Text(32)]
    sealed: Annotated[bytes, Fixed(80)]


@dataclass(frozen=True, slots=True)
class WrapList:
    wraps: Annotated[tuple[Wrap, ...], Many(8)]


ENVELOPE_HEADER: Final = Codec(EnvelopeHeader)
ENVELOPE: Final = Codec(Envelope)
WRAP_LIST: Final = Codec(WrapList)


class EnvelopeError(Exception):
    """A stored envelope that does not open: altered, or not for this key. `reason` says which check failed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Recipient:
    organisation: str
    service: str
    public_key: X25519PublicKey


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """A key-encryption key for claims of one payer and submitter. `wraps` is the encoded WrapList."""

    id: bytes
    """16 random bytes."""
    key: bytes
    payer: str
    submitter: str
    wraps: bytes


@dataclass(frozen=True, slots=True)
class SealedClaim:
    """An envelope with the wrap of its key; `commitment` and `digest` are what leaves for the ledger."""

    envelope: bytes
    key_wrap: bytes
    """nonce(12) ‖ AES-256-GCM(claim key ‖ salt), 92 bytes."""
    commitment: bytes
    digest: bytes


def _info(key_id: bytes, payer: str, submitter: str, recipient: str) -> bytes:
    """The context that HPKE binds, since its base mode as offered has no additional data."""
    return b"\x00".join((_INFO, key_id.hex().encode(), payer.encode(), submitter.encode(), recipient.encode()))


def new_wrapping_key(
    key_id: bytes, key: bytes, payer: str, submitter: str, recipients: tuple[Recipient, ...]
) -> WrappingKey:
    """Wraps a fresh key for every recipient; about 80 µs each."""
    wraps = tuple(
        Wrap(
            r.organisation,
            r.service,
            _HPKE.encrypt(key, r.public_key, info=_info(key_id, payer, submitter, r.organisation)),
        )
        for r in recipients
    )
    return WrappingKey(key_id, key, payer, submitter, WRAP_LIST.encode(WrapList(wraps)))


def open_wrapping_key(
    key_id: bytes, payer: str, submitter: str, wraps: bytes, organisation: str, service: str, private: X25519PrivateKey
) -> WrappingKey:
    """The key as one recipient opens it. Raises EnvelopeError."""
    for wrap in WRAP_LIST.decode(wraps).wraps:
        if (wrap.organisation, wrap.service) != (organisation, service):
            continue
        try:
            key = _HPKE.decrypt(wrap.sealed, private, info=_info(key_id, payer, submitter, organisation))
        except Exception as error:  # the library names several, all meaning the same here
            raise EnvelopeError(f"wrapping key {key_id.hex()} does not open: {type(error).__name__}") from error
        return WrappingKey(key_id, key, payer, submitter, wraps)
    raise EnvelopeError(f"wrapping key {key_id.hex()} has no wrap for {organisation}/{service}")


_envelope_header, _envelope, _sealed_claim = quick(EnvelopeHeader), quick(Envelope), quick(SealedClaim)


def seal(
    canonical: bytes, claim_ref: bytes, version: int, chain_id: bytes, under: WrappingKey, salt: bytes, draw: bytes
) -> SealedClaim:
    """Seals one claim version. `draw` is 56 fresh random bytes: claim key and two nonces."""
    key, nonce, wrap_nonce = draw[:_KEY_BYTES], draw[_KEY_BYTES : _KEY_BYTES + _NONCE_BYTES], draw[-_NONCE_BYTES:]
    bound = commitment(salt, canonical)
    header = ENVELOPE_HEADER.encode(
        _envelope_header(
            SUITE_AES_256_GCM, chain_id, claim_ref, version, bound, hashlib.sha256(key).digest(), under.payer, SCHEMA
        )
    )
    ciphertext = AESGCM(key).encrypt(nonce, padded(canonical), header)
    envelope = ENVELOPE.encode(_envelope(header, nonce, ciphertext))
    wrap = wrap_nonce + AESGCM(under.key).encrypt(wrap_nonce, key + salt, _wrap_context(claim_ref, version))
    return _sealed_claim(envelope, wrap, bound, hashlib.sha256(envelope).digest())


def unseal(envelope: bytes, key_wrap: bytes, claim_ref: bytes, version: int, under: WrappingKey) -> tuple[bytes, bytes]:
    """The canonical claim and its salt. Raises EnvelopeError naming the check that failed."""
    secret = _decrypt(under.key, key_wrap[:_NONCE_BYTES], key_wrap[_NONCE_BYTES:], _wrap_context(claim_ref, version))
    key, salt = secret[:_KEY_BYTES], secret[_KEY_BYTES:]
    parts = ENVELOPE.decode(envelope)
    header = ENVELOPE_HEADER.decode(parts.header)
    if (header.claim_ref, header.version) != (claim_ref, version):
        raise EnvelopeError("the envelope belongs to another claim")
    if not hmac.compare_digest(header.key_digest, hashlib.sha256(key).digest()):
        raise EnvelopeError("the key is not the one that the header names")
    canonical = _without_padding(_decrypt(key, parts.nonce, parts.ciphertext, parts.header))
    if not hmac.compare_digest(commitment(salt, canonical), header.commitment):
        raise EnvelopeError("the claim is not the one that was committed to")
    return canonical, salt


def _wrap_context(claim_ref: bytes, version: int) -> bytes:
    return b"claimledger/v1/claim-key" + claim_ref + version.to_bytes(2, "big")


def _decrypt(key: bytes, nonce: bytes, ciphertext: bytes, context: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, context)
    except Exception as error:  # InvalidTag, or ValueError for a wrong length
        raise EnvelopeError(f"decryption failed: {type(error).__name__}") from error


def _without_padding(plaintext: bytes) -> bytes:
    """The inverse of `claims.claim.padded`: up to the last 0x80, which zeros follow."""
    end = plaintext.rstrip(b"\x00")
    if not end.endswith(b"\x80"):
        raise EnvelopeError("the padding is broken")
    return end[:-1]
