"""Fixtures for every test: Kafka, PostgreSQL, and the shared public data.

Unit, scenario and simulation tests ask for none of the servers.
"""

import os
from pathlib import Path

import pytest

pytest_plugins = ["tests.fixtures.kafka", "tests.fixtures.postgres", "tests.fixtures.tls"]

ROOT = Path(__file__).resolve().parents[1]

LEFT_BY_AIOKAFKA = (
    r"ignore:Exception ignored in. <(function AIOKafkaConnection|socket\.socket fd|function _SelectorTransport|function StreamWriter)"
    ":pytest.PytestUnraisableExceptionWarning"
)
"""A client that is stopped while it connects leaves the connection behind that it was making. A client that nobody stops is another
warning, and an error like any."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where clients of Kafka are stopped at any moment, in whichever test the collector finds what they left."""
    for item in items:
        if any(item.path.is_relative_to(ROOT / "tests" / part) for part in ("contract", "e2e")):
            item.add_marker(pytest.mark.filterwarnings(LEFT_BY_AIOKAFKA))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public test data beside the repository; tests skip where it is absent."""
    path = Path(os.environ.get("CLAIMLEDGER_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no shared data at {path}: set CLAIMLEDGER_SHARED_DATA")
    return path
