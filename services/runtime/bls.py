"""BLS12-381 signatures: public keys in G1 (48 bytes), signatures in G2 (96 bytes).

Two backends give the same bytes: `pyblst` does the work, `py_ecc` is the reference and the fallback. py_ecc is slow
(100 ms to sign, 340 ms to verify) and not constant time, so `backend()` says so where it has to be chosen. What must never
be accepted is refused here, for every backend: the point at infinity, points outside the subgroup, encodings that do not
decode to a point and back to themselves, and the secret key zero.

Suites: BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_ for messages, BLS_POP_… for proofs of possession.
Source: consensus.md §2; draft-irtf-cfrg-bls-signature-05.
"""

import hashlib
import secrets
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from typing import Any, Final, Protocol, TypeVar

SIGNATURE_TAG: Final = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_"
POSSESSION_TAG: Final = b"BLS_POP_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_"
ORDER: Final = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
PUBLIC_KEY_BYTES: Final = 48
SIGNATURE_BYTES: Final = 96
CACHED_HASHES: Final = 256
CACHED_KEYS: Final = 512
_G1: Final = bytes.fromhex(
    "97f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb"
)
_INFINITY: Final = 0x40
K = TypeVar("K")


class BlsError(ValueError):
    """Bytes that are no key or signature, or a secret key that is out of range."""


class Backend(Protocol):
    """The group operations of one library; points are its own objects."""

    name: str

    def read_key(self, data: bytes) -> Any: ...

    def read_signature(self, data: bytes) -> Any: ...

    def write_key(self, point: Any) -> bytes: ...

    def write_signature(self, point: Any) -> bytes: ...

    def hash_message(self, message: bytes, tag: bytes) -> Any: ...

    def add(self, points: Sequence[Any]) -> Any: ...

    def times(self, point: Any, scalar: int) -> Any: ...

    def pairings_match(self, pairs: Sequence[tuple[Any, Any]], signature: Any) -> bool:
        """∏ e(key, hash) = e(G1, signature)."""


class PyblstBackend:
    name = "pyblst"

    def __init__(self) -> None:
        import pyblst

        self._lib = pyblst
        self._g1 = pyblst.BlstP1Element.uncompress(_G1)

    def read_key(self, data: bytes) -> Any:
        return self._lib.BlstP1Element.uncompress(data)

    def read_signature(self, data: bytes) -> Any:
        return self._lib.BlstP2Element.uncompress(data)

    def write_key(self, point: Any) -> bytes:
        return bytes(point.compress())

    def write_signature(self, point: Any) -> bytes:
        return bytes(point.compress())

    def hash_message(self, message: bytes, tag: bytes) -> Any:
        return self._lib.BlstP2Element.hash_to_group(message, tag)

    def add(self, points: Sequence[Any]) -> Any:
        return reduce(lambda a, b: a + b, points)

    def times(self, point: Any, scalar: int) -> Any:
        return point.scalar_mul(scalar)

    def pairings_match(self, pairs: Sequence[tuple[Any, Any]], signature: Any) -> bool:
        left = reduce(lambda a, b: a * b, (self._lib.miller_loop(key, hashed) for key, hashed in pairs))
        return bool(self._lib.final_verify(left, self._lib.miller_loop(self._g1, signature)))


class PyEccBackend:
    name = "py_ecc"

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from py_ecc import optimized_bls12_381
            from py_ecc.bls import g2_primitives, hash_to_curve
        self._curve, self._points, self._hash = optimized_bls12_381, g2_primitives, hash_to_curve.hash_to_G2

    def read_key(self, data: bytes) -> Any:
        return self._checked(self._points.pubkey_to_G1(data))

    def read_signature(self, data: bytes) -> Any:
        return self._checked(self._points.signature_to_G2(data))

    def _checked(self, point: Any) -> Any:
        if not self._points.subgroup_check(point):
            raise BlsError("not in the subgroup")
        return point

    def write_key(self, point: Any) -> bytes:
        return bytes(self._points.G1_to_pubkey(point))

    def write_signature(self, point: Any) -> bytes:
        return bytes(self._points.G2_to_signature(point))

    def hash_message(self, message: bytes, tag: bytes) -> Any:
        return self._hash(message, tag, hashlib.sha256)

    def add(self, points: Sequence[Any]) -> Any:
        return reduce(self._curve.add, points)

    def times(self, point: Any, scalar: int) -> Any:
        return self._curve.multiply(point, scalar)

    def pairings_match(self, pairs: Sequence[tuple[Any, Any]], signature: Any) -> bool:
        curve = self._curve
        product = curve.pairing(signature, curve.neg(curve.G1), final_exponentiate=False)
        for key, hashed in pairs:
            product *= curve.pairing(hashed, key, final_exponentiate=False)
        return bool(curve.final_exponentiate(product) == curve.FQ12.one())


class Bls:
    """Signs and verifies with one backend. Caches what repeats: hashed messages, decoded keys and signatures, key sums."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._hashes: OrderedDict[tuple[bytes, bytes], Any] = OrderedDict()
        self._keys: OrderedDict[bytes, Any] = OrderedDict()
        self._sums: OrderedDict[tuple[bytes, ...], Any] = OrderedDict()

    # Keys.

    def public_key(self, secret: int) -> bytes:
        self._check_secret(secret)
        return self.backend.write_key(self.backend.times(self.backend.read_key(_G1), secret))

    def sign(self, secret: int, message: bytes, tag: bytes = SIGNATURE_TAG) -> bytes:
        self._check_secret(secret)
        return self.backend.write_signature(self.backend.times(self._hashed(message, tag), secret))

    def prove_possession(self, secret: int) -> bytes:
        """The signature of a key over itself, which keeps rogue keys out of a committee."""
        return self.sign(secret, self.public_key(secret), POSSESSION_TAG)

    def possession_holds(self, public_key: bytes, proof: bytes) -> bool:
        return self.verify(public_key, public_key, proof, POSSESSION_TAG)

    def _check_secret(self, secret: int) -> None:
        if not 0 < secret < ORDER:
            raise BlsError("a secret key is between 1 and the group's order")

    # Points.

    def key_point(self, data: bytes) -> Any:
        """The point behind a public key. Raises BlsError."""
        return _cached(self._keys, bytes(data), lambda: self._read(data, PUBLIC_KEY_BYTES), CACHED_KEYS)

    def signature_point(self, data: bytes) -> Any:
        """The point behind a signature. Raises BlsError."""
        return self._read(data, SIGNATURE_BYTES)

    def _read(self, data: bytes, length: int) -> Any:
        if len(data) != length:
            raise BlsError(f"{len(data)} bytes where {length} are due")
        if data[0] & _INFINITY:
            raise BlsError("the point at infinity")
        key = length == PUBLIC_KEY_BYTES
        try:
            point = self.backend.read_key(data) if key else self.backend.read_signature(data)
            again = self.backend.write_key(point) if key else self.backend.write_signature(point)
        except Exception as error:  # noqa: BLE001 - libraries have no common type for a bad point
            raise BlsError(f"no point of the group: {error}") from None
        if again != data:
            raise BlsError("not the canonical encoding of its point")
        return point

    def _hashed(self, message: bytes, tag: bytes) -> Any:
        return _cached(self._hashes, (message, tag), lambda: self.backend.hash_message(message, tag), CACHED_HASHES)

    def _key_sum(self, public_keys: Sequence[bytes]) -> Any:
        names = tuple(public_keys)
        return _cached(self._sums, names, lambda: self.backend.add([self.key_point(key) for key in names]), CACHED_KEYS)

    # Verification. Bytes that are no point make it false, never an exception.

    def verify(self, public_key: bytes, message: bytes, signature: bytes, tag: bytes = SIGNATURE_TAG) -> bool:
        return self.verify_distinct([((public_key,), message)], signature, tag)

    def aggregate(self, signatures: Sequence[bytes]) -> bytes:
        """The sum of the signatures. Bytes of zeros, which verify under nothing, where there is none or one is no point."""
        if not signatures:
            return bytes(SIGNATURE_BYTES)
        try:
            return self.backend.write_signature(self.backend.add([self.signature_point(s) for s in signatures]))
        except BlsError:
            return bytes(SIGNATURE_BYTES)

    def verify_same(self, public_keys: Sequence[bytes], message: bytes, aggregate: bytes) -> bool:
        """All of them signed the one message. The keys' possession has been proven, and none stands twice."""
        return self.verify_distinct([(public_keys, message)], aggregate)

    def verify_distinct(
        self, groups: Sequence[tuple[Sequence[bytes], bytes]], aggregate: bytes, tag: bytes = SIGNATURE_TAG
    ) -> bool:
        """Each group signed its own message. False where a group is empty, or a key stands twice."""
        keys = [key for group, _ in groups for key in group]
        if not groups or not all(group for group, _ in groups) or len(set(keys)) != len(keys):
            return False
        try:
            pairs = [(self._key_sum(group), self._hashed(message, tag)) for group, message in groups]
            return self.backend.pairings_match(pairs, self.signature_point(aggregate))
        except BlsError:
            return False


def _cached(table: "OrderedDict[K, Any]", name: K, make: Callable[[], Any], limit: int) -> Any:
    found = table.get(name)
    if found is None:
        found = table[name] = make()
        if len(table) > limit:
            table.popitem(last=False)
    return found


def new_secret() -> int:
    """A fresh secret key, drawn uniformly."""
    return secrets.randbelow(ORDER - 1) + 1


@lru_cache(maxsize=1)
def backend() -> Backend:
    """pyblst, or py_ecc with a warning where pyblst is not installed."""
    try:
        return PyblstBackend()
    except ImportError:
        warnings.warn("pyblst is missing: BLS by py_ecc is hundreds of times slower", RuntimeWarning, stacklevel=2)
        return PyEccBackend()
