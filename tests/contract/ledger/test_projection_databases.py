"""The projection on both kinds of database: what is written is read back, whatever size its numbers have."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from claims.result import CLAIM_RESULT, TRANSACTION_RESULT
from ledger_commit.store import Projected, Projection
from tests.contract.ledger.test_projection_of_claims import projected
from tests.fixtures.ledger_world import LedgerWorld, claim, line, ref, scored_entry

TODAY_MS = 1_780_000_000_000
FAR = 2**40
"""A chain that has run for long."""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def projection(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Projection]:
    url = f"sqlite:///{tmp_path}/projection.db"
    made = Projection(url if request.param == "sqlite" else request.getfixturevalue("postgres_url"))
    await made.open()
    yield made
    await made.close()


def far(block: Projected) -> Projected:
    """The same block much later on the chain."""
    header = replace(
        block.header, height=FAR + block.header.height, round=2 * FAR + block.header.round, time_ms=TODAY_MS
    )
    return replace(block, header=header, first_leaf=FAR + block.first_leaf)


async def test_blocks_results_and_transactions_are_read_back(projection: Projection) -> None:
    world = LedgerWorld()
    world.plan()
    world.enroll("ada")
    world.block(scored_entry([claim("one", [line()])]))
    blocks = [far(projected(execution)) for execution in world.executions]
    await projection.append(blocks)
    assert await projection.open() == FAR + 3
    rows = await projection.blocks(FAR + 1, 10)
    assert [(row.height, row.round, row.time_ms, row.first_leaf) for row in rows] == [
        (FAR + n, 2 * FAR + n, TODAY_MS, FAR + n - 1) for n in (1, 2, 3)
    ]
    assert await projection.block(FAR) == rows[0]
    results = await projection.results(FAR, 10)
    assert [(row.leaf, row.height) for row in results] == [
        (FAR + n - 1, world.executions[n - 1].height) for n in (1, 2, 3)
    ]
    for party, found in {"": 1, "aurora": 1, "riverside": 1, "cygnus": 0}.items():
        row = await projection.latest_of(ref("one"), party)
        assert (row is not None) == found
    assert CLAIM_RESULT.decode(bytes(results[2].body)).claim_ref == ref("one")
    told = [TRANSACTION_RESULT.decode(bytes(row.body)) for row in results[:2]]
    for result, row in zip(told, results, strict=False):
        assert await projection.transaction(result.transaction_id) == bytes(row.body)
    assert await projection.transaction(hashlib.sha256(b"another").digest()) is None
