"""When a replica says that publishing trails it: what it could have published 5 s ago is not published."""

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from ledger_commit.cursor import ALARM_S, Progress, PublishingWatch
from tests.unit.ledger.test_publications import NETWORK


class Watched:
    """A watch whose time and surroundings the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.own = Progress()
        self.watch = PublishingWatch("", NETWORK, lambda: self.own, lambda: self.now)

    def step(self, seconds: float, own: Progress, published: Progress) -> bool:
        """Whether there is an alarm, so many seconds later."""
        self.now, self.own, self.watch.published = self.now + seconds, own, published
        self.watch.compare()
        return self.watch.alarmed


@pytest.mark.parametrize("behind", [Progress(9, 30), Progress(10, 29), Progress()])
def test_what_stays_unpublished_for_five_seconds_raises_the_alarm(behind: Progress) -> None:
    """Results and blocks count alike."""
    watched = Watched()
    assert not watched.step(0, Progress(10, 30), behind)
    assert not watched.step(ALARM_S - 0.1, Progress(10, 30), behind)
    assert watched.step(0.1, Progress(10, 30), behind)


def test_a_steady_stream_that_is_published_a_little_later_raises_no_alarm() -> None:
    """At every look something is unpublished, and never the same for long."""
    watched = Watched()
    for second in range(60):
        assert not watched.step(
            1, Progress(100 * second, second), Progress(100 * max(0, second - 4), max(0, second - 4))
        )


def test_a_stream_published_six_seconds_later_raises_the_alarm_and_keeps_it() -> None:
    """Although the cursor moves at every look."""
    watched = Watched()
    alarms = [watched.step(1, Progress(9 + n, n), Progress(max(0, 3 + n), max(0, n - 6))) for n in range(60)]
    assert alarms == [False] * 5 + [True] * 55


def test_a_replica_that_is_behind_what_is_published_raises_no_alarm() -> None:
    watched = Watched()
    for _ in range(20):
        assert not watched.step(1, Progress(5, 5), Progress(10, 30))


def test_the_alarm_is_told_once_with_its_end_and_shown_as_a_metric_between() -> None:
    watched = Watched()
    metric = "claimledger_ledger_publisher_trails"
    with capture_logs() as logs:
        watched.step(0, Progress(1, 2), Progress(1, 1))
        for _ in range(3):
            watched.step(ALARM_S, Progress(1, 2), Progress(1, 1))
        shown = REGISTRY.get_sample_value(metric)
        watched.step(1, Progress(1, 2), Progress(1, 2))
    assert (shown, REGISTRY.get_sample_value(metric)) == (1, 0)
    assert logs == [
        {
            "event": "publisher_trails", "log_level": "error", "part": "publishing_watch",
            "due_leaf": 1, "due_height": 2, "next_leaf": 1, "block_height": 1,
        },
        {
            "event": "publisher_caught_up", "log_level": "info", "part": "publishing_watch",
            "next_leaf": 1, "block_height": 2,
        },
    ]  # fmt: skip


def test_what_is_remembered_is_bounded() -> None:
    watched = Watched()
    for second in range(1000):
        watched.step(1, Progress(second, second), Progress())
    assert len(watched.watch._before) <= ALARM_S + 2
