"""Tokens are opaque, of one kind, and refused where we never gave them out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claim_intake.cursors import position, token
from runtime.errors import InvalidArgumentError


@given(st.integers(0, 2**63 - 1))
def test_a_token_gives_its_position_back(number: int) -> None:
    assert position("events", token("events", number), "cursor") == number


@given(st.text(min_size=1, max_size=40))
def test_any_other_text_is_refused_with_the_field(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        position("events", text, "cursor")
    assert caught.value.violations[0].field == "cursor"


def test_a_page_token_is_no_cursor() -> None:
    with pytest.raises(InvalidArgumentError):
        position("events", token("claims", 1), "cursor")
    assert position("events", "", "cursor") == 0
