"""The publisher on a real broker: what it publishes with its cursor, how it is fenced, and who goes on where it stopped."""

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import ProducerFenced
from structlog.testing import capture_logs

from ledger_commit import cursor, publisher
from ledger_commit.cursor import Progress
from ledger_commit.publications import cursor_record
from runtime import kafka, publishing_cursor
from runtime.database import DatabaseAwayError
from runtime.kafka import SealingProducer, make_producer
from runtime.publishing_cursor import cursor_place
from runtime.topics import SETTLEMENTS
from tests.contract.ledger.publishing import (
    PATIENCE_S,
    Published,
    Publishing,
    due,
    keys_in,
    members,
    network_of,
    opened,
    progress_of,
    true,
)
from tests.fixtures.executed import history
from tests.fixtures.kafka import now_ms

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).resolve().parents[3]
PROGRAM = Path(__file__).with_name("publisher_program.py")
SMALL = {"MAX_RESULTS": 4, "MAX_BLOCKS": 3, "SESSION_TIMEOUT_MS": 2000, "PAUSE_S": 0.2, "IDLE_S": 0.05}
"""Many transactions, and a dead member is missed after 2 s."""
ROUNDS = 3


@pytest.fixture
def prefix() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
async def publishing(
    kafka_address: str, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Publishing]:
    for name, value in SMALL.items():
        monkeypatch.setattr(publisher, name, value)
    async with opened(kafka_address, tmp_path, network_of(prefix)) as made:
        yield made


def after_sending(monkeypatch: pytest.MonkeyPatch, hook: Callable[[int], Any]) -> None:
    """Has `hook` awaited with the transaction's number, from 1, between the confirmation of its records and its commit."""
    calls = 0

    async def confirmed(futures: Any) -> None:
        nonlocal calls
        await kafka.confirmed(futures)
        calls += 1
        await hook(calls)

    monkeypatch.setattr(publisher, "confirmed", confirmed)


async def test_two_publishers_after_one_another_publish_what_one_would_have(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each result with its proof to each of its parties, each step, each certified block: once, in order, without a gap."""
    monkeypatch.setattr(publisher, "PAUSES_S", (0.05, 0.05))
    blocks = history(ROUNDS)
    executors = [await publishing.executor(*blocks[:12]), await publishing.executor(*blocks[:12])]
    standing = [publishing.stand(executor) for executor in executors]
    await true(lambda: any(p.next_leaf >= 8 for p in standing))
    first = next(p for p in standing if p.next_leaf)
    await publishing.dismiss(first)
    for executor in executors:
        await executor.execute(*blocks[12:])
    found = await publishing.until_published(executors[0])
    assert found == await due(executors[0])
    assert found.records > 60
    assert first.next_leaf < executors[0].progress.next_leaf
    (second,) = (p for p in standing if p is not first)
    assert Progress(second.next_leaf, second.block_height) == executors[0].progress


async def test_two_networks_on_one_kafka_publish_each_its_own(
    publishing: Publishing, kafka_address: str, tmp_path: Path
) -> None:
    """With another prefix the names of topics, group and transactional id are others: neither fences or waits."""
    first = await publishing.executor(*history(ROUNDS))
    async with opened(kafka_address, tmp_path / "other", network_of(f"{publishing.network.topic_prefix}-2")) as other:
        second = await other.executor(*history(1))
        publishers = [publishing.stand(first), other.stand(second)]
        assert await publishing.until_published(first) == await due(first)
        assert await other.until_published(second) == await due(second)
        await true(lambda: all(p.has_role for p in publishers))
        assert await members(kafka_address, publishing.group) == 1
        assert await members(kafka_address, other.group) == 1


async def test_topics_of_another_network_are_left_alone_and_it_is_said_whose_they_are(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is published there, and the owner's publisher keeps role and transactional id."""
    monkeypatch.setattr(publishing_cursor, "FOREIGN_PAUSE_S", 0.05)
    executor = await publishing.executor(*history(1))
    owner = publishing.stand(executor)
    before = await publishing.until_published(executor)
    foreign = replace(publishing, network=replace(publishing.network, chain_id="ab" * 32))
    with capture_logs() as logs:
        stranger = foreign.stand(await foreign.executor(*history(ROUNDS)))
        await true(lambda: len([e for e in logs if e["event"] == "foreign_topics"]) >= 2)
        assert not stranger.has_role
    told = next(e for e in logs if e["event"] == "foreign_topics")
    assert told["log_level"] == "error"
    assert told["owner"] == publishing.network.chain_id
    for word in (repr(publishing.network.topic_prefix), publishing.kafka, "ab" * 32, "--topic-prefix", "network.json"):
        assert word in told["reason"]
    assert owner.has_role
    assert await members(publishing.kafka, publishing.group) == 1
    assert await publishing.published(committed=False) == before


async def test_a_cursor_that_turns_out_foreign_with_the_role_is_not_gone_on_from(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another network has published since the topics were looked at: what a publisher goes on from is asked again."""

    async def looked_at(*_: object) -> None:
        """They were nobody's."""

    monkeypatch.setattr(publisher, "wait_for_own_topics", looked_at)
    foreign = replace(publishing.network, chain_id="ab" * 32)
    async with SealingProducer(make_producer(publishing.kafka, "test"), publishing.keys, "test") as sealing:
        await sealing.send_all([cursor_record(1, 1, foreign)], now_ms())
    executor = await publishing.executor(*history(1))
    with capture_logs() as logs:
        publishing.stand(executor)
        await true(lambda: any(e["event"] == "foreign_topics" and e["owner"] == "ab" * 32 for e in logs))
    assert (await publishing.published(committed=False)).records == 0


async def test_a_watch_counts_nothing_that_another_network_has_published(publishing: Publishing) -> None:
    """Else it would be content with a publisher that works for others."""
    async with SealingProducer(make_producer(publishing.kafka, "test"), publishing.keys, "test") as sealing:
        foreign = replace(publishing.network, chain_id="ab" * 32)
        await sealing.send_all([cursor_record(99, 99, foreign)], now_ms())
    watch = publishing.watch(await publishing.executor())
    with capture_logs() as logs:
        watching = asyncio.create_task(watch.run())
        await true(lambda: any(e["event"] == "foreign_topics" for e in logs))
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert watch.published == Progress()


async def test_records_of_a_transaction_that_is_given_up_are_seen_by_nobody(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker has the records and the cursor, the connection is lost before the commit; they are published again."""

    async def lose(number: int) -> None:
        if number in {1, 3}:
            raise ConnectionResetError

    after_sending(monkeypatch, lose)
    executor = await publishing.executor(*history(1))
    publishing.stand(executor)
    found = await publishing.until_published(executor)
    assert found == await due(executor)
    assert (await publishing.published(committed=False)).records > found.records
    assert len(await publishing.cursors(committed=False)) == len(await publishing.cursors()) + 2


async def test_a_publisher_killed_before_its_commit_leaves_neither_records_nor_cursor(
    publishing: Publishing, prefix: str
) -> None:
    """Another process, killed; its successor aborts what it left open and publishes every record once."""
    executor = await publishing.executor(*history(ROUNDS))
    process = await start_program(publishing, prefix, transactions=3)
    try:
        assert process.stdout is not None
        await asyncio.wait_for(asyncio.to_thread(until_sent, process.stdout), PATIENCE_S)
        (_, before) = await publishing.cursors()
        left = await publishing.published()
        assert left == cut(await due(executor), left)
        assert (await publishing.published(committed=False)).records > left.records
        assert len(await publishing.cursors(committed=False)) == 3
        publishing.stand(executor)
        process.kill()
        await asyncio.to_thread(process.wait)
    finally:
        process.kill()
        process.communicate()
    found = await publishing.until_published(executor)
    assert found == await due(executor)
    assert progress_of(before).trails(executor.progress)


async def start_program(publishing: Publishing, prefix: str, transactions: int) -> "subprocess.Popen[bytes]":
    plan = {
        "kafka": publishing.kafka, "directory": str(publishing.directory), "prefix": prefix, "rounds": ROUNDS,
        "transactions": transactions, "constants": SMALL,
    }  # fmt: skip
    path = os.pathsep.join(str(ROOT / part) for part in ("services", "proto/python", "."))
    return await asyncio.to_thread(
        lambda: subprocess.Popen(
            [sys.executable, str(PROGRAM), json.dumps(plan)], env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
    )  # fmt: skip


def until_sent(lines: Iterable[bytes]) -> None:
    """Returns at the program's word among its log."""
    assert b"sent\n" in lines


def cut(whole: Published, part: Published) -> Published:
    """The beginning of `whole` that is as long as `part`."""
    return Published(
        {o: whole.settlements[o][: len(found)] for o, found in part.settlements.items()},
        {p: whole.steps[p][: len(found)] for p, found in part.steps.items()},
        whole.blocks[: len(part.blocks)],
    )


async def test_a_fenced_publisher_leaves_the_group_and_its_open_transaction_is_seen_by_nobody(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody takes over the transactional id between its records and its commit."""
    sent, taken_over = asyncio.Event(), asyncio.Event()

    async def hold(number: int) -> None:
        if number == 2:
            sent.set()
            await taken_over.wait()

    after_sending(monkeypatch, hold)
    monkeypatch.setattr(publisher, "PAUSE_S", 60)
    executor = await publishing.executor(*history(1))
    with capture_logs() as logs:
        fenced = publishing.stand(executor)
        await asyncio.wait_for(sent.wait(), PATIENCE_S)
        group = publishing.group
        assert await members(publishing.kafka, group) == 1
        successor = make_producer(publishing.kafka, "test", transactional_id=group)
        await successor.start()
        taken_over.set()
        await true(lambda: not fenced.has_role)
        async with asyncio.timeout(PATIENCE_S):
            while await members(publishing.kafka, group):
                await asyncio.sleep(0.05)
        await successor.stop()
    assert [e["event"] for e in logs if e["log_level"] == "warning"] == ["fenced"]
    (committed,) = await publishing.cursors()
    assert len(await publishing.cursors(committed=False)) == 2
    found = await publishing.published()
    assert found == cut(await due(executor), found)
    assert progress_of(committed) == Progress(fenced.next_leaf, fenced.block_height)
    assert progress_of(committed).trails(executor.progress)


async def test_a_predecessor_is_fenced_before_its_cursor_is_read(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read first, the cursor could still move: what the predecessor commits then would be published twice."""
    executor = await publishing.executor(*history(1))
    ahead = executor.progress
    producer = make_producer(publishing.kafka, "predecessor", transactional_id=publishing.group)
    sealing = SealingProducer(producer, publishing.keys, "predecessor")
    async with sealing:
        async with producer.transaction():
            await sealing.send_all([publishing.cursor(0, 1)], now_ms())
        await producer.begin_transaction()
        await sealing.send_all([publishing.cursor(ahead.next_leaf, ahead.block_height)], now_ms())
        refused = []

        async def read_then_commit(*arguments: Any) -> Any:
            found = await publishing_cursor.newest_cursor(*arguments)
            try:
                await producer.commit_transaction()
            except ProducerFenced as error:
                refused.append(error)
            return found

        monkeypatch.setattr(publisher, "newest_cursor", read_then_commit)
        publishing.stand(executor)
        found = await publishing.until_published(executor)
    assert len(refused) == 1
    expected = await due(executor)
    assert found == Published(expected.settlements, expected.steps, expected.blocks[1:])


async def test_a_cursor_is_found_behind_what_is_no_cursor(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind bytes that do not decode, a record without value, and more aborted cursors than the end of the topic shows."""
    monkeypatch.setattr(publishing_cursor, "TAIL", 2)
    monkeypatch.setattr(publishing_cursor, "WIDER", 2)
    executor = await publishing.executor(*history(1))
    producer = make_producer(publishing.kafka, "test", transactional_id=publishing.group)
    sealing = SealingProducer(producer, publishing.keys, "test")
    no_cursors = [replace(publishing.cursor(0, 3), value=value) for value in (None, b"\xff")]
    async with sealing:
        async with producer.transaction():
            await sealing.send_all([publishing.cursor(0, 1), publishing.cursor(0, 2)], now_ms())
        async with producer.transaction():
            await sealing.send_all(no_cursors, now_ms())
        for _ in range(5):
            await producer.begin_transaction()
            await sealing.send_all([publishing.cursor(7, 7)], now_ms())
            await producer.abort_transaction()
    with capture_logs() as logs:
        publishing.stand(executor)
        found = await publishing.until_published(executor)
    expected = await due(executor)
    assert found == Published(expected.settlements, expected.steps, expected.blocks[2:])
    assert [(e["next_leaf"], e["block_height"]) for e in logs if e["event"] == "role_taken"] == [(0, 2)]
    assert [e["offset"] for e in logs if e["event"] == "undecodable_cursor"] == [4]


async def test_an_end_of_the_topic_that_does_not_come_is_not_waited_for(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic was made anew, and is shorter than it was; TimeoutError is an OSError, and so the role is let go."""
    monkeypatch.setattr(publishing_cursor, "PATIENCE_S", 0.2)
    place = cursor_place(publishing.network)
    consumer = kafka.make_consumer(publishing.kafka, group=None, client_id="test", read_committed=True)
    await consumer.start()
    try:
        consumer.assign([place])
        with pytest.raises(TimeoutError):
            await publishing_cursor.newest_cursor(consumer, place, 5, lambda _: None)
    finally:
        await consumer.stop()


async def test_a_key_that_cannot_be_used_ends_no_replica(publishing: Publishing) -> None:
    """The wraps of one topic's key are damaged; the publisher lets go of the role, and goes on once they are repaired."""
    executor = await publishing.executor(*history(1))
    topic = publishing.network.topic(SETTLEMENTS, "riverside").name
    publishing.keys.seal(topic, b"", "", b"")
    (wraps,) = (publishing.directory / "keys" / topic).iterdir()
    whole = wraps.read_text()
    wraps.write_text(whole[:40])
    with capture_logs() as logs:
        publishing.stand(executor, keys_in(publishing.directory))
        await true(lambda: len([e for e in logs if e["event"] == "cannot_seal"]) >= 2)
    assert await publishing.cursors() == []
    wraps.write_text(whole)
    assert await publishing.until_published(executor) == await due(executor)


async def test_a_projection_whose_database_is_away_ends_no_replica(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher lets go of the role, which is another replica's then, and goes on once the database is back."""
    executor = await publishing.executor(*history(1))
    there = executor.projection.blocks

    async def away(*_: object) -> Any:
        raise DatabaseAwayError("refused")

    monkeypatch.setattr(executor.projection, "blocks", away)
    with capture_logs() as logs:
        publishing.stand(executor)
        await true(lambda: len([e for e in logs if e["event"] == "database_away"]) >= 2)
    assert await publishing.cursors() == []
    monkeypatch.setattr(executor.projection, "blocks", there)
    assert await publishing.until_published(executor) == await due(executor)


async def test_nothing_is_read_over_the_group_that_hands_out_the_role(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All cursors of weeks would come again to whoever takes over."""
    made: list[Any] = []

    def remembering(*arguments: Any, **options: Any) -> Any:
        made.append(kafka.make_consumer(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(publisher, "make_consumer", remembering)
    executor = await publishing.executor(*history(1))
    publishing.stand(executor)
    await publishing.until_published(executor)
    place = cursor_place(publishing.network)
    assert await made[0].position(place) == 0
    assert len(await publishing.cursors()) > 1


async def test_a_replica_without_the_role_raises_the_alarm_and_ends_it(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role is with a replica that stands still; another one, which has executed more, sees what is not published."""
    monkeypatch.setattr(cursor, "LOOK_S", 0.05)
    monkeypatch.setattr(cursor, "ALARM_S", 60)
    blocks = history(1)
    still, ahead = await publishing.executor(*blocks[:4]), await publishing.executor(*blocks[:4])
    publishing.stand(still)
    watch = publishing.watch(ahead)
    watching = asyncio.create_task(watch.run())
    with capture_logs() as logs:
        await true(lambda: watch.published == still.progress)
        monkeypatch.setattr(cursor, "ALARM_S", 0.6)
        await asyncio.sleep(0.8)
        assert not watch.alarmed
        await ahead.execute(*blocks[4:])
        await true(lambda: watch.alarmed)
        published = watch.published
        await still.execute(*blocks[4:])
        await true(lambda: not watch.alarmed)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert published.trails(watch.published)
    assert watch.published == ahead.progress
    told = [e for e in logs if e["part"] == "publishing_watch"]
    assert [(e["event"], e["log_level"]) for e in told] == [
        ("publisher_trails", "error"),
        ("publisher_caught_up", "info"),
    ]
    assert told[0]["due_leaf"] == ahead.progress.next_leaf
