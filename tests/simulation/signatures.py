"""Signatures for the simulator: bound to signer and message, aggregated by XOR, checked in a microsecond."""

import hashlib
from collections.abc import Sequence

from ledger_commit.consensus.committee import Committee, Member


def public_key(index: int) -> bytes:
    return hashlib.sha384(b"member%d" % index).digest()


def sign(key: bytes, message: bytes) -> bytes:
    return hashlib.sha256(b"secret" + key + message).digest() * 3


def _combine(signatures: Sequence[bytes]) -> bytes:
    total = 0
    for signature in signatures:
        total ^= int.from_bytes(signature, "big")
    return total.to_bytes(96, "big")


class PairSignatures:
    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        return sign(public_key, message) == signature

    def aggregate(self, signatures: Sequence[bytes]) -> bytes:
        return _combine(signatures)

    def verify_same(self, public_keys: Sequence[bytes], message: bytes, aggregate: bytes) -> bool:
        return _combine([sign(k, message) for k in public_keys]) == aggregate

    def verify_distinct(self, groups: Sequence[tuple[Sequence[bytes], bytes]], aggregate: bytes) -> bool:
        return _combine([sign(k, message) for keys, message in groups for k in keys]) == aggregate


def committee(size: int, chain_id: bytes) -> Committee:
    return Committee(chain_id, 0, tuple(Member(f"org{i}", public_key(i)) for i in range(size)))
