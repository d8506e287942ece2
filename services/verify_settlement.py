"""Checks a settlement offline: this one file, the network's genesis and a proof, and no other part of the system.

    python verify_settlement.py PROOF… --genesis genesis.bin [--genesis-hash HEX]

PROOF is a serialised claimledger.ledger.v1.SettlementProof, or JSON with the same fields in hex. The genesis names the
committee; its SHA-256 is the chain id, which `--genesis-hash` pins. Checked are: possession of every committee key; that
the header is of this chain and epoch; that a quorum signed a certificate whose commit digest is this header's; that the
result is a leaf of the results tree in the header. Needs Python 3.11 and `pyblst` or `py_ecc`; see docs/ENCODING.md.
"""

import argparse
import hashlib
import json
import struct
import sys
from dataclasses import asdict, dataclass
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

SIGNATURE_TAG = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_"
POSSESSION_TAG = b"BLS_POP_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_"
G1 = bytes.fromhex("97f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb")
HEADER = struct.Struct(">B32sHQQQH32s32s32s32sQQ32sQ32s32sQ32s32s32s")
VOTE_DATA = struct.Struct(">BQQ32s32sQ32s")
FIELDS = {10: "result", 16: "leaf_index", 24: "tree_size", 34: "path", 42: "header", 50: "commit_qc"}  # by their tags
MAX_PROOF_BYTES, MAX_PATH, CACHED_HEADERS = 1 << 20, 64, 1024
# Layouts: u and i are integers of so many bytes, h is that many bytes as hex, t text up to a limit, ? optional, a name
# in capitals one of a set, * a list up to a limit of the layout with the field's name.
LAYOUTS = {
    "result": "height:u8 index:u4 outcome:OUTCOMES claim_ref:h16 version:u2 step:u2 submitter:t32 payer:t32 payee:t32"
    " plan:t32 reason:u1 refusal:u2 linked:?h16 commitment:h32 charge_cents:i8 paid_cents:i8 patient_cents:i8 lines:*50"
    " postings:*200 coordination:COORDINATION",
    "lines": "number:u2 charge_cents:i8 allowed_cents:i8 paid_cents:i8 adjustments:*8",
    "adjustments": "group:GROUPS carc:t5 amount_cents:i8",
    "postings": "plan:t32 year:u2 kind:u1 limit_class:u1 tier:u1 scope:u1 holder:h16 before_cents:i8 after_cents:i8",
    "genesis": "name:t64 currency:t3 time_ms:u8 replicas:*64",  # and organisations, which need no reading here
    "replicas": "organisation:t32 bls_public_key:h48 bls_possession:h96 lane_public_key:h32",
}
NAMES = {"GROUPS": {1: "CO", 2: "PR", 3: "OA", 4: "PI"}, "COORDINATION": {0: "NONE", 1: "LEDGERED", 2: "SUBMITTED"}}
NAMES["OUTCOMES"] = {1: "SETTLED", 2: "DENIED", 3: "PENDED", 4: "REFUSED", 5: "REVERSED"}


class ProofError(ValueError):
    """The proof does not hold; the message says exactly why not."""


@dataclass(frozen=True)
class VerifiedSettlement:
    """A claim result that a quorum committed, its fields as in docs/ENCODING.md, and where it stands."""

    result: dict[str, Any]
    leaf_index: int
    tree_size: int
    block_height: int
    block_id: str
    signers: tuple[str, ...]


def _need(holds: object, why: str) -> None:
    if not holds:
        raise ProofError(why)


class _Pyblst:
    def __init__(self) -> None:
        import pyblst

        self.lib, self.g1, self.g2 = pyblst, pyblst.BlstP1Element, pyblst.BlstP2Element

    def point(self, data: bytes) -> tuple[Any, bytes]:
        point = (self.g1 if len(data) == 48 else self.g2).uncompress(data)
        return point, bytes(point.compress())

    def holds(self, keys: list[Any], message: bytes, signature: Any, tag: bytes) -> bool:
        left = self.lib.miller_loop(reduce(lambda a, b: a + b, keys), self.g2.hash_to_group(message, tag))
        return bool(self.lib.final_verify(left, self.lib.miller_loop(self.point(G1)[0], signature)))


class _PyEcc:
    def __init__(self) -> None:
        from py_ecc import optimized_bls12_381 as curve
        from py_ecc.bls import g2_primitives, hash_to_curve

        self.curve, self.lib, self.hash_to_g2 = curve, g2_primitives, hash_to_curve.hash_to_G2

    def point(self, data: bytes) -> tuple[Any, bytes]:
        point = (self.lib.pubkey_to_G1 if len(data) == 48 else self.lib.signature_to_G2)(data)
        again = (self.lib.G1_to_pubkey if len(data) == 48 else self.lib.G2_to_signature)(point)
        return point, bytes(again) if self.lib.subgroup_check(point) else b""

    def holds(self, keys: list[Any], message: bytes, signature: Any, tag: bytes) -> bool:
        hashed = self.hash_to_g2(message, tag, hashlib.sha256)
        left = self.curve.pairing(hashed, reduce(self.curve.add, keys), final_exponentiate=False)
        right = self.curve.pairing(signature, self.curve.neg(self.curve.G1), final_exponentiate=False)
        return bool(self.curve.final_exponentiate(left * right) == self.curve.FQ12.one())


class _Reader:
    """Reads the fixed encoding (version byte 1 first); a short read or a value out of its range is an error."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.at, self.what = data, 0, what
        _need(self.number(1) == 1, f"{what}: it does not begin with version 1")

    def take(self, length: int) -> bytes:
        _need(self.at + length <= len(self.data), f"{self.what}: the bytes end early")
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self, width: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "big", signed=signed)

    def layout(self, name: str) -> dict[str, Any]:
        pairs = (field.split(":") for field in LAYOUTS[name].split())
        return {field: self.field(field, form[0], form[1:]) for field, form in pairs}

    def field(self, name: str, kind: str, rest: str) -> Any:
        if kind in "ui":
            return self.number(int(rest), signed=kind == "i")
        if kind == "h":
            return self.take(int(rest)).hex()
        if kind == "?":
            present = self.number(1)
            _need(present < 2, f"{self.what}: {name}: presence is 0 or 1")
            return self.field(name, rest[0], rest[1:]) if present else None
        count = self.number({"t": 2, "*": 4}.get(kind, 1))
        if kind == "*":
            _need(count <= int(rest), f"{self.what}: {name}: {count} items, at most {rest}")
            return [self.layout(name) for _ in range(count)]
        if kind == "t":
            _need(count <= int(rest), f"{self.what}: {name}: {count} bytes of text, at most {rest}")
            return self.take(count).decode(errors="backslashreplace")
        _need(count in NAMES[kind + rest], f"{self.what}: {name}: unknown value {count}")
        return NAMES[kind + rest][count]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    end = at
    while data[end : end + 1] >= b"\x80":
        end += 1
    _need(end < len(data) and end < at + 9, "proof: the bytes end early, or a number is too large")
    _need(data[end] or end == at, "proof: a number is not in its shortest form")
    return sum((byte & 127) << 7 * place for place, byte in enumerate(data[at : end + 1])), end + 1


def read_proof(data: bytes) -> dict[str, Any]:
    """The six fields of a serialised SettlementProof, in ascending order and nothing else. Raises ProofError."""
    _need(len(data) <= MAX_PROOF_BYTES, f"proof: {len(data)} bytes, at most {MAX_PROOF_BYTES}")
    proof: dict[str, Any] = dict.fromkeys(FIELDS.values(), b"") | {"leaf_index": 0, "tree_size": 0, "path": []}
    at = last = 0
    while at < len(data):
        tag, at = _varint(data, at)
        in_place = tag > last or (tag == last == 34 and len(proof["path"]) < MAX_PATH)
        _need(tag in FIELDS and in_place, f"proof: a field with tag {tag} does not belong here")
        value, at = _varint(data, at)
        last = tag
        if tag & 7 == 0:
            proof[FIELDS[tag]] = value
            continue
        _need(at + value <= len(data), "proof: the bytes end early")
        item, at = data[at : at + value], at + value
        proof[FIELDS[tag]] = [*proof["path"], item] if tag == 34 else item
    return proof


def read_json_proof(fields: dict[str, Any]) -> dict[str, Any]:
    """The same six fields from JSON: hex for bytes, numbers for numbers, a list of hex for the path."""
    read: dict[str, Any] = {"leaf_index": int, "tree_size": int, "path": lambda path: [*map(bytes.fromhex, path)]}
    try:
        proof = {name: read.get(name, bytes.fromhex)(fields[name]) for name in FIELDS.values()}
    except (KeyError, TypeError, ValueError) as error:
        raise ProofError(f"proof: {error!r} in its JSON") from None
    _need(len(fields) == len(proof), f"proof: unknown fields {sorted(fields.keys() - proof.keys())}")
    return proof


def root_of(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that a path leads to (RFC 9162 §2.1.3.2). Raises ProofError for a path of the wrong shape."""
    _need(0 <= index < size, f"path: leaf {index} is not in a tree of {size}")
    _need(all(len(item) == 32 for item in path), "path: its items are not hashes of 32 bytes")
    node, at, last = hashlib.sha256(b"\x00" + leaf).digest(), index, size - 1
    for sibling in path:
        _need(last, "path: it has nodes too many")
        left = at & 1 or at == last
        node = hashlib.sha256(b"\x01" + (sibling + node if left else node + sibling)).digest()
        while left and at and not at & 1:
            at, last = at >> 1, last >> 1
        at, last = at >> 1, last >> 1
    _need(last == 0, "path: it has nodes too few")
    return node


class Verifier:
    """A genesis' committee, and a bounded memory of headers seen certified. Raises ProofError for a bad genesis."""

    def __init__(self, genesis: bytes, genesis_hash: bytes | None = None) -> None:
        self.chain_id = hashlib.sha256(genesis).digest()
        _need(genesis_hash in {None, self.chain_id}, f"genesis: its hash is {self.chain_id.hex()}, not the pinned one")
        try:
            self._bls: Any = _Pyblst()
        except ImportError:
            self._bls = _PyEcc()
        replicas = _Reader(genesis, "genesis").layout("genesis")["replicas"]
        _need(replicas, "genesis: it names no committee")
        _need(len({r["bls_public_key"] for r in replicas}) == len(replicas), "genesis: the same key stands there twice")
        self.members = [replica["organisation"] for replica in replicas]
        self._keys = [self._possessed(replica) for replica in replicas]
        self.quorum = -(-(len(replicas) + (len(replicas) - 1) // 3 + 1) // 2)
        self._certified = lru_cache(CACHED_HEADERS)(self._check_header)

    def verify(self, proof: bytes | dict[str, Any]) -> VerifiedSettlement:
        """Accepts a proof (serialised, or JSON's fields) or raises ProofError."""
        fields = read_proof(proof) if isinstance(proof, bytes) else read_json_proof(proof)
        reader = _Reader(fields["result"], "result")
        result, size, index = reader.layout("result"), fields["tree_size"], fields["leaf_index"]
        _need(reader.at == len(reader.data), f"result: {len(reader.data) - reader.at} bytes left over")
        return VerifiedSettlement(result, index, size, *self.place(fields, result["height"]))

    def place(self, fields: dict[str, Any], result_height: int) -> tuple[int, str, tuple[str, ...]]:
        """Of a proof whose result was decoded already: height and id of its block, who signed. Raises ProofError."""
        where, exec_height, due_size, due_root = self._certified(fields["header"], fields["commit_qc"])
        size, index = fields["tree_size"], fields["leaf_index"]
        _need(size == due_size, f"path: the header is over {due_size} results, the proof over {size}")
        root = root_of(fields["result"], index, size, fields["path"])
        _need(root == due_root, "path: it does not lead from this result to the root in the header")
        _need(1 <= result_height <= exec_height, "result: its height is not one that the header covers")
        return where

    def _point(self, data: bytes, what: str) -> Any:
        _need(data[0] & 0x40 == 0, f"{what} is the point at infinity")
        try:
            point, again = self._bls.point(data)
        except Exception as error:  # noqa: BLE001 - each backend has errors of its own
            raise ProofError(f"{what} is no point of its group: {error}") from None
        _need(again == data, f"{what} is off the subgroup or not in its one encoding")
        return point

    def _possessed(self, replica: dict[str, str]) -> Any:
        name, key = replica["organisation"], bytes.fromhex(replica["bls_public_key"])
        point = self._point(key, f"genesis: the key of {name}")
        proof = self._point(bytes.fromhex(replica["bls_possession"]), f"genesis: the possession proof of {name}")
        _need(self._bls.holds([point], key, proof, POSSESSION_TAG), f"genesis: {name} does not possess its key")
        return point

    def _message(self, kind: bytes, epoch: int, body: bytes) -> bytes:
        return hashlib.sha256(b"claimledger/v1" + kind + self.chain_id + epoch.to_bytes(8, "big") + body).digest()

    def _check_header(self, header: bytes, qc: bytes) -> tuple[tuple[int, str, tuple[str, ...]], int, int, bytes]:
        """(Height, block id, who signed), and what it covers: exec_height, size and root of the results."""
        _need(len(header) == HEADER.size, f"header: {len(header)} bytes where {HEADER.size} are due")
        version, chain_id, protocol, epoch, block_round, height, *rest = HEADER.unpack(header)
        _need((version, protocol) == (1, 1), "header: unknown version")
        _need(chain_id == self.chain_id, "header: it is of another chain than the genesis")
        _need(epoch == 0, f"header: epoch {epoch} has another committee than the genesis")
        identity = self._message(b"\x01", epoch, header)
        digest = hashlib.sha256(struct.pack(">QQ32sQ", epoch, height, identity, block_round)).digest()
        signers = self._check_certificate(qc, (1, epoch, block_round + 1, identity, block_round, digest))
        exec_height, _, size, root = rest[6:10]
        return (height, identity.hex(), signers), exec_height, size, root

    def _check_certificate(self, qc: bytes, due: tuple[object, ...]) -> tuple[str, ...]:
        count = len(self.members)
        layout = struct.Struct(f">{VOTE_DATA.size}sI{-(-count // 8)}s96s")
        _need(len(qc) == layout.size, f"certificate: {len(qc)} bytes where {layout.size} are due for {count} members")
        data, width, bitmap, aggregate = layout.unpack(qc)
        told = VOTE_DATA.unpack(data)
        names = ("version", "epoch", "round (it must be the next one)", "parent id", "parent round", "commit digest")
        for name, is_, must in zip(names, told[:3] + told[4:], due, strict=True):
            _need(is_ == must, f"certificate: its {name} is not what commits this header")
        signers = [i for i in range(8 * len(bitmap)) if bitmap[i // 8] >> i % 8 & 1]
        fits = width == len(bitmap) and max(signers, default=0) < count
        _need(fits, f"certificate: its bitmap is not one of {count} members")
        _need(len(signers) >= self.quorum, f"certificate: {len(signers)} signers, a quorum is {self.quorum}")
        signature = self._point(aggregate, "certificate: the aggregate")
        keys, message = [self._keys[i] for i in signers], self._message(b"\x02", told[1], data)
        _need(self._bls.holds(keys, message, signature, SIGNATURE_TAG), "certificate: the signature does not hold")
        return tuple(self.members[i] for i in signers)


def main(arguments: list[str] | None = None) -> int:
    """Prints what was verified as one JSON document a proof; 0 where all hold, 1 with the reasons where not."""
    parser = argparse.ArgumentParser(description="Checks proofs of settlements offline.")
    parser.add_argument("proof", type=Path, nargs="+", help="files with one proof each, binary or JSON")
    parser.add_argument("--genesis", type=Path, required=True, help="the network's genesis.bin")
    parser.add_argument("--genesis-hash", type=bytes.fromhex, help="the chain id that the genesis must hash to, hex")
    given, verifier, refused = parser.parse_args(arguments), None, 0
    for path in given.proof:
        try:
            verifier = verifier or Verifier(given.genesis.read_bytes(), given.genesis_hash)
            found = verifier.verify(json.loads(data) if (data := path.read_bytes())[:1] == b"{" else data)
            sys.stdout.write(json.dumps(asdict(found), indent=2) + "\n")
        except (OSError, ValueError, RecursionError) as error:
            refused = 1
            sys.stderr.write(f"refused: {path}: {error}\n")
    return refused


if __name__ == "__main__":
    sys.exit(main())
