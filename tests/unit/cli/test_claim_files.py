"""Files of claims: what is read, and what is refused with its place."""

import json
import sys
from pathlib import Path

import pytest

from cli.claim_files import DEEPEST, ClaimFileError, read_requests


def written(place: Path, content: bytes, name: str = "claims.json") -> Path:
    path = place / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("bomb", [b"[" * 200_000, b'{"a":' * 100_000, b'[{"a":' * 100_000])
def test_deep_nesting_is_refused_whatever_the_recursion_limit(tmp_path: Path, bomb: bytes) -> None:
    """A library that a replica may load lifts the limit so far that parsing would end the process."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        with pytest.raises(ClaimFileError, match="nested too deep"):
            list(read_requests(written(tmp_path, bomb)))
    finally:
        sys.setrecursionlimit(before)


def test_brackets_in_text_are_no_nesting(tmp_path: Path) -> None:
    claim = {"header": {"patientControlNumber": '[{"' * DEEPEST + "\\", "plan": "[" * 2 * DEEPEST}}
    (request,) = read_requests(written(tmp_path, json.dumps(claim).encode()))
    assert request.claim.header.patient_control_number == claim["header"]["patientControlNumber"]


def test_the_same_claim_has_the_same_key_and_another_one_another(tmp_path: Path) -> None:
    lines = b'{"header": {"plan": "a"}}\n{"header": {"plan": "b"}}\n{"header": {"plan": "a"}}\n'
    first, second, third = (request.client_key for request in read_requests(written(tmp_path, lines)))
    assert first == third != second


@pytest.mark.parametrize(
    ("content", "where"),
    [(b'{"header": {}}\n{"header": ', ":2:"), (b'[{"header": {}}, {"headers": {}}]', "[1]"), (b"{", "claims.json")],
)
def test_an_error_names_its_place(tmp_path: Path, content: bytes, where: str) -> None:
    with pytest.raises(ClaimFileError) as refused:
        list(read_requests(written(tmp_path, content)))
    assert where in str(refused.value)
