"""The servers that the other tests rely on do answer."""

import asyncpg
import pytest

from runtime.broker import BrokerError, LocalKafka
from runtime.kafka import create_topics, wait_for_kafka
from runtime.topics import SUBMITTED, NamedTopic


@pytest.mark.postgres
async def test_postgres_gives_an_empty_database(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM pg_stat_user_tables") == 0
    finally:
        await connection.close()


@pytest.mark.kafka
async def test_topics_are_created_once_from_the_table(kafka_address: str, topic_prefix: str) -> None:
    await wait_for_kafka(kafka_address)
    topic = NamedTopic(SUBMITTED, topic_prefix)
    assert set(await create_topics(kafka_address, [topic], 4)) == {topic.name, topic.dead_letter_name}
    assert await create_topics(kafka_address, [topic], 4) == []


@pytest.mark.kafka
def test_a_busy_port_is_named_and_the_node_keeps_its_data(own_kafka: LocalKafka) -> None:
    rival = LocalKafka(own_kafka.directory.parent / "rival", own_kafka.port, own_kafka.controller_port)
    with pytest.raises(BrokerError, match=f"port {own_kafka.port} is in use"):
        rival.start()
    cluster = (own_kafka.directory / "data" / "meta.properties").read_text()
    assert own_kafka.stop()
    assert own_kafka.process() is None
    own_kafka.start()
    assert (own_kafka.directory / "data" / "meta.properties").read_text() == cluster


async def test_an_absent_broker_is_named() -> None:
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1 "):
        await wait_for_kafka("127.0.0.1:1", timeout_s=0.1)
