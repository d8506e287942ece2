"""Which prefix a new network's names in Kafka get."""

from pathlib import Path

import pytest

from runtime.network import load_network
from tests.unit.cli.conftest import UNREACHABLE, Say


@pytest.mark.parametrize(
    ("arguments", "variables", "prefix"),
    [
        ((), {}, ""),
        (("--kafka", UNREACHABLE), {}, "claimledger-{}"),
        ((), {"KAFKA_BOOTSTRAP_SERVERS": UNREACHABLE}, "claimledger-{}"),
        (("--kafka", UNREACHABLE, "--topic-prefix", ""), {}, ""),
        (("--topic-prefix", "net-1"), {}, "net-1"),
        (("--kafka", UNREACHABLE), {"CLAIMLEDGER_TOPIC_PREFIX": "net-1"}, "net-1"),
    ],
)
def test_a_network_in_a_given_kafka_gets_a_prefix_of_its_own(
    say: Say,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    prefix: str,
) -> None:
    """Made of its chain id, unless another one or none is asked for; in a Kafka of its own it needs none."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made = say("certs", "--run", tmp_path / "run", "--families", 3, *arguments, "--json")
    (told,) = made.rows
    network = load_network(tmp_path / "run")
    assert told["topic_prefix"] == network.topic_prefix == prefix.format(network.chain_id[:12])


def test_a_prefix_that_cannot_be_is_wrong_usage_and_a_networks_own_does_not_change(say: Say, network: Path) -> None:
    refused = say("certs", "--run", "new", "--topic-prefix", "a b")
    assert (refused.code, "'a b'" in refused.err) == (2, True)
    assert not Path("new").exists()
    other = say("up", "--run", network, "--kafka", UNREACHABLE, "--topic-prefix", "net-2")
    assert (other.code, other.out) == (1, "")
    assert "has the topic prefix ''" in other.err
    assert "--run" in other.err
