"""A Kafka that is given goes before the one for which the network was made."""

from pathlib import Path

import pytest

from cli import network_commands
from cli.processes import Processes
from tests.unit.cli.conftest import UNREACHABLE, Say

GIVEN = "127.0.0.1:2"


def test_up_uses_the_kafka_that_is_given_and_else_the_networks(
    say: Say, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a broker has moved; the supervisor that `up` leaves behind is told the same."""
    used: list[str] = []

    def bring_up(processes: Processes, _out: object) -> None:
        used.append(processes.kafka_address)

    monkeypatch.setattr(network_commands, "bring_up", bring_up)
    monkeypatch.setattr(network_commands, "supervise", lambda processes: used.append(processes.kafka_address))
    assert say("up", "--run", network, "--kafka", GIVEN).code == 0
    assert say("up", "--run", network).code == 0
    assert used == [GIVEN, GIVEN, UNREACHABLE, UNREACHABLE]
