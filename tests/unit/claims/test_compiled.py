"""The straight code is made for every form there is, or not at all."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from claims.compiled import compile_read, compile_write
from claims.forms import U8, Form, StructForm


class NewForm(Form):
    """One that nobody wrote straight code for yet."""

    def write(self, value: Any, out: bytearray) -> None:
        out.append(value)

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        return data[at], at + 1


@dataclass
class Declared:
    number: Annotated[int, U8]


@pytest.mark.parametrize("make", [compile_write, compile_read])
def test_a_form_without_straight_code_is_named_and_not_skipped(make: Any) -> None:
    """Left out, its field would be missing from every encoding, and the rest would still decode."""
    form = StructForm(Declared)
    form.parts.append(("number", NewForm()))
    with pytest.raises(TypeError, match="NewForm"):
        make(form)
