"""What must never be accepted, refused by our own code for either library.

Public vectors cover some of it where they are present; these cases need nothing but this file.
Source: consensus.md §2.
"""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from runtime.bls import (
    CACHED_HASHES,
    ORDER,
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    Bls,
    BlsError,
    PyblstBackend,
    PyEccBackend,
    backend,
    new_secret,
)

FAST = Bls(PyblstBackend())
SLOW = Bls(PyEccBackend())
BACKENDS = pytest.mark.parametrize("bls", [FAST, SLOW], ids=["pyblst", "py_ecc"])
FIELD = 0x1A0111EA397FE69A4B1BA7B6434BACD764774B84F38512BF6730D2A0F6B0F6241EABFFFEB153FFFFB9FEFFFFFFFFAAAB
MESSAGE = bytes(32)
COMPRESSED, INFINITE, LARGER = 0x80, 0x40, 0x20
INFINITY = {
    "plain": lambda length: b"\xc0" + bytes(length - 1),
    "with the sign": lambda length: b"\xe0" + bytes(length - 1),
    "not compressed": lambda length: b"\x40" + bytes(length - 1),
    "with a coordinate": lambda length: b"\xc0" + bytes(length - 2) + b"\x01",
}
OUTSIDE_KEY = bytes((COMPRESSED,)) + bytes(46) + b"\x04"
"""x = 4 is on the curve of G1, and not in the subgroup."""
OUTSIDE_SIGNATURE = bytes((COMPRESSED,)) + bytes(94) + b"\x02"
"""x = 2 is on the curve of G2, and not in the subgroup."""


def flagged(data: bytes, flags: int) -> bytes:
    return bytes((data[0] ^ flags,)) + data[1:]


def smallest_secret(holds: Callable[[int], bool]) -> int:
    return next(secret for secret in range(1, 1000) if holds(int.from_bytes(FAST.public_key(secret), "big") % 2**381))


@BACKENDS
@pytest.mark.parametrize("form", sorted(INFINITY))
def test_the_point_at_infinity_is_neither_key_nor_signature(bls: Bls, form: str) -> None:
    """Under an infinity key the infinity signature would stand for every message."""
    key, signature = INFINITY[form](PUBLIC_KEY_BYTES), INFINITY[form](SIGNATURE_BYTES)
    for read, data in ((bls.key_point, key), (bls.signature_point, signature)):
        with pytest.raises(BlsError, match="infinity"):
            read(data)
    assert not bls.verify(key, MESSAGE, signature)
    assert not bls.verify(bls.public_key(7), MESSAGE, signature)
    assert not bls.possession_holds(key, signature)


@BACKENDS
def test_keys_that_cancel_do_not_sign_by_saying_nothing(bls: Bls) -> None:
    """Two members of one owner, with secrets s and −s: their keys sum to infinity, and so do their signatures."""
    secrets = (5, ORDER - 5)
    keys = [bls.public_key(secret) for secret in secrets]
    aggregate = bls.aggregate([bls.sign(secret, MESSAGE) for secret in secrets])
    assert not bls.verify_same(keys, MESSAGE, aggregate)
    assert not bls.verify_same(keys, MESSAGE, INFINITY["plain"](SIGNATURE_BYTES))


@BACKENDS
def test_keys_that_cancel_do_not_spoil_the_certificate_of_others(bls: Bls) -> None:
    """A group of them alone must not be refused, or two timeouts of theirs would keep every quorum from its TC."""
    keys = [bls.public_key(secret) for secret in (5, ORDER - 5, 7)]
    other = bytes((1,)) * 32
    signatures = [bls.sign(5, MESSAGE), bls.sign(ORDER - 5, MESSAGE), bls.sign(7, other)]
    assert bls.verify_distinct([(keys[:2], MESSAGE), (keys[2:], other)], bls.aggregate(signatures))


@BACKENDS
def test_a_point_off_the_subgroup_is_neither_key_nor_signature(bls: Bls) -> None:
    for read, data in ((bls.key_point, OUTSIDE_KEY), (bls.signature_point, OUTSIDE_SIGNATURE)):
        with pytest.raises(BlsError, match="no point of the group"):
            read(data)
    assert not bls.verify(OUTSIDE_KEY, MESSAGE, bls.sign(7, MESSAGE))
    assert not bls.verify(bls.public_key(7), MESSAGE, OUTSIDE_SIGNATURE)
    assert bls.aggregate([bls.sign(7, MESSAGE), OUTSIDE_SIGNATURE]) == bytes(SIGNATURE_BYTES)


def test_the_points_off_the_subgroup_are_on_the_curve() -> None:
    """Else the case before would show only that junk is refused."""
    from py_ecc.bls import g2_primitives, point_compression
    from py_ecc.optimized_bls12_381 import b, b2, is_on_curve

    key = point_compression.decompress_G1(int.from_bytes(OUTSIDE_KEY, "big"))
    halves = (int.from_bytes(OUTSIDE_SIGNATURE[:48], "big"), int.from_bytes(OUTSIDE_SIGNATURE[48:], "big"))
    signature = point_compression.decompress_G2(halves)
    assert is_on_curve(key, b)
    assert is_on_curve(signature, b2)
    assert not g2_primitives.subgroup_check(key)
    assert not g2_primitives.subgroup_check(signature)


@BACKENDS
def test_a_coordinate_has_one_encoding(bls: Bls) -> None:
    """x and x + p are the same point, and two names of one key would be two members."""
    secret = smallest_secret(lambda coordinate: coordinate % 2**381 < 2**381 - FIELD and not coordinate >> 380)
    key = bls.public_key(secret)
    sign = key[0] & LARGER
    shifted = (int.from_bytes(flagged(key, COMPRESSED | sign), "big") + FIELD).to_bytes(48, "big")
    assert not shifted[0] >> 5
    with pytest.raises(BlsError):
        bls.key_point(flagged(shifted, COMPRESSED | sign))


class ReducingBackend(PyblstBackend):
    """A library that takes coordinates modulo the field, as some do."""

    name = "reducing"

    def read_key(self, data: bytes) -> Any:
        flags, value = data[0] & 0xE0, int.from_bytes(data, "big") % 2**381 % FIELD
        return super().read_key(flagged(value.to_bytes(48, "big"), flags))


def test_a_lenient_library_makes_no_second_name_of_a_key() -> None:
    """The guard is ours: what does not encode to the bytes it came from is refused whoever decodes it."""
    secret = smallest_secret(lambda coordinate: coordinate % 2**381 < 2**381 - FIELD and not coordinate >> 380)
    lenient, key = Bls(ReducingBackend()), FAST.public_key(secret)
    sign = key[0] & LARGER
    shifted = (int.from_bytes(flagged(key, COMPRESSED | sign), "big") + FIELD).to_bytes(48, "big")
    assert lenient.key_point(key)
    with pytest.raises(BlsError, match="canonical"):
        lenient.key_point(flagged(shifted, COMPRESSED | sign))


@BACKENDS
def test_the_flag_of_compression_must_be_set(bls: Bls) -> None:
    for read, data in ((bls.key_point, bls.public_key(7)), (bls.signature_point, bls.sign(7, MESSAGE))):
        with pytest.raises(BlsError):
            read(flagged(data, COMPRESSED))


@BACKENDS
def test_the_other_root_is_another_signature(bls: Bls) -> None:
    """A flipped sign decodes, to the negative of the point, and signs nothing."""
    key, signature = bls.public_key(7), bls.sign(7, MESSAGE)
    assert bls.signature_point(flagged(signature, LARGER))
    assert not bls.verify(key, MESSAGE, flagged(signature, LARGER))


@BACKENDS
@pytest.mark.parametrize("length", [0, 1, 47, 49, 95, 97, 192])
def test_bytes_of_another_length_are_neither_key_nor_signature(bls: Bls, length: int) -> None:
    data = (bls.sign(7, MESSAGE) * 2)[:length]
    for read in (bls.key_point, bls.signature_point):
        with pytest.raises(BlsError, match=f"{length} bytes"):
            read(data)
    assert not bls.verify(bls.public_key(7), MESSAGE, data)
    assert bls.aggregate([data]) == bytes(SIGNATURE_BYTES)


@BACKENDS
def test_nobody_signs_nothing(bls: Bls) -> None:
    """No keys, an empty group, no signature."""
    key, signature = bls.public_key(7), bls.sign(7, MESSAGE)
    assert not bls.verify_same([], MESSAGE, signature)
    assert not bls.verify_distinct([], signature)
    assert not bls.verify_distinct([((key,), MESSAGE), ((), MESSAGE)], signature)
    assert bls.aggregate([]) == bytes(SIGNATURE_BYTES)
    assert not bls.verify(key, MESSAGE, bytes(SIGNATURE_BYTES))


@BACKENDS
def test_one_signer_counts_once_over_all_groups(bls: Bls) -> None:
    """Twice in one group, and once in each of two."""
    key, other = bls.public_key(7), bytes((1,)) * 32
    twice = bls.aggregate([bls.sign(7, MESSAGE)] * 2)
    assert not bls.verify_same([key, key], MESSAGE, twice)
    both = bls.aggregate([bls.sign(7, MESSAGE), bls.sign(7, other)])
    assert not bls.verify_distinct([((key,), MESSAGE), ((key,), other)], both)


@BACKENDS
@pytest.mark.parametrize("secret", [0, -1, ORDER, ORDER + 7])
def test_a_secret_key_is_within_the_group(bls: Bls, secret: int) -> None:
    for use in (bls.public_key, bls.prove_possession, lambda s: bls.sign(s, MESSAGE)):
        with pytest.raises(BlsError, match="secret"):
            use(secret)


def test_a_proof_of_possession_is_no_signature_and_the_reverse() -> None:
    """Two suites: what a replica signs in its work never proves possession of a key."""
    key = FAST.public_key(7)
    assert FAST.possession_holds(key, FAST.prove_possession(7))
    assert not FAST.possession_holds(key, FAST.sign(7, key))
    assert not FAST.verify(key, key, FAST.prove_possession(7))


def test_both_libraries_aggregate_and_judge_alike() -> None:
    """One verification by the reference, of what the other one made; the bytes are the same."""
    messages = (MESSAGE, bytes((1,)) * 32)
    secrets = (3, 4, 6)
    signatures = [FAST.sign(3, messages[0]), FAST.sign(4, messages[0]), FAST.sign(6, messages[1])]
    aggregate = FAST.aggregate(signatures)
    assert SLOW.aggregate(signatures) == aggregate
    keys = [FAST.public_key(secret) for secret in secrets]
    groups = [(keys[:2], messages[0]), (keys[2:], messages[1])]
    swapped = [(keys[:2], messages[1]), (keys[2:], messages[0])]
    for bls in (FAST, SLOW):
        assert bls.verify_distinct(groups, aggregate)
        assert not bls.verify_distinct(swapped, aggregate)


def test_the_slow_library_is_chosen_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyblst a replica works, hundreds of times slower, and says so."""
    backend.cache_clear()
    assert backend().name == "pyblst"
    backend.cache_clear()
    monkeypatch.setitem(sys.modules, "pyblst", None)
    with pytest.warns(RuntimeWarning, match="slower"):
        assert backend().name == "py_ecc"
    backend.cache_clear()


def test_fresh_secrets_are_within_the_group_and_differ() -> None:
    drawn = {new_secret() for _ in range(100)}
    assert len(drawn) == 100
    assert all(0 < secret < ORDER for secret in drawn)


def test_what_is_remembered_is_bounded_and_what_was_forgotten_still_holds() -> None:
    bls = Bls(PyblstBackend())
    key, first = bls.public_key(7), (0).to_bytes(32, "big")
    signature = bls.sign(7, first)
    for number in range(CACHED_HASHES + 50):
        bls.sign(7, number.to_bytes(32, "big"))
        assert not bls.verify(number.to_bytes(48, "big"), first, signature)
    assert len(bls._hashes) == CACHED_HASHES
    assert not bls._keys, "bytes that are no key are not remembered"
    assert bls.verify(key, first, signature)
