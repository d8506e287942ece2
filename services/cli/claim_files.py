"""Claims out of files: JSON in protobuf's mapping, one claim, a list, or one a line; or one serialised Claim (.pb).

Source: the mapping of protobuf's JSON format; claim.proto.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from claimledger.claims.v1 import claim_pb2
from claimledger.intake.v1 import intake_pb2

LARGEST_FILE = 64 * 1024 * 1024


class ClaimFileError(ValueError):
    """The file holds no claims; says where and what to do."""


def read_requests(path: Path) -> Iterator[intake_pb2.SubmitClaimRequest]:
    """A request for each claim in the file. Its idempotency key is the claim's digest, so the same claim never counts
    twice."""
    if path.stat().st_size > LARGEST_FILE:
        raise ClaimFileError(f"{path}: {path.stat().st_size} bytes, at most {LARGEST_FILE}; split it")
    raw = path.read_bytes()
    if raw[:3] == b"ISA":
        raise ClaimFileError(f"{path}: X12 837 is not read yet; give the claim as JSON (docs: README, Submitting)")
    claims = [_from_wire(path, raw)] if path.suffix in {".pb", ".bin"} else _from_json(path, raw)
    for claim in claims:
        key = hashlib.sha256(claim.SerializeToString(deterministic=True)).hexdigest()
        yield intake_pb2.SubmitClaimRequest(client_key=key, claim=claim)


def _from_wire(path: Path, raw: bytes) -> claim_pb2.Claim:
    try:
        return claim_pb2.Claim.FromString(raw)
    except DecodeError as error:
        raise ClaimFileError(f"{path}: no serialised claimledger.claims.v1.Claim") from error


def _from_json(path: Path, raw: bytes) -> Iterator[claim_pb2.Claim]:
    for where, document in _documents(path, raw):
        if isinstance(document, dict) and "resourceType" in document:
            raise ClaimFileError(f"{where}: FHIR is not read yet; give the claim as JSON (docs: README, Submitting)")
        try:
            yield json_format.ParseDict(document, claim_pb2.Claim())
        except json_format.ParseError as error:
            raise ClaimFileError(f"{where}: {error}") from error


def _documents(path: Path, raw: bytes) -> Iterator[tuple[str, Any]]:
    """Each JSON document with where it stands."""
    try:
        whole = json.loads(raw)
    except ValueError as error:
        lines = [(n, line) for n, line in enumerate(raw.splitlines(), 1) if line.strip()]
        if len(lines) < 2:
            raise ClaimFileError(f"{path}: no JSON: {error}") from error
        for number, line in lines:
            try:
                yield f"{path}:{number}", json.loads(line)
            except ValueError as wrong:
                raise ClaimFileError(f"{path}:{number}: no JSON: {wrong}") from wrong
        return
    if isinstance(whole, list):
        for index, document in enumerate(whole):
            yield f"{path}[{index}]", document
    else:
        yield str(path), whole
