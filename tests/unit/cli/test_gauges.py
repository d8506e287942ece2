"""Reading a process's metrics port, as `claimledger status` and `up` do."""

from collections.abc import Iterator

import pytest
from prometheus_client import start_http_server

from cli.gauges import LAG, OUTBOX, PARTITIONS, read_gauges
from runtime.metrics import CLAIMS_ACCEPTED, OUTBOX_ROWS, STAGE_LAG, STAGE_PARTITIONS
from tests.fixtures.kafka import free_ports


@pytest.fixture
def port() -> Iterator[int]:
    """This process's own metrics, shown as every process shows them."""
    server, thread = start_http_server(0, addr="127.0.0.1")
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_gauges_are_read_by_name_and_stage(port: int) -> None:
    """By the names under which services export them, and nothing else with them."""
    STAGE_LAG.labels("gauged").set(12)
    STAGE_PARTITIONS.labels("gauged").set(6)
    OUTBOX_ROWS.set(3)
    CLAIMS_ACCEPTED.labels("aurora").inc()
    told = read_gauges(port)
    assert (told[LAG, "gauged"], told[PARTITIONS, "gauged"], told[OUTBOX, ""]) == (12, 6, 3)
    assert {name for name, _ in told} == {LAG, PARTITIONS, OUTBOX}


def test_a_port_where_nobody_answers_tells_nothing() -> None:
    (port,) = free_ports(1)
    assert read_gauges(port) == {}
