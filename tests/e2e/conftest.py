"""One whole network for all tests that leave it as they found it."""

from collections.abc import Iterator

import pytest

from cli import loading
from tests.e2e.loads import ENDED_WITHIN_S
from tests.e2e.running import Running, whole_network

FAMILIES = 60
ENVIRONMENT = {"CLAIMLEDGER_INTAKE_OVERDUE_MS": "120000"}
"""Nothing is sent again here, so that what arrives has arrived by the way under test."""


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Broker, all services, four replicas; plans and members are on the ledger."""
    with whole_network(tmp_path_factory.mktemp("network") / "run", FAMILIES, **ENVIRONMENT) as running:
        yield running


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a killed broker is away for a minute, and no claim makes a step."""
    monkeypatch.setattr(loading, "PATIENCE_S", ENDED_WITHIN_S)
