"""The secrets of a replica, and Ed25519 verification with its keys decoded once."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from runtime.pki import load_signing_key, read_private


@dataclass(frozen=True, slots=True)
class ReplicaKeys:
    """`bls` signs consensus messages, `lane` batches."""

    bls: int
    lane: Ed25519PrivateKey


def load_keys(directory: Path) -> ReplicaKeys:
    """Reads an organisation's replica keys. Raises KeyFileError."""
    return ReplicaKeys(
        int.from_bytes(bytes.fromhex(read_private(directory / "bls.key").decode("ascii")), "big"),
        load_signing_key(directory / "lane.ed25519"),
    )


@lru_cache(maxsize=4096)
def _public_key(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


def verify_ed25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature holds; false, too, for bytes that are no key."""
    try:
        _public_key(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
