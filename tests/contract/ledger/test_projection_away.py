"""A replica goes on executing while its projection's database is away, up to a bound, and catches up afterwards."""

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from ledger_commit import app
from ledger_commit.app import Assembly, ProjectionLostError
from ledger_commit.store import Projected, Projection
from runtime.database import DatabaseAwayError
from tests.contract.ledger.test_projection_of_claims import projected
from tests.fixtures.ledger_world import LedgerWorld


class Outage(Projection):
    """Refuses connections for as long as it is told to."""

    away = True

    async def append(self, blocks: Sequence[Projected]) -> None:
        if self.away:
            raise DatabaseAwayError("refused")
        await super().append(blocks)


@pytest.fixture
async def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Assembly:
    """What projecting needs of an assembly, with two executed blocks."""
    monkeypatch.setattr(app, "DATABASE_PAUSE_S", 0.01)
    world = LedgerWorld()
    world.plan()
    world.enroll("ada")
    assembly = Assembly.__new__(Assembly)
    assembly.projection = Outage(f"sqlite:///{tmp_path}/projection.db")
    await assembly.projection.open()
    assembly.results = SimpleNamespace(wake=lambda: None)  # type: ignore[assignment]
    assembly.projected_height = 0
    assembly._to_project = deque(projected(execution) for execution in world.executions)
    assembly._projectable = asyncio.Event()
    assembly._projectable.set()
    return assembly


async def test_blocks_wait_for_the_database_and_are_written_once_it_is_back(made: Assembly) -> None:
    projecting = asyncio.create_task(made.project())
    await asyncio.sleep(0.05)
    assert not projecting.done()
    assert (made.projected_height, len(made._to_project)) == (0, 2)
    assert isinstance(made.projection, Outage)
    made.projection.away = False
    async with asyncio.timeout(10):
        while made.projected_height < 2:
            await asyncio.sleep(0.01)
    assert [block.height for block in await made.projection.blocks(1, 10)] == [1, 2]
    projecting.cancel()
    await made.projection.close()


async def test_more_blocks_than_memory_should_hold_end_the_replica(
    made: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MAX_UNPROJECTED", 1)
    with pytest.raises(ProjectionLostError, match="2 blocks wait"):
        await made.project()
    await made.projection.close()
