"""What a replica tells of itself is of one height, also while the worker thread is in the middle of a block."""

import asyncio
import time
from collections import defaultdict

import pytest

from ledger_commit.settlement.merkle import MerkleTree
from tests.contract.ledger.conftest import REPLICAS, Replicas
from tests.contract.ledger.test_replicas import submit

BLOCKS = 4
MIDDLE_S = 0.15


async def test_height_and_roots_of_a_status_belong_together(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block rests here after its results are in the tree; whoever asks meanwhile is told of the block before."""
    append = MerkleTree.append

    def slowly(tree: MerkleTree, leaf: bytes) -> int:
        index = append(tree, leaf)
        time.sleep(MIDDLE_S)
        return index

    monkeypatch.setattr(MerkleTree, "append", slowly)
    replicas.start(*REPLICAS)
    told: dict[int, set[tuple[bytes, bytes, int]]] = defaultdict(set)
    asked = 0
    for sequence in range(1, BLOCKS + 1):
        await submit(replicas, "aurora", sequence)
        while True:
            status = await replicas.status("aurora")
            told[status.executed_height].add((status.state_root, status.results_root, status.results_size))
            asked += 1
            if status.results_size >= sequence and status.executed_height >= status.committed_height:
                break
            await asyncio.sleep(0.005)
    assert asked > 10 * BLOCKS
    assert {height: len(roots) for height, roots in told.items() if len(roots) > 1} == {}
