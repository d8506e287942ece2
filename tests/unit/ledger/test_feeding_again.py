"""A broker that goes between the look for its topics and the first connection costs a replica a second, not its life."""

import asyncio
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from ledger_commit import app
from tests.fixtures.ports import neighbouring_ports


async def there(_kafka: str, _topics: object) -> None:
    """The topics were there a moment ago."""


async def test_a_replica_goes_on_when_no_broker_answers_and_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "wait_for_topics", there)
    monkeypatch.setattr(app, "FEED_AGAIN_S", 0.01)
    settings = SimpleNamespace(kafka=f"127.0.0.1:{neighbouring_ports(1)}", replica_drop_claims=False)
    made = SimpleNamespace(settings=settings, network=SimpleNamespace(payers=()), topic_keys=None)
    with capture_logs() as logs:
        feeding = asyncio.create_task(app._feed(made))  # type: ignore[arg-type]
        async with asyncio.timeout(10):
            while sum(entry["event"] == "broker_away" for entry in logs) < 3:
                await asyncio.sleep(0.01)
        assert not feeding.done()
        feeding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await feeding
