"""How long the relay lingers: nothing is waited for when idle; under load records grow to a useful size, within a bound."""

import pytest

from claim_intake.relay import BUSY_RATE, GOOD_RECORD, IDLE_LINGER_S, LINGER_S, Linger

GROUPS = 6
LEAST_S, MOST_S = LINGER_S


def _paced(claims_per_s: float, seconds: float = 5.0) -> Linger:
    """What it has come to after some seconds of this rate over six payers' buckets."""
    linger, now = Linger(), 100.0
    while now < 100.0 + seconds:
        now += linger.seconds + 0.003
        claims = max(1, round((linger.seconds + 0.003) * claims_per_s))
        linger.flushed(claims, min(GROUPS, claims), now)
    return linger


def test_a_lone_claim_is_sent_at_once() -> None:
    linger = Linger()
    linger.flushed(1, 1, 1000.0)
    assert linger.seconds == IDLE_LINGER_S


def test_after_a_rest_the_first_claim_is_sent_at_once() -> None:
    linger = _paced(5000)
    linger.flushed(1, 1, 1000.0)
    assert linger.seconds == IDLE_LINGER_S


def test_under_load_a_flush_waits_until_records_are_good_ones() -> None:
    linger_s = _paced(5000).seconds
    assert IDLE_LINGER_S < linger_s < MOST_S
    assert 0.8 * GOOD_RECORD < linger_s * 5000 / GROUPS < 1.2 * GOOD_RECORD


def test_the_wait_is_bounded_the_more_the_less_comes() -> None:
    waits = [_paced(rate * GROUPS).seconds for rate in (40, 100, 200, BUSY_RATE)]
    assert waits == sorted(waits)
    assert LEAST_S < waits[0] < 1.3 * LEAST_S
    assert _paced(BUSY_RATE * GROUPS).seconds == pytest.approx(MOST_S, rel=0.05)


def test_a_high_rate_fills_records_without_a_long_wait() -> None:
    assert _paced(50_000).seconds < 0.02
