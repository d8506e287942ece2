"""The hashes, signed messages and framings of docs/ENCODING.md, written from the page alone (its sections 2 to 9)."""

import hashlib
import hmac
import zlib
from collections.abc import Sequence
from typing import Any

from tests.unit.claims import second_decoder

Plain = dict[str, Any]
ZEROS = bytes(32)


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def big(number: int, width: int) -> bytes:
    return number.to_bytes(width, "big")


# Section 2.


def commitment(salt: bytes, canonical: bytes) -> bytes:
    size = next(kib * 1024 for kib in (1, 2, 4, 8, 16, 32) if len(canonical) + 1 <= kib * 1024)
    return hmac.digest(salt, b"claims/commit/v1" + (canonical + b"\x80").ljust(size, b"\0"), "sha256")


def status_event_id(claim_ref: bytes, version: int, step: int) -> bytes:
    return sha(claim_ref, big(version, 2), big(step, 2))


# Section 4.


def state_root(before: bytes, writes: Sequence[tuple[bytes, bytes, bytes]]) -> bytes:
    if not writes:
        return before
    told = [kind + big(len(key), 2) + key + big(len(value), 2) + value for kind, key, value in writes]
    return sha(before, sha(*told))


def genesis_state_root(genesis: Plain, chain_id: bytes) -> bytes:
    writes = []
    for organisation in genesis["organisations"]:
        bound = {**organisation, "prefix": {**organisation["prefix"], "chain_id": chain_id.hex()}}
        digest = sha(second_decoder.encode("RegisterOrganisation", bound))
        writes.append((b"o", organisation["organisation"].encode(), digest))
    return state_root(ZEROS, writes)


# Section 8.


def message(kind: int, chain_id: bytes, epoch: int, body: bytes) -> bytes:
    return sha(b"claimledger/v1", bytes((kind,)), chain_id, big(epoch, 8), body)


def block_id(header: Plain) -> bytes:
    return message(1, bytes.fromhex(header["chain_id"]), header["epoch"], second_decoder.encode("BlockHeader", header))


def vote_message(chain_id: bytes, data: Plain) -> bytes:
    return message(2, chain_id, data["epoch"], second_decoder.encode("VoteData", data))


def timeout_message(chain_id: bytes, timeout: Plain) -> bytes:
    body = big(timeout["round"], 8) + big(timeout["high_qc"]["data"]["round"], 8)
    return message(3, chain_id, timeout["epoch"], body)


def batch_digest(batch: Plain) -> bytes:
    return sha(second_decoder.encode("Batch", {**batch, "signature": "00" * 64}))


def batches_root(references: Sequence[Plain]) -> bytes:
    encoded = [second_decoder.encode("BatchRef", reference) for reference in references]
    return sha(*encoded) if encoded else ZEROS


def evidence_root(pieces: Sequence[bytes]) -> bytes:
    return sha(*(big(len(piece), 4) + piece for piece in pieces)) if pieces else ZEROS


def commit_digest(epoch: int, height: int, identity: bytes, block_round: int) -> bytes:
    return sha(big(epoch, 8), big(height, 8), identity, big(block_round, 8))


def committee_hash(genesis: Plain) -> bytes:
    members = [(r["organisation"].encode(), bytes.fromhex(r["bls_public_key"])) for r in genesis["replicas"]]
    return sha(*(big(len(name), 2) + name + key for name, key in members))


def schedule(genesis: Plain, chain_id: bytes, epoch: int) -> list[int]:
    seed = sha(chain_id, big(epoch, 8), committee_hash(genesis))
    return sorted(range(len(genesis["replicas"])), key=lambda i: sha(seed, bytes((i,))))


# Section 9.


def block_log(chain_id: bytes, entries: Sequence[tuple[int, bytes]]) -> bytes:
    log = b"CLBLOCKS" + big(1, 2) + chain_id
    for kind, payload in entries:
        log += big(len(payload), 4) + bytes((kind,)) + big(zlib.crc32(bytes((kind,)) + payload), 4) + payload
    return log


def safety_slot(sequence: int, log_size: int, record: bytes) -> bytes:
    checked = big(sequence, 8) + big(log_size, 8)
    head = b"CLSR" + big(1, 2) + checked + big(len(record), 4) + big(zlib.crc32(checked + record), 4)
    return (head + record).ljust(4096, b"\0")
