"""Databases of both kinds and a small network for the contract tests of intake."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from claim_intake.store.database import Database
from tests.contract.intake.intake_world import World, make_world


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/intake.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    await opened.migrate()
    yield opened
    await opened.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A network without a broker."""
    return make_world(tmp_path / "run")


@pytest.fixture
def kafka_world(tmp_path: Path, kafka_address: str) -> World:
    """A network with a broker; its organisations' names, and so its topics, are this test's own."""
    return make_world(tmp_path / "run", kafka_address, suffix=f"-{uuid.uuid4().hex[:6]}")
