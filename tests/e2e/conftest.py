"""One whole network for all tests that leave it as they found it."""

from collections.abc import Iterator

import pytest

from cli import loading
from tests.e2e.loads import ENDED_WITHIN_S, Loaded, load_whole
from tests.e2e.running import Running, whole_network

FAMILIES = 60
CLAIMS = 200
ENVIRONMENT = {"CLAIMLEDGER_INTAKE_OVERDUE_MS": "120000"}
"""Nothing is sent again here, so that what arrives has arrived by the way under test."""


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """The shared network with what is known of its first load, from before any other test."""
    with whole_network(tmp_path_factory.mktemp("network") / "run", FAMILIES, ENVIRONMENT) as running:
        yield load_whole(running, seed=12, count=CLAIMS, rate=100)


@pytest.fixture(scope="session")
def network(loaded: Loaded) -> Running:
    """Broker, all services, four replicas; plans, members and a load are on the ledger."""
    return loaded.running


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a killed broker is away for a minute, and no claim makes a step."""
    monkeypatch.setattr(loading, "PATIENCE_S", ENDED_WITHIN_S)
