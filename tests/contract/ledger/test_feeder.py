"""The feeder on a real broker: what it acknowledges and when, what it sets aside, and how much it takes."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from claims.result import Outcome
from claims.transaction import SCORED_RECORD
from ledger_commit import feeder, lane
from runtime.dlq import list_dead_letters
from runtime.failing import StageBrokenError
from runtime.stage import Out
from runtime.topic_keys import TopicKeys
from tests.contract.ledger.feeding import PAYER, Feeding, entries, eventually, opened
from tests.contract.ledger.publishing import PATIENCE_S
from tests.fixtures.kafka import now_ms

pytestmark = pytest.mark.kafka
SETTLE_S = 0.3
"""Several times COMMIT_INTERVAL_S below: an offset that could be acknowledged would be."""


@pytest.fixture
async def feeding(kafka_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Feeding]:
    monkeypatch.setattr(feeder, "COMMIT_INTERVAL_S", 0.05)
    async with opened(kafka_address, tmp_path, f"t{secrets.token_hex(4)}") as made:
        yield made


def keys_of_a_stranger(directory: Path) -> TopicKeys:
    """Of a service that no key of the test is wrapped for."""
    return TopicKeys(directory / "keys", "stranger", X25519PrivateKey.generate(), lambda _: {})


async def test_what_no_block_ordered_is_not_acknowledged_and_goes_to_the_successor(feeding: Feeding) -> None:
    """The first member dies with claims in its lane; the second gets these, and none that were ordered."""
    sent = entries(10)
    await feeding.send(feeding.scored, sent[:4])
    first, second = feeding.member(), feeding.member()
    feeding.feed(first, feeding.scored)
    await eventually(lambda: sorted(first.taken), sorted(sent[:4]))
    await asyncio.sleep(SETTLE_S)
    assert await feeding.acknowledged(feeding.scored) == [0, 0]
    settled = feeding.execute(first.order())
    await feeding.until_acknowledged(feeding.scored, [2, 2])
    await feeding.send(feeding.scored, sent[4:])
    await eventually(lambda: sorted(first.taken), sorted(sent[4:]))
    await first.crash()
    assert await feeding.acknowledged(feeding.scored) == [2, 2]
    feeding.feed(second, feeding.scored)
    await eventually(lambda: sorted(second.taken), sorted(sent[4:]))
    settled += feeding.execute(second.order())
    await feeding.until_acknowledged(feeding.scored, [5, 5])
    assert len({result.claim_ref for result in settled}) == len(settled) == len(sent)


async def test_a_record_ordered_before_an_earlier_one_is_not_acknowledged_alone(feeding: Feeding) -> None:
    """An acknowledged offset speaks for all records before it."""
    sent = entries(3)
    member = feeding.member()
    feeding.feed(member, feeding.scored)
    for count, entry in enumerate(sent, start=1):  # a batch each
        await feeding.send(feeding.scored, [entry], 0)
        await eventually(lambda: len(member.announced), count)
    assert member.order(1, 2) == sent[1:]
    await asyncio.sleep(SETTLE_S)
    assert await feeding.acknowledged(feeding.scored) == [0, 0]
    assert member.order(0) == sent[:1]
    await feeding.until_acknowledged(feeding.scored, [3, 0])


@pytest.mark.parametrize("path", ["scored", "retry"])
async def test_records_that_cannot_be_read_go_to_the_dead_letters_and_the_stream_goes_on(
    feeding: Feeding, path: str
) -> None:
    """Not sealed, not sealed with a header that is null, empty, sealed for another topic, no protobuf inside, no record inside
    that, a record that the scorer did not sign so."""
    topic = feeding.scored if path == "scored" else feeding.retry
    other = feeding.retry if path == "scored" else feeding.scored
    name, sent = topic.name(PAYER), entries(2)
    await feeding.send(topic, sent[:1], 0)
    moved, headers = feeding.keys.seal(other.name(PAYER), b"key", topic.schema, b"moved")
    feeding.keys.seal(name, b"key", topic.schema, b"")
    bare = feeding.producer.producer
    await bare.send_and_wait(name, b"not sealed", key=b"key", partition=0)
    await bare.send_and_wait(name, b"not sealed", key=b"key", partition=0, headers=[("key-id", None)])
    await bare.send_and_wait(name, None, key=b"key", partition=0)
    await bare.send_and_wait(name, moved, key=b"key", partition=0, headers=headers)
    for value in (b"\xff\xff", b"\x0a\x03abc"):
        await feeding.producer.send_all([Out(name, b"key", value, topic.schema, "event", 0)], now_ms())
    scored = SCORED_RECORD.decode(sent[1][1:])
    await feeding.send(topic, [sent[1][:1] + SCORED_RECORD.encode(replace(scored, pend_bits=b"\x01")), *sent[1:]], 0)
    member = feeding.member()
    feeding.feed(member, topic, turn_s=None if path == "scored" else lambda _: 0.05)
    await eventually(lambda: member.taken, sent)
    member.order()
    await feeding.until_acknowledged(topic, [9, 0])
    letters = await list_dead_letters(feeding.kafka, feeding.keys, [name])
    assert [(letter.offset, letter.type) for letter in letters] == [
        (1, "no-key-id"),
        (2, "no-key-id"),
        (3, "no-key-id"),
        (4, "unknown-key"),
        (5, "undecodable"),
        (6, "undecodable"),
        (7, "forged"),
    ]


async def test_a_record_at_which_reading_fails_is_set_aside_and_ends_no_replica(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All replicas would take it in turn. The letter says where it failed and nothing of what the claim says."""
    sent, read = entries(3), feeder.entry_of

    def reading(value: bytes, *more: Any) -> tuple[bytes, int]:
        entry, claims = read(value, *more)
        if entry == sent[1]:
            raise KeyError("what the claim says")
        return entry, claims

    monkeypatch.setattr(feeder, "entry_of", reading)
    await feeding.send(feeding.scored, sent[:2], 0)
    await feeding.send(feeding.scored, sent[2:], 0)
    member = feeding.member()
    feeding.feed(member, feeding.scored)
    await eventually(lambda: member.taken, [sent[0], sent[2]])
    (letter,) = await list_dead_letters(feeding.kafka, feeding.keys, [feeding.scored.name(PAYER)])
    assert (letter.offset, letter.type) == (1, "failing")
    assert "KeyError at " in letter.reason
    assert "claim says" not in letter.reason


async def test_a_replica_whose_keys_are_away_leaves_its_partitions_to_another(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says at which record it ended. The few that it set aside are acknowledged, and come no more; all others settle."""
    monkeypatch.setattr(feeder, "MOST_AWAY", 2)
    monkeypatch.setattr(feeder, "COMMIT_INTERVAL_S", 60.0)
    sent, name, whole = entries(6), feeding.scored.name(PAYER), feeding.keys
    await feeding.send(feeding.scored, sent, 0)
    keyless, other = feeding.member(), feeding.member()
    feeding.keys = keys_of_a_stranger(feeding.directory)
    feeding.feed(keyless, feeding.scored)
    ended = f"more than 2 records in a row are away, the last at offset 2 of partition 0 of {name}: .* may not open"
    with pytest.raises(StageBrokenError, match=ended):
        await asyncio.wait_for(keyless.running.pop(), PATIENCE_S)
    letters = await list_dead_letters(feeding.kafka, whole, [name])
    assert [(letter.offset, letter.type) for letter in letters] == [(0, "not-a-recipient"), (1, "not-a-recipient")]
    assert await feeding.acknowledged(feeding.scored) == [2, 0]
    feeding.keys = whole
    feeding.feed(other, feeding.scored)
    await eventually(lambda: other.taken, sent[2:])
    assert keyless.taken == []


async def test_single_records_whose_key_is_away_end_no_replica(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody who writes to the topic can name a key that is not there."""
    monkeypatch.setattr(feeder, "MOST_AWAY", 1)
    sent, name = entries(3), feeding.scored.name(PAYER)
    for entry in sent:
        await feeding.producer.producer.send_and_wait(
            name, bytes(40), key=b"key", partition=0, headers=[("key-id", b"2001-01-01.00000000")]
        )
        await feeding.send(feeding.scored, [entry], 0)
    member = feeding.member()
    feeding.feed(member, feeding.scored)
    await eventually(lambda: member.taken, sent)


async def test_a_claim_that_comes_twice_and_over_both_topics_settles_once(feeding: Feeding) -> None:
    """Whoever orders it, however often it is ordered; and all of its records are acknowledged."""
    sent = entries(3)
    await feeding.send(feeding.scored, [*sent, *sent], 0)
    await feeding.send(feeding.retry, [*sent, *sent], 1)
    first, second = feeding.member(), feeding.member()
    feeding.feed(first, feeding.scored)
    for number, member in enumerate((first, second)):
        feeding.feed(member, feeding.retry, f"retry-{number}", turn_s=lambda _: 0, seen=member.seen)
    await eventually(lambda: (len(first.taken), len(second.taken)), (12, 6))
    results = feeding.execute([*second.order(), *first.order()])
    assert [result.outcome for result in results] == [Outcome.SETTLED] * 3
    await feeding.until_acknowledged(feeding.scored, [6, 0])
    for number in range(2):
        await feeding.until_acknowledged(feeding.retry, [0, 6], f"retry-{number}")


async def test_a_claim_acknowledged_and_dropped_comes_by_retry_and_settles(feeding: Feeding) -> None:
    """The member that drops is out of turn; the other orders, and who comes later sees that it was ordered."""
    sent = entries(3)
    await feeding.send(feeding.scored, sent)
    dropping, honest, late = feeding.member(), feeding.member(), feeding.member()
    feeding.feed(dropping, feeding.scored, drop=True)
    await feeding.until_acknowledged(feeding.scored, [2, 1])
    feeding.feed(dropping, feeding.retry, "retry-0", drop=True)
    feeding.feed(honest, feeding.retry, "retry-1", turn_s=lambda _: 0.1, seen=honest.seen)
    feeding.feed(late, feeding.retry, "retry-2", turn_s=lambda _: 1.5, seen=late.seen)
    await feeding.send(feeding.retry, sent)
    await eventually(lambda: sorted(honest.taken), sorted(sent))
    ordered = honest.order()
    late.seen.add(ordered)  # as every replica does with what it executes
    assert [result.outcome for result in feeding.execute(ordered)] == [Outcome.SETTLED] * 3
    for number in range(3):
        await feeding.until_acknowledged(feeding.retry, [2, 1], f"retry-{number}")
    assert (dropping.taken, late.taken) == ([], [])


async def test_unacknowledged_claims_of_a_partition_go_with_it_to_another_member(feeding: Feeding) -> None:
    """What the first had in its lane is ordered too and settles once, and acknowledges nothing for the other."""
    sent = entries(6)
    await feeding.send(feeding.scored, sent)
    first, second = feeding.member(), feeding.member()
    feeding.feed(first, feeding.scored)
    await eventually(lambda: len(first.taken), 6)
    before = len(first.announced)
    feeding.feed(second, feeding.scored)
    await eventually(lambda: len(second.taken), 3)
    moved = [sent[0::2], sent[1::2]].index(second.taken)
    results = feeding.execute(first.order(*range(before)))
    await asyncio.sleep(SETTLE_S)
    assert (await feeding.acknowledged(feeding.scored))[moved] == 0
    results += feeding.execute(second.order())
    async with asyncio.timeout(PATIENCE_S):
        while await feeding.acknowledged(feeding.scored) != [3, 3]:
            results += feeding.execute([*first.order(), *second.order()])  # a member that was frozen takes all again
            await asyncio.sleep(0.05)
    assert Counter(result.outcome for result in results) == {Outcome.SETTLED: 6}


async def test_the_rest_of_a_poll_is_not_taken_when_its_partitions_have_gone(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane was full in the middle of a poll while the partitions were handed out anew."""
    monkeypatch.setattr(lane, "MAX_OPEN_BATCHES", 1)
    monkeypatch.setattr(lane, "MAX_CLAIMS", 8)
    sent = entries(12)
    await feeding.send(feeding.scored, sent)
    first, second = feeding.member(), feeding.member()
    feeding.feed(first, feeding.scored)
    await eventually(lambda: bool(first.taken), wanted=True)
    feeding.feed(second, feeding.scored)
    await eventually(lambda: bool(second.taken), wanted=True)
    results = []
    for more in ([], entries(6, "more")):
        sent += more
        await feeding.send(feeding.scored, more)
        half = len(sent) // 2
        async with asyncio.timeout(PATIENCE_S):
            while await feeding.acknowledged(feeding.scored) != [half, half]:
                results += feeding.execute([*first.order(), *second.order()])
                await asyncio.sleep(0.05)
    assert len({result.claim_ref for result in results}) == len(results) == len(sent)
    assert not any(task.done() for task in (*first.running, *second.running))


@pytest.mark.parametrize("path", ["scored", "retry"])
async def test_no_more_is_taken_than_may_be_unordered_at_once(
    feeding: Feeding, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the lane or waiting its turn; Kafka keeps the rest, and it comes when there is room."""
    monkeypatch.setattr(feeder, "MAX_UNFINISHED", 20)
    monkeypatch.setattr(feeder, "POLL_RECORDS", 8)
    sent = entries(60)
    topic = feeding.scored if path == "scored" else feeding.retry
    await feeding.send(topic, sent)
    member = feeding.member()
    feeding.feed(member, topic, turn_s=None if path == "scored" else lambda _: 0.2)
    await eventually(lambda: len(member.taken) >= 20, wanted=True)
    await asyncio.sleep(SETTLE_S)
    assert 20 <= len(member.taken) < 28
    ordered: list[bytes] = []
    async with asyncio.timeout(PATIENCE_S):
        while await feeding.acknowledged(topic) != [30, 30]:
            ordered += member.order()
            assert len(member.taken) < 28
            await asyncio.sleep(0.05)
    assert sorted(ordered) == sorted(sent)


async def test_an_acknowledgement_that_fails_by_a_mistake_of_ours_ends_the_feeder(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would take until it is full and never acknowledge again, and nobody would hear of it."""

    async def mistaken(_: object) -> None:
        raise ArithmeticError("a mistake of ours")

    member = feeding.member()
    made = feeding.feed(member, feeding.scored)
    monkeypatch.setattr(made._consumer, "commit", mistaken)
    await feeding.send(feeding.scored, entries(1))
    await eventually(lambda: len(member.taken), 1)
    member.order()
    with pytest.raises(ArithmeticError):
        await asyncio.wait_for(member.running.pop(), PATIENCE_S)
