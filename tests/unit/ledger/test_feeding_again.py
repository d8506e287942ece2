"""What stops feeding costs a replica a second, not its life: it takes part in consensus all the while."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from ledger_commit import app
from runtime.failing import StageBrokenError
from runtime.topic_keys import SealedValueError
from tests.fixtures.ports import neighbouring_ports


def node_with_room(there: bool) -> SimpleNamespace:
    async def room() -> None:
        if not there:
            await asyncio.Event().wait()

    return SimpleNamespace(lane=SimpleNamespace(room=room))


async def _goes_on_after(event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feeding from where no broker answers goes on, and says this three times."""
    monkeypatch.setattr(app, "FEED_AGAIN_S", 0.01)
    settings = SimpleNamespace(replica_drop_claims=False)
    kafka = f"127.0.0.1:{neighbouring_ports(1)}"
    made = SimpleNamespace(
        settings=settings, kafka=kafka, network=SimpleNamespace(payers=()), topic_keys=None, node=node_with_room(True)
    )
    with capture_logs() as logs:
        feeding = asyncio.create_task(app._feed(made))  # type: ignore[arg-type]
        async with asyncio.timeout(10):
            while sum(entry["event"] == event for entry in logs) < 3:
                await asyncio.sleep(0.01)
        assert not feeding.done()
        feeding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await feeding


async def test_a_broker_that_goes_between_the_look_for_topics_and_the_first_connection_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def there(_kafka: str, _network: object, _topics: object) -> None:
        """The topics were there a moment ago."""

    monkeypatch.setattr(app, "wait_for_own_topics", there)
    await _goes_on_after("broker_away", monkeypatch)


async def test_a_dead_letter_that_cannot_be_sealed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def damaged(_made: object, _kafka: str) -> None:
        raise SealedValueError("bad-wrap", "the key file of the dead letters is damaged")

    monkeypatch.setattr(app, "_feed_while_there", damaged)
    await _goes_on_after("cannot_seal", monkeypatch)


async def test_a_replica_whose_keys_are_away_feeds_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its partitions are with others meanwhile, so it comes back less often than to a broker."""

    async def keyless(_made: object, _kafka: str) -> None:
        raise StageBrokenError("the keys of more than 10 records in a row are away")

    monkeypatch.setattr(app, "_feed_while_there", keyless)
    monkeypatch.setattr(app, "KEYS_AWAY_S", 0.01)
    await _goes_on_after("keys_away", monkeypatch)


async def test_a_replica_whose_lane_takes_nothing_joins_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its partitions would wait for it, and their claims with them; the others take them."""
    asked: list[str] = []

    async def joins(_made: object, kafka: str) -> None:
        asked.append(kafka)

    monkeypatch.setattr(app, "_feed_while_there", joins)
    made = SimpleNamespace(
        settings=SimpleNamespace(replica_drop_claims=False), kafka="nowhere", node=node_with_room(False)
    )
    feeding = asyncio.create_task(app._feed(made))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    assert (asked, feeding.done()) == ([], False)
    feeding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await feeding


async def test_when_the_lane_closes_the_feeders_leave_their_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """And join it again when it is open: another machine spoke for the member, or its record was lost and stated anew."""
    monkeypatch.setattr(app, "FEED_AGAIN_S", 0.01)
    open_, closed, running = asyncio.Event(), asyncio.Event(), asyncio.Event()
    open_.set()

    class Fed:
        async def run(self) -> None:
            running.set()
            try:
                await asyncio.Event().wait()
            finally:
                running.clear()

    async def nothing(*_: object) -> None:
        return

    monkeypatch.setattr(app, "feeders", lambda *_, **__: [Fed()])
    monkeypatch.setattr(app, "wait_for_own_topics", nothing)
    monkeypatch.setattr(app, "make_producer", lambda *_: None)
    monkeypatch.setattr(app, "SealingProducer", lambda *_: contextlib.nullcontext())
    lane = SimpleNamespace(room=open_.wait, closed=closed.wait)
    made = SimpleNamespace(
        settings=SimpleNamespace(replica_drop_claims=False, replica_organisation="aurora"), kafka="", me=0,
        network=SimpleNamespace(payers=()), topic_keys=None, committee=(), seen=None, node=SimpleNamespace(lane=lane),
    )  # fmt: skip
    feeding = asyncio.create_task(app._feed(made))  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        await running.wait()
        open_.clear()
        closed.set()
        while running.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert not running.is_set()
        closed.clear()
        open_.set()
        await running.wait()
    feeding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await feeding
