"""The ways in which a stream worker loses records, each shown not to happen, on both runners and a real broker.

Source: stack.md, Faust: a handler that raises; an unacknowledged head that is jumped, on a fresh group too; work in flight
at SIGTERM. At least once is the promise: a record may come twice, and none may be missing.
"""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from runtime import stage_core
from runtime.dlq import list_dead_letters, read_to_end, replay_dead_letters
from runtime.failing import StageBrokenError, StateUnreadableError
from runtime.kafka import SealingProducer, make_consumer, make_producer
from runtime.stage import Out
from runtime.stage_runner import run_stage
from runtime.topic_keys import TopicKeys
from tests.contract.stage_program import SCHEMA, Copy, topic_keys
from tests.fixtures.kafka import now_ms

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("stage_program.py")
FAUST_WEB_PORT = 6066
only_one_runner = pytest.mark.parametrize("bench", ["aiokafka"], indirect=True)
"""For what is the same code under both."""


@dataclass
class Bench:
    """Topics, keys and workers of one test."""

    kafka: str
    keys: TopicKeys
    plan: dict[str, Any]
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, **changes: Any) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join(str(ROOT / part) for part in ("services", "proto/python", "."))
        log = Path(self.plan["data"]) / f"worker{len(self.processes)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, str(PROGRAM), json.dumps({**self.plan, **changes})],
                env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        self.processes.append(process)
        return process

    async def send(self, payloads: list[bytes]) -> None:
        async with SealingProducer(make_producer(self.kafka, "test"), self.keys, "test") as producer:
            outs = [Out(self.plan["source"], p, p, SCHEMA, p.decode(), 0) for p in payloads]
            for start in range(0, len(outs), 10):
                await producer.send_all(outs[start : start + 10], now_ms())

    async def sink(self) -> list[bytes]:
        """What has arrived, in order, in clear."""
        return [value for value, _ in await self.sink_records()]

    async def sink_records(self) -> list[tuple[bytes, dict[str, bytes]]]:
        consumer = make_consumer(self.kafka, group=None, client_id="test")
        await consumer.start()
        topic = self.plan["sink"]
        try:
            return [
                (self.keys.open(topic, r.key, SCHEMA, r.value, r.headers), dict(r.headers))
                async for r in read_to_end(consumer, [TopicPartition(topic, 0)])
            ]
        finally:
            await consumer.stop()

    async def count(self, topic: str) -> int:
        """Records ever written to the topic's one partition; compaction does not change it."""
        consumer = make_consumer(self.kafka, group=None, client_id="test")
        await consumer.start()
        try:
            partition = TopicPartition(topic, 0)
            return int((await consumer.end_offsets([partition]))[partition])
        finally:
            await consumer.stop()

    async def until(self, count: int, timeout_s: float = 40) -> list[bytes]:
        """Waits for `count` different records."""
        async with asyncio.timeout(timeout_s):
            while len(set(found := await self.sink())) < count:
                await asyncio.sleep(0.2)
        return found

    async def ended(self, process: "subprocess.Popen[bytes]") -> int:
        return await asyncio.wait_for(asyncio.to_thread(process.wait), 40)


@pytest.fixture(params=["aiokafka", "faust"])
async def bench(request: Any, kafka_address: str, tmp_path: Path) -> AsyncIterator[Bench]:
    name = f"t{secrets.token_hex(5)}"
    private = X25519PrivateKey.generate().private_bytes_raw()
    plan = {
        "runner": request.param, "kafka": kafka_address, "group": name, "source": f"{name}.in", "sink": f"{name}.out",
        "state": f"{name}.state", "keys": str(tmp_path / "keys"), "private": private.hex(), "slow_s": 0.0,
        "marker": str(tmp_path / "marker"), "away_once": "", "repaired": str(tmp_path / "repaired"),
        "data": str(tmp_path),
    }  # fmt: skip
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_address)
    await admin.start()
    names = ("in", "out", "in.dlq", "state.dlq")
    compacted = NewTopic(f"{name}.state", 1, 1, topic_configs={"cleanup.policy": "compact"})
    await admin.create_topics([*(NewTopic(f"{name}.{n}", 1, 1) for n in names), compacted])
    await admin.close()
    made = Bench(kafka_address, topic_keys(tmp_path / "keys", private), plan)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def payloads() -> list[bytes]:
    return [f"claim-{number:04}".encode() for number in range(200)]


async def test_a_handler_that_raises_loses_nothing(bench: Bench, payloads: list[bytes]) -> None:
    """On a fresh group too, where Faust alone would jump the failed head. What is away is no failure of the record: it is
    not set aside, and the worker ends."""
    await bench.send(payloads)
    for failing in ("claim-0000", "claim-0120"):
        Path(bench.plan["marker"]).unlink(missing_ok=True)
        assert await bench.ended(bench.start(away_once=failing)) == 1
    bench.start()
    assert set(await bench.until(len(payloads))) == set(payloads)
    assert await bench.count(f"{bench.plan['source']}.dlq") == 0


async def test_what_keeps_failing_is_set_aside_alone_and_comes_back_after_repair(bench: Bench) -> None:
    """The stream goes on from state that the failure has not touched; of a record that can be divided only the bad part goes
    aside; after repair a replay brings it back. The letter says where the stage failed and nothing of what the claim says."""
    source = bench.plan["source"]
    await bench.send([b"one", b"fail-1", b"two", b"three+fail-2+poison-1+four", b"large", b"five"])
    bench.start()
    await bench.until(5)
    found = await bench.sink_records()
    assert [(value, int(headers["seen"])) for value, headers in found] == [
        (b"one", 1), (b"two", 2), (b"three", 3), (b"four", 4), (b"five", 5),
    ]  # fmt: skip
    letters = await list_dead_letters(bench.kafka, bench.keys, [source])
    assert [(e.type, e.offset) for e in letters] == [
        ("failing", 1), ("failing", 3), ("undecodable", 3), ("failing", 4),
    ]  # fmt: skip
    assert letters[0].reason.startswith("failed 3 times, the last time with KeyError at ")
    assert "contract/stage_program.py:" in letters[0].reason
    log = (Path(bench.plan["data"]) / "worker0.log").read_text()
    assert '"level": "error"' in log
    assert "what the claim" not in log + "".join(e.reason for e in letters)

    Path(bench.plan["repaired"]).touch()
    producer = make_producer(bench.kafka, "test")
    await producer.start()
    try:
        await replay_dead_letters(bench.kafka, bench.keys, producer, [source], lambda letter: letter.type == "failing")
    finally:
        await producer.stop()
    assert set((await bench.until(8))[-3:]) == {b"fail-1", b"fail-2", b"large"}


@asynccontextmanager
async def working(bench: Bench) -> AsyncIterator["asyncio.Task[None]"]:
    """The stage on bare aiokafka within this process; at the end it is asked to stop, and must."""
    stop = asyncio.Event()
    task = asyncio.ensure_future(run_stage(Copy(bench.plan), kafka=bench.kafka, keys=bench.keys, stop=stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait([task])


@only_one_runner
async def test_a_stage_at_which_everything_fails_stops_and_keeps_what_comes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the records are wrong then: a few go aside, and all wait for a stage that can take them."""
    monkeypatch.setattr(stage_core, "PAUSES_S", (0.0,) * 3)
    monkeypatch.setattr(stage_core, "MOST_IN_A_ROW", 2)
    payloads = [b"fail-%02d" % number for number in range(4)]
    await bench.send(payloads)
    with capture_logs() as logs:
        async with working(bench) as broken:
            with pytest.raises(
                StageBrokenError, match="2 records were set aside in a row, and another one failed 3 times"
            ):
                await asyncio.wait_for(broken, 20)
    source = bench.plan["source"]
    letters = await list_dead_letters(bench.kafka, bench.keys, [source])
    assert [letter.offset for letter in letters] == [0, 1]
    assert [row["event"] for row in logs if row["log_level"] == "error"] == [
        "dead_letter",
        "dead_letter",
        "stage_broken",
    ]
    labels = {"topic": source, "type": "failing"}
    assert REGISTRY.get_sample_value("claimledger_dead_letters_total", labels) == 2
    labels = {"stage": bench.plan["group"], "type": "KeyError"}
    assert REGISTRY.get_sample_value("claimledger_stage_failures_total", labels) == 1 + 3 * 3, "once with its poll"
    Path(bench.plan["repaired"]).touch()
    async with working(bench):
        assert set(await bench.until(4)) == set(payloads)


@only_one_runner
async def test_a_stage_whose_keys_are_away_stops_and_keeps_what_comes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each record is as good as any, and is taken once the key is back."""
    monkeypatch.setattr(stage_core, "MOST_IN_A_ROW", 2)
    payloads = [b"claim-%d" % number for number in range(4)]
    await bench.send(payloads)
    directory, private = Path(bench.plan["keys"]), bytes.fromhex(bench.plan["private"])
    (key,) = (directory / bench.plan["source"]).glob("*.json")
    away = key.rename(key.with_suffix(".away"))
    bench.keys = topic_keys(directory, private)
    async with working(bench) as broken:
        with pytest.raises(StageBrokenError, match="the keys of more than 2 records in a row are away: no key of"):
            await asyncio.wait_for(broken, 20)
    assert len(await list_dead_letters(bench.kafka, bench.keys, [bench.plan["source"]])) <= 2
    away.rename(key)
    async with working(bench):
        assert set(await bench.until(4)) == set(payloads)


@only_one_runner
async def test_unreadable_state_is_set_aside_with_a_letter_and_once(bench: Bench) -> None:
    """The records around it count, the next rebuilding does not meet it again, and what was overwritten is no damage."""
    state = bench.plan["state"]
    async with SealingProducer(make_producer(bench.kafka, "test"), bench.keys, "test") as producer:
        spoilt = [Out(state, key, b"poison", SCHEMA, "x", 0) for key in (b"bad", b"mended")]
        await producer.send_all([*spoilt, Out(state, b"mended", b"later", SCHEMA, "x", 0)], now_ms())
        await producer.producer.send_and_wait(state, b"not sealed at all", key=b"junk", partition=0)
    for payload in (b"one", b"two"):
        await bench.send([payload])
        async with working(bench):
            await bench.until(1 if payload == b"one" else 2)
    assert [headers["seen"] for _, headers in await bench.sink_records()] == [b"2", b"3"]
    letters = await list_dead_letters(bench.kafka, bench.keys, [state])
    assert [(e.type, e.key) for e in letters] == [("undecodable", b"bad"), ("no-key-id", b"junk")]


@only_one_runner
@pytest.mark.parametrize("count", [1, stage_core.MOST_STATE_ASIDE + 1])
async def test_a_stage_whose_state_is_away_stops_and_sets_nothing_aside(bench: Bench, count: int) -> None:
    """One record whose key is away, or more unreadable ones than damage explains: going on would change results."""
    state, source = bench.plan["state"], bench.plan["source"]
    async with SealingProducer(make_producer(bench.kafka, "test"), bench.keys, "test") as producer:
        await producer.send_all([Out(state, b"%d" % n, b"poison", SCHEMA, "x", 0) for n in range(count)], now_ms())
    if count == 1:
        (key,) = (Path(bench.plan["keys"]) / state).glob("*.json")
        key.unlink()
        bench.keys = topic_keys(Path(bench.plan["keys"]), bytes.fromhex(bench.plan["private"]))
    await bench.send([b"one"])
    told = "put the key back" if count == 1 else "run the version that wrote them"
    place = f"offset {count - 1} of partition 0 of {state}"
    with capture_logs() as logs:
        async with working(bench) as stopped:
            with pytest.raises(StateUnreadableError, match=f"{place} .*{told}"):
                await asyncio.wait_for(stopped, 20)
    (row,) = [row for row in logs if row["event"] == "state_unreadable"]
    assert (row["log_level"], row["place"], row["remedy"].startswith(told)) == ("error", place, True)
    assert await list_dead_letters(bench.kafka, bench.keys, [state, source]) == []


async def test_records_are_applied_one_at_a_time_and_in_order(bench: Bench, payloads: list[bytes]) -> None:
    """Handlers side by side would commit past each other's unfinished work."""
    await bench.send(payloads)
    bench.start()
    await bench.until(len(payloads))
    found = await bench.sink_records()
    assert [(value, int(headers["seen"])) for value, headers in found] == [(p, n + 1) for n, p in enumerate(payloads)]


async def test_sigterm_with_work_in_flight_loses_nothing(bench: Bench) -> None:
    """More records than two polls hold, so that some remain for the successor."""
    payloads = [f"claim-{number:04}".encode() for number in range(500)]
    await bench.send(payloads)
    process = bench.start(slow_s=0.01)
    await bench.until(5)
    process.send_signal(signal.SIGTERM)
    assert await bench.ended(process) == 0
    before = len(set(await bench.sink()))
    bench.start()
    found = await bench.until(len(payloads))
    assert before < len(payloads)
    assert set(found) == set(payloads)


async def test_kill_loses_nothing_and_state_comes_back(bench: Bench, payloads: list[bytes]) -> None:
    """Each applied record leaves one state record, so the last one's count must be that of the whole state topic."""
    await bench.send(payloads)
    process = bench.start(slow_s=0.005)
    await bench.until(20)
    process.kill()
    await bench.ended(process)
    by_the_killed = await bench.count(bench.plan["state"])
    assert by_the_killed >= 20
    bench.start()
    await bench.until(len(payloads))
    await bench.send([b"the last"])
    await bench.until(len(payloads) + 1)
    value, headers = (await bench.sink_records())[-1]
    assert (value, int(headers["seen"])) == (b"the last", await bench.count(bench.plan["state"]))


async def test_a_poison_record_goes_aside_and_can_be_replayed(bench: Bench, payloads: list[bytes]) -> None:
    """Also one with a header that is null, as Kafka allows."""
    await bench.send([*payloads[:5], b"poison-1", *payloads[5:10]])
    producer = make_producer(bench.kafka, "test")
    await producer.start()
    source = bench.plan["source"]
    try:
        await producer.send_and_wait(source, b"not sealed at all", key=b"k", partition=0, headers=[("key-id", None)])
        process = bench.start()
        await bench.until(10)
        async with asyncio.timeout(20):
            while len(letters := await list_dead_letters(bench.kafka, bench.keys, [source])) < 2:
                await asyncio.sleep(0.2)
        assert [(e.type, e.offset, e.partition) for e in letters] == [("undecodable", 5, 0), ("no-key-id", 11, 0)]
        assert b"poison" not in b"".join(e.value for e in letters)
        replayed = await replay_dead_letters(
            bench.kafka, bench.keys, producer, [source], lambda letter: letter.type == "undecodable"
        )
        assert [e.offset for e in replayed] == [5]
        again = await list_dead_letters(bench.kafka, bench.keys, [source])
        assert [e.replayed for e in again][:2] == [True, False]
    finally:
        await producer.stop()
    listening = {c.laddr.port for c in psutil.Process(process.pid).net_connections() if c.status == "LISTEN"}
    assert FAUST_WEB_PORT not in listening
