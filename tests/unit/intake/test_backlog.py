"""The backlog's delay: that of the oldest claim in the latest round of ends, forgotten when nothing ends any more."""

from claim_intake.backlog import MEMORY_MS, Backlog


def test_before_anything_has_ended_there_is_no_delay() -> None:
    assert Backlog().delay_ms(5_000_000) == 0


def test_the_oldest_claim_of_the_latest_round_tells_the_delay() -> None:
    backlog = Backlog()
    backlog.ended([300, 12_000, 500], 1_000_000)
    assert backlog.delay_ms(1_000_100) == 12_000
    backlog.ended([200], 1_000_200)
    assert backlog.delay_ms(1_000_300) == 200


def test_a_round_without_first_emissions_changes_nothing() -> None:
    backlog = Backlog()
    backlog.ended([700], 1_000_000)
    backlog.ended([], 1_000_500)
    assert backlog.delay_ms(1_000_600) == 700


def test_where_nothing_ends_any_more_the_delay_is_forgotten() -> None:
    backlog = Backlog()
    backlog.ended([60_000], 1_000_000)
    assert backlog.delay_ms(1_000_000 + MEMORY_MS) == 60_000
    assert backlog.delay_ms(1_000_001 + MEMORY_MS) == 0


def test_a_clock_that_was_set_back_gives_no_negative_delay() -> None:
    backlog = Backlog()
    backlog.ended([-5_000], 1_000_000)
    assert backlog.delay_ms(1_000_000) == 0
