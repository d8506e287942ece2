"""The envelope opens for its recipients and for nothing that was altered."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from claim_intake.envelope import (
    ENVELOPE,
    ENVELOPE_HEADER,
    EnvelopeError,
    Recipient,
    WrappingKey,
    new_wrapping_key,
    open_wrapping_key,
    seal,
    unseal,
)
from claims.claim import commitment

REF, SALT, CHAIN = b"r" * 16, b"s" * 32, b"c" * 32
KEY = WrappingKey(b"i" * 16, b"w" * 32, "payer", "clinic", b"")
DRAW = bytes(range(56))


@given(st.binary(max_size=32 * 1024 - 1))
def test_what_is_sealed_opens_again(canonical: bytes) -> None:
    """For every claim that fits, and the commitment is the one of the claim."""
    sealed = seal(canonical, REF, 1, CHAIN, KEY, SALT, DRAW)
    assert unseal(sealed.envelope, sealed.key_wrap, REF, 1, KEY) == (canonical, SALT)
    assert sealed.commitment == commitment(SALT, canonical)


def test_the_header_binds_chain_reference_tenant_and_commitment() -> None:
    sealed = seal(b"claim", REF, 1, CHAIN, KEY, SALT, DRAW)
    header = ENVELOPE_HEADER.decode(ENVELOPE.decode(sealed.envelope).header)
    assert (header.chain_id, header.claim_ref, header.version, header.tenant) == (CHAIN, REF, 1, "payer")
    assert header.commitment == sealed.commitment


@pytest.mark.parametrize("at", [5, 60, 200, 260, 1_000])
def test_a_flipped_bit_is_found(at: int) -> None:
    sealed = seal(b"claim", REF, 1, CHAIN, KEY, SALT, DRAW)
    broken = bytearray(sealed.envelope)
    broken[at] ^= 1
    with pytest.raises((EnvelopeError, ValueError)):
        unseal(bytes(broken), sealed.key_wrap, REF, 1, KEY)


def test_a_wrap_of_another_claim_does_not_open() -> None:
    sealed = seal(b"claim", REF, 1, CHAIN, KEY, SALT, DRAW)
    other = seal(b"other", b"o" * 16, 1, CHAIN, KEY, SALT, DRAW)
    with pytest.raises(EnvelopeError):
        unseal(sealed.envelope, other.key_wrap, REF, 1, KEY)


def test_each_recipient_opens_the_wrapping_key_and_a_stranger_does_not() -> None:
    payer, intake, stranger = (X25519PrivateKey.generate() for _ in range(3))
    recipients = (
        Recipient("hub", "intake", intake.public_key()),
        Recipient("payer", "client", payer.public_key()),
    )
    made = new_wrapping_key(b"i" * 16, b"k" * 32, "payer", "clinic", recipients)

    def opened(private: X25519PrivateKey, organisation: str, service: str) -> bytes:
        return open_wrapping_key(made.id, "payer", "clinic", made.wraps, organisation, service, private).key

    assert opened(payer, "payer", "client") == opened(intake, "hub", "intake") == b"k" * 32
    with pytest.raises(EnvelopeError):
        opened(stranger, "payer", "client")
    with pytest.raises(EnvelopeError):
        opened(stranger, "stranger", "client")
