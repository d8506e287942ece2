"""Both backends against the public vectors, our guards, and each other."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.bls import ORDER, Bls, BlsError, PyblstBackend, PyEccBackend

FAST = Bls(PyblstBackend())
SLOW = Bls(PyEccBackend())
BACKENDS = pytest.mark.parametrize("bls", [FAST, SLOW], ids=["pyblst", "py_ecc"])


def cases(shared_data: Path, kind: str) -> Iterator[tuple[str, Any, Any]]:
    paths = sorted((shared_data / "bls12-381" / kind).glob("*.json"))
    assert paths
    for path in paths:
        case = json.loads(path.read_text())
        yield path.stem, case["input"], case["output"]


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


@BACKENDS
def test_public_signing_vectors(bls: Bls, shared_data: Path) -> None:
    for name, given, output in cases(shared_data, "sign"):
        secret = int(given["privkey"], 16)
        if output is None:
            with pytest.raises(BlsError):
                bls.sign(secret, raw(given["message"]))
        else:
            assert bls.sign(secret, raw(given["message"])) == raw(output), name


@BACKENDS
def test_public_verification_vectors(bls: Bls, shared_data: Path) -> None:
    for name, given, output in cases(shared_data, "verify"):
        holds = bls.verify(raw(given["pubkey"]), raw(given["message"]), raw(given["signature"]))
        assert holds == output, name


@BACKENDS
def test_public_aggregate_vectors(bls: Bls, shared_data: Path) -> None:
    for name, given, output in cases(shared_data, "fast_aggregate_verify"):
        keys = [raw(k) for k in given["pubkeys"]]
        assert bls.verify_same(keys, raw(given["message"]), raw(given["signature"])) == output, name
    for name, given, output in cases(shared_data, "aggregate_verify"):
        groups = [([raw(k)], raw(m)) for k, m in zip(given["pubkeys"], given["messages"], strict=True)]
        assert bls.verify_distinct(groups, raw(given["signature"])) == output, name
    for name, given, output in cases(shared_data, "aggregate"):
        if output is not None and given and not any(raw(s)[0] & 0x40 for s in given):
            assert bls.aggregate([raw(s) for s in given]) == raw(output), name


@BACKENDS
@pytest.mark.parametrize("group", ["G1", "G2"])
def test_public_decoding_vectors(bls: Bls, group: str, shared_data: Path) -> None:
    """Infinity decodes in the vectors; we never accept it."""
    field, read = ("pubkey", bls.key_point) if group == "G1" else ("signature", bls.signature_point)
    for name, given, output in cases(shared_data, f"deserialization_{group}"):
        data = raw(given[field])
        if output and not data[0] & 0x40:
            read(data)
        else:
            with pytest.raises(BlsError):
                read(data)
            assert name


@BACKENDS
def test_guards(bls: Bls) -> None:
    for secret in (0, -1, ORDER):
        with pytest.raises(BlsError, match="secret"):
            bls.sign(secret, b"m")
    key, message = bls.public_key(7), bytes(32)
    signature = bls.sign(7, message)
    twice = bls.aggregate([signature, signature])
    assert not bls.verify_same([key, key], message, twice), "the same signer twice"
    assert not bls.verify_same([], message, b"\xc0" + bytes(95)), "nobody signed"
    assert not bls.verify(b"\xc0" + bytes(47), message, b"\xc0" + bytes(95)), "infinity signs anything"
    assert not bls.verify(key[:-1], message, signature)
    assert bls.aggregate([signature, b"junk"]) == bytes(96)


def test_both_backends_give_the_same_bytes() -> None:
    for secret in (1, 2, ORDER - 1):
        assert FAST.public_key(secret) == SLOW.public_key(secret)
        assert FAST.sign(secret, b"message") == SLOW.sign(secret, b"message")
        assert FAST.prove_possession(secret) == SLOW.prove_possession(secret)


def test_a_rogue_key_has_no_proof_of_possession() -> None:
    """V8: a key made to cancel an honest one forges an aggregate, and cannot prove possession."""
    honest = FAST.public_key(11)
    backend = FAST.backend
    rogue_point = backend.add([FAST.key_point(FAST.public_key(5)), backend.times(FAST.key_point(honest), ORDER - 1)])
    rogue = backend.write_key(rogue_point)
    forged = FAST.sign(5, b"forged")
    assert FAST.verify_same([honest, rogue], b"forged", forged)
    assert not FAST.possession_holds(rogue, FAST.prove_possession(5))
    assert FAST.possession_holds(honest, FAST.prove_possession(11))
