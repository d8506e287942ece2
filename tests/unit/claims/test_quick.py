"""Values made quickly are the values that their class makes."""

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass

import pytest

from claims.quick import quick


@dataclass(frozen=True, slots=True)
class Amount:
    cents: int
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class Even:
    cents: int

    def __post_init__(self) -> None:
        if self.cents % 2:
            raise ValueError("odd")


@dataclass(frozen=True)
class Wide:
    cents: int


def test_a_value_made_quickly_is_the_value_of_its_class() -> None:
    made = quick(Amount)
    for value in (made(5), made(5, "EUR"), made(cents=5, currency="EUR")):
        same = Amount(value.cents, value.currency)
        assert type(value) is Amount
        assert value == same
        assert hash(value) == hash(same)
        assert repr(value) == repr(same)
        assert pickle.loads(pickle.dumps(value)) == copy.copy(value) == same


def test_a_value_made_quickly_is_frozen_and_has_no_other_fields() -> None:
    value = quick(Amount)(5)
    with pytest.raises(FrozenInstanceError):
        value.cents = 6  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        value.note = "x"  # type: ignore[attr-defined]
    assert not hasattr(value, "__dict__")


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        quick(Amount)()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        quick(Amount)(1, "EUR", 3)  # type: ignore[call-arg]


@pytest.mark.parametrize("cls", [Even, Wide, int])
def test_classes_that_have_no_open_twin_are_left_as_they_are(cls: type) -> None:
    assert quick(cls) is cls
