"""Claims out of files: JSON in protobuf's mapping, one claim, a list, or one a line; or one serialised Claim (.pb).

Source: the mapping of protobuf's JSON format; claim.proto.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from claimledger.claims.v1 import claim_pb2
from claimledger.intake.v1 import intake_pb2

LARGEST_FILE = 64 * 1024 * 1024
DEEPEST = 32
"""Levels of nesting; a claim has 5."""
_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
"""A string whole, so that brackets in it do not count, or a bracket."""


class ClaimFileError(ValueError):
    """The file holds no claims; says where and what to do."""


def read_requests(path: Path) -> Iterator[intake_pb2.SubmitClaimRequest]:
    """A request for each claim in the file, at least one. Its idempotency key is the claim's digest, so the same claim
    never counts twice. Raises ClaimFileError."""
    if path.stat().st_size > LARGEST_FILE:
        raise ClaimFileError(f"{path}: {path.stat().st_size} bytes, at most {LARGEST_FILE}; split it")
    raw = path.read_bytes()
    if raw[:3] == b"ISA":
        raise ClaimFileError(f"{path}: X12 837 is not read yet; give the claim as JSON (docs: README, Submitting)")
    claims = [_from_wire(path, raw)] if path.suffix in {".pb", ".bin"} else list(_from_json(path, raw))
    if not claims:
        raise ClaimFileError(f"{path}: holds no claim")
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
        if not isinstance(document, dict):
            raise ClaimFileError(f"{where}: a claim is a JSON object, this is {_kind(document)}")
        try:
            yield json_format.ParseDict(document, claim_pb2.Claim())
        except json_format.ParseError as error:
            raise ClaimFileError(f"{where}: {error}") from error


def _documents(path: Path, raw: bytes) -> Iterator[tuple[str, Any]]:
    """Each JSON document with where it stands."""
    try:
        whole = _parse(raw)
    except ValueError as error:
        lines = [(n, line) for n, line in enumerate(raw.splitlines(), 1) if line.strip()]
        if len(lines) < 2 or not _is_json(lines[0][1]):
            raise ClaimFileError(f"{path}: no JSON: {error}") from error
        for number, line in lines:
            try:
                yield f"{path}:{number}", _parse(line)
            except ValueError as wrong:
                raise ClaimFileError(f"{path}:{number}: no JSON: {wrong}") from wrong
        return
    if isinstance(whole, list):
        for index, document in enumerate(whole):
            yield f"{path}[{index}]", document
    else:
        yield str(path), whole


def _parse(raw: bytes) -> Any:
    """Raises ValueError for what is no JSON, for a name given twice in an object, and for too deep nesting.

    NaN and Infinity pass: no field of a claim takes them, and the error of the field names its place.
    """
    if _depth_of(raw) > DEEPEST:
        raise ValueError(f"nested too deep, at most {DEEPEST} levels")
    return json.loads(raw, object_pairs_hook=_object)


def _depth_of(raw: bytes) -> int:
    """Levels of arrays and objects, counted before anything recurses: a library may have lifted Python's own limit."""
    depth = deepest = 0
    for found in _BRACKET.finditer(raw):
        if found[0] in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif found[0] in b"]}":
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The last of two values would win silently; an amount given twice is an error."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice in one object")
    return made


def _is_json(line: bytes) -> bool:
    try:
        _parse(line)
    except ValueError:
        return False
    return True


def _kind(document: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(document), "null")
