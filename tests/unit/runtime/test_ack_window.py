"""AckWindow acknowledges exactly the finished prefix, whatever the order in which records finish."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.ack_window import AckWindow


def test_a_head_that_is_not_done_holds_back_what_is() -> None:
    window = AckWindow()
    for offset in (7, 8, 11):
        window.take(offset)
    assert window.finish(8) == []
    assert window.finish(11) == []
    before = window.position
    assert window.finish(7) == [7, 8, 11]
    assert (before, window.position) == (None, 12)
    assert len(window) == 0


@given(st.sets(st.integers(0, 500), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_position_is_never_past_an_open_record(offsets: set[int], chance: Any) -> None:
    window = AckWindow()
    for offset in sorted(offsets):
        window.take(offset)
    order = sorted(offsets)
    chance.shuffle(order)
    still_open = set(offsets)
    freed: list[int] = []
    for offset in order:
        still_open.discard(offset)
        freed += window.finish(offset)
        assert all(o >= (window.position or 0) for o in still_open)
    assert freed == sorted(offsets)
    assert window.position == max(offsets) + 1


def test_offsets_must_ascend_and_finish_once() -> None:
    window = AckWindow()
    window.take(3)
    with pytest.raises(ValueError, match="offset 3 after 3"):
        window.take(3)
    window.finish(3)
    with pytest.raises(KeyError):
        window.finish(3)
    with pytest.raises(ValueError, match="offset 2 after 3"):
        window.take(2)
