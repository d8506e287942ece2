"""Names in Kafka: legal with the longest prefix and tenant, and those of two networks never the same."""

from dataclasses import replace
from pathlib import Path

import pytest

from claimledger.ledger.v1 import ledger_pb2
from runtime.network import Network, Organisation, load_network, save_network
from runtime.publishing_cursor import ForeignTopicsError, require_own
from runtime.topics import LONGEST_PREFIX, PUBLISHER, SUBMITTED, in_kafka

LONGEST_NAME = 249
"""Of a topic in Kafka."""
NETWORK = Network(
    name="names",
    chain_id="ab" * 32,
    kafka="",
    buckets=1,
    intake_address="",
    tags_address="",
    organisations=tuple(Organisation(o, ("insurer",)) for o in ("aurora", "p", "a" * 63)),
    replicas=(),
    endpoints=(),
    pricing_keys={},
    npi_organisations={},
)


def names(prefix: str) -> set[str]:
    found = list(replace(NETWORK, topic_prefix=prefix).topics())
    return {topic.name for topic in found} | {topic.dead_letter_name for topic in found}


def test_without_a_prefix_names_are_those_of_the_table_and_with_one_it_stands_before_each() -> None:
    assert NETWORK.topic(SUBMITTED, "aurora").name == "p.aurora.claims.submitted"
    assert names("net-1") == {f"net-1.{name}" for name in names("")}
    assert replace(NETWORK, topic_prefix="net-1").in_kafka("validation") == "net-1.validation"


def test_the_longest_prefix_and_tenant_make_names_that_kafka_takes() -> None:
    assert max(map(len, names("x" * LONGEST_PREFIX))) <= LONGEST_NAME


@pytest.mark.parametrize(
    ("one", "other"), [("", "a"), ("a", "b"), ("a", "a.p"), ("p", ""), ("a", "aa"), ("a.p", "a.p.p")]
)
def test_networks_with_different_prefixes_share_no_topic(one: str, other: str) -> None:
    """Also where a prefix looks like the beginning of another one's names."""
    assert not names(one) & names(other)


@pytest.mark.parametrize("prefix", ["a b", "ä", "a/b", ".a", "-a", "x" * (LONGEST_PREFIX + 1), "a\n"])
def test_a_prefix_that_kafka_would_not_take_is_refused_and_named(prefix: str, tmp_path: Path) -> None:
    """Where it is given, and where a description has it."""
    with pytest.raises(ValueError, match="topic prefix"):
        replace(NETWORK, topic_prefix=prefix)
    save_network(NETWORK, tmp_path)
    path = tmp_path / "network.json"
    path.write_text(path.read_text().replace('"topic_prefix": ""', '"topic_prefix": "a b"'))
    with pytest.raises(ValueError, match="'a b'"):
        load_network(tmp_path)


def test_a_description_from_before_prefixes_has_none(tmp_path: Path) -> None:
    save_network(NETWORK, tmp_path)
    path = tmp_path / "network.json"
    path.write_text(path.read_text().replace(',\n  "topic_prefix": ""', ""))
    assert "topic_prefix" not in path.read_text()
    assert load_network(tmp_path) == NETWORK


def test_a_cursor_is_another_networks_where_it_names_another_chain() -> None:
    """One that names none is from before cursors did, and a network that is on its way must go on from it."""
    for own in (b"", bytes.fromhex(NETWORK.chain_id)):
        require_own(ledger_pb2.PublisherCursor(next_leaf=7, chain_id=own), "host:9092", NETWORK)
    with pytest.raises(ForeignTopicsError, match=f"without a prefix on the Kafka at host:9092 .* chain id {'cd' * 32}"):
        require_own(ledger_pb2.PublisherCursor(chain_id=b"\xcd" * 32), "host:9092", NETWORK)
    assert in_kafka(PUBLISHER.suffix, "") == NETWORK.topic(PUBLISHER).name
