"""Fixtures for every test: Kafka, PostgreSQL, and the shared public data.

Unit, scenario and simulation tests ask for none of the servers.
"""

import os
from pathlib import Path

import pytest

pytest_plugins = ["tests.fixtures.kafka", "tests.fixtures.postgres", "tests.fixtures.tls"]

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public test data beside the repository; tests skip where it is absent."""
    path = Path(os.environ.get("CLAIMLEDGER_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no shared data at {path}: set CLAIMLEDGER_SHARED_DATA")
    return path
