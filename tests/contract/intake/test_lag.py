"""How far intake's readers say they are behind."""

import pytest
from prometheus_client import REGISTRY

from claim_intake import reader as reading
from claim_intake.reader import OffsetReader, Source
from runtime.kafka import make_producer
from runtime.topics import SETTLEMENTS, NamedTopic
from tests.contract.intake.intake_world import World
from tests.contract.intake.pipeline import create_world_topics, keys_of

pytestmark = pytest.mark.kafka
RECORDS = 5


async def test_the_lag_of_a_reader_falls_to_nothing_behind_the_last_transaction(
    kafka_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each transaction ends with a marker that is no record: a lag out of the offsets in the database never falls to 0."""
    monkeypatch.setattr(reading, "POLL_RECORDS", 2)
    await create_world_topics(kafka_world)
    topic = NamedTopic(SETTLEMENTS, kafka_world.named("clinic-a"))
    producer = make_producer(kafka_world.network.kafka, "test", transactional_id=topic.name)
    await producer.start()
    for number in range(RECORDS):
        async with producer.transaction():
            await producer.send_and_wait(topic.name, b"sealed", key=number.to_bytes(1, "big"), partition=0)
    await producer.stop()

    name = f"reader-of-{topic.name}"
    keys = keys_of(kafka_world, "regulator", "intake")
    reader = OffsetReader(name, kafka_world.network.kafka, keys, Source([topic], 2), read_committed=True)
    await reader.start({})
    lags: list[float | None] = []
    taken, at_end = 0, 0
    try:
        while at_end < 2:
            poll = await reader.poll(200)
            lags.append(REGISTRY.get_sample_value("claimledger_stage_lag_records", {"stage": name}))
            taken += len(poll.records)
            at_end += taken == RECORDS
    finally:
        await reader.stop()
    told = [lag for lag in lags if lag is not None]
    assert taken == RECORDS
    assert max(told) >= RECORDS - 2
    assert told[-1] == 0
    assert REGISTRY.get_sample_value("claimledger_stage_partitions", {"stage": name}) == 2
