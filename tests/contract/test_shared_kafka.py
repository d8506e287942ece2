"""A Kafka that several networks share: whose topics are whose, and what a demo leaves behind."""

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import InvalidReplicationFactorError

from cli.network_commands import remove_topics
from cli.output import Output
from cli.overview import lag_rows
from cli.processes import Processes
from ledger_commit.publications import cursor_record
from runtime.kafka import create_topics, delete_topics, make_consumer, make_producer
from runtime.network import Network, save_network
from runtime.publishing_cursor import ForeignTopicsError, check_owner
from runtime.topics import PUBLISHER, SUBMITTED, NamedTopic
from tests.unit.runtime.test_topics import NETWORK

pytestmark = pytest.mark.kafka


@pytest.fixture
def network(kafka_address: str) -> Network:
    """One of this test alone, with few topics."""
    few = NETWORK.organisations[:1]
    return replace(NETWORK, topic_prefix=f"t{secrets.token_hex(4)}", kafka=kafka_address, organisations=few)


async def topics_there(kafka: str, prefix: str) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        return {name for name in await admin.list_topics() if name.startswith(prefix)}
    finally:
        await admin.close()


async def until_there(network: Network, wanted: set[str]) -> None:
    """Returns when these topics are left; the broker deletes a moment after it has said so."""
    async with asyncio.timeout(20):
        while await topics_there(network.kafka, network.topic_prefix) != wanted:
            await asyncio.sleep(0.05)


async def replicas_of(kafka: str, topic: str) -> set[int]:
    """How many replicas its partitions have."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        (found,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    return {len(partition["replicas"]) for partition in found["partitions"]}


async def test_replicas_are_as_many_as_the_broker_makes_unless_it_is_said(
    kafka_address: str, topic_prefix: str
) -> None:
    """Said, they reach the broker: one node does not make three."""
    topic = NamedTopic(SUBMITTED, topic_prefix)
    await create_topics(kafka_address, [topic], 1)
    assert await replicas_of(kafka_address, topic.name) == {1}
    one = NamedTopic(SUBMITTED, f"{topic_prefix}-one")
    assert len(await create_topics(kafka_address, [one], 1, replication=1)) == 2
    with pytest.raises(InvalidReplicationFactorError):
        await create_topics(kafka_address, [NamedTopic(SUBMITTED, f"{topic_prefix}-more")], 1, replication=30_000)


async def publish(network: Network) -> None:
    producer = make_producer(network.kafka, "test")
    await producer.start()
    try:
        cursor = cursor_record(1, 1, network)
        await producer.send_and_wait(cursor.topic, cursor.value, key=cursor.key, partition=0)
    finally:
        await producer.stop()


async def test_topics_are_a_networks_once_it_has_published_there(network: Network) -> None:
    """Before they are there, and while nothing is published, they are nobody's."""
    other = replace(network, chain_id="cd" * 32)
    await check_owner(network.kafka, network)
    await create_topics(network.kafka, [network.topic(PUBLISHER)], 1)
    await check_owner(network.kafka, other)
    await publish(network)
    await check_owner(network.kafka, network)
    with pytest.raises(ForeignTopicsError, match=network.topic_prefix) as caught:
        await check_owner(network.kafka, other)
    assert caught.value.owner == network.chain_id


async def test_a_network_is_not_started_over_anothers_topics(network: Network, tmp_path: Path) -> None:
    """Not even what topics lack is added to them."""
    await create_topics(network.kafka, [network.topic(PUBLISHER)], 1)
    await publish(network)
    address = "127.0.0.1:1"
    save_network(replace(network, chain_id="cd" * 32, intake_address=address), tmp_path)
    starting = Processes(tmp_path, None)
    with pytest.raises(ForeignTopicsError):
        await starting._prepare_topics()
    assert await topics_there(network.kafka, network.topic_prefix) == {network.topic(PUBLISHER).name}


async def acknowledge(kafka: str, group: str, topic: str, offset: int) -> None:
    consumer = make_consumer(kafka, group=group, client_id="test")
    consumer.subscribe([topic])
    await consumer.start()
    try:
        async with asyncio.timeout(20):
            while not consumer.assignment():
                await consumer.getmany(timeout_ms=50)
        await consumer.commit({TopicPartition(topic, 0): offset})
    finally:
        await consumer.stop()


async def test_status_tells_of_the_networks_own_groups_by_their_usual_names(network: Network) -> None:
    """Neither a neighbour's with another prefix nor one without, whatever else is on the broker."""
    neighbour = replace(network, topic_prefix=f"{network.topic_prefix}-2")
    here, there = network.topic(SUBMITTED, "aurora").name, neighbour.topic(SUBMITTED, "aurora").name
    await create_topics(network.kafka, [*network.topics(), neighbour.topic(SUBMITTED, "aurora")], 1)
    producer = make_producer(network.kafka, "test")
    await producer.start()
    try:
        for _ in range(3):
            await producer.send_and_wait(here, b"x", partition=0)
    finally:
        await producer.stop()
    await acknowledge(network.kafka, network.in_kafka("validation"), here, 1)
    await acknowledge(network.kafka, neighbour.in_kafka("validation"), there, 0)
    await acknowledge(network.kafka, f"{network.topic_prefix}-none", there, 0)
    told = {row["group"]: row["lag_records"] for row in await lag_rows(network.kafka, network) or ()}
    assert told == {"validation": 2, "fraud-scoring": 0, "ledger-commit": 0}
    apart = {row["group"]: row["lag_records"] for row in await lag_rows(network.kafka, neighbour) or ()}
    assert apart == {"validation": 0}


async def test_a_demo_deletes_the_topics_that_it_made_and_no_others(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not those that stood under its prefix before, not another network's, and none where it has no prefix."""
    before = network.topic(PUBLISHER)
    neighbour = replace(network, topic_prefix=f"{network.topic_prefix}-2").topic(SUBMITTED, "aurora")
    await create_topics(network.kafka, [before, neighbour], 1)
    made = await create_topics(network.kafka, network.topics(), 1)
    assert before.name not in made
    demo: Any = SimpleNamespace(network=network, kafka_address=network.kafka, made_topics=[*made, neighbour.name])
    bare: Any = SimpleNamespace(
        network=replace(network, topic_prefix=""), kafka_address="127.0.0.1:1", made_topics=made
    )
    remove_topics(bare, Output(as_json=False))
    await asyncio.to_thread(remove_topics, demo, Output(as_json=False))
    await until_there(network, {before.name, neighbour.name, neighbour.dead_letter_name})
    assert f"{len(made)} topics {network.topic_prefix}.* deleted" in capsys.readouterr().out
    await delete_topics(network.kafka, [before.name, neighbour.name, neighbour.dead_letter_name, "not.there"])
    await until_there(network, set())
