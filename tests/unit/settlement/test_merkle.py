"""The tree against RFC 6962's definition and against public proof vectors."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_commit.settlement.merkle import MerkleTree, consistency_holds, leaf_hash, node_hash, root_from_path


def plain_root(leaves: list[bytes]) -> bytes:
    """MTH as RFC 6962 §2.1 writes it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    middle = 1
    while middle * 2 < len(leaves):
        middle *= 2
    return node_hash(plain_root(leaves[:middle]), plain_root(leaves[middle:]))


@given(st.integers(1, 70), st.data())
def test_roots_and_paths_agree_with_the_definition(size: int, data: st.DataObject) -> None:
    leaves = [b"leaf%d" % i for i in range(size)]
    tree = MerkleTree()
    for leaf in leaves:
        tree.append(leaf)
    part = data.draw(st.integers(1, size))
    index = data.draw(st.integers(0, part - 1))
    root = plain_root(leaves[:part])
    assert tree.root(part) == root
    path = tree.inclusion_path(index, part)
    assert root_from_path(leaves[index], index, part, path) == root
    assert root_from_path(leaves[index] + b"x", index, part, path) != root
    assert root_from_path(leaves[index], index, part, [*path, bytes(32)]) is None
    if path:
        assert root_from_path(leaves[index], index, part, path[:-1]) is None
    assert consistency_holds(part, size, root, tree.root(), tree.consistency_path(part, size))


def test_bounds_are_refused() -> None:
    tree = MerkleTree()
    tree.append(b"one")
    for call in (lambda: tree.root(2), lambda: tree.inclusion_path(1, 1), lambda: tree.consistency_path(0, 1)):
        with pytest.raises(ValueError, match="1"):
            call()


def _cases(shared_data: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted((shared_data / "merkle" / kind).rglob("*.json"))]
    assert found
    return found


def _bytes(value: str | None) -> bytes:
    return base64.b64decode(value) if value else b""


def test_public_inclusion_vectors(shared_data: Path) -> None:
    for case in _cases(shared_data, "inclusion"):
        path = [_bytes(p) for p in case["proof"] or []]
        found = _root_from_hash(_bytes(case["leafHash"]), case["leafIdx"], case["treeSize"], path)
        holds = found == _bytes(case["root"]) and len(found or b"") == 32
        assert holds != case["wantErr"], case["desc"]


def _root_from_hash(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes | None:
    """root_from_path for a leaf given by its hash, as the vectors have it."""
    from unittest.mock import patch

    with patch("ledger_commit.settlement.merkle.leaf_hash", lambda given: given):
        return root_from_path(leaf, index, size, path)


def test_public_consistency_vectors(shared_data: Path) -> None:
    for case in _cases(shared_data, "consistency"):
        path = [_bytes(p) for p in case["proof"] or []]
        holds = consistency_holds(case["size1"], case["size2"], _bytes(case["root1"]), _bytes(case["root2"]), path)
        assert holds != case["wantErr"], case["desc"]
