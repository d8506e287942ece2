"""One whole network for all tests that leave it as they found it."""

from collections.abc import Iterator

import pytest

from tests.e2e.running import Running, whole_network

FAMILIES = 60


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Broker, all services, four replicas; plans and members are on the ledger."""
    with whole_network(tmp_path_factory.mktemp("network") / "run", FAMILIES) as running:
        yield running
