"""The fixed encoding of everything that is hashed, signed or stored for ever.

A layout is declared once, on the dataclass itself: each field's annotation names its wire form
(`Annotated[int, U64]`, `Annotated[bytes, Fixed(32)]`, `Annotated[str, Text(64)]`, a nested dataclass,
an `IntEnum`, `bool`, `tuple[X, ...]` under `Annotated[..., Many(limit)]`, or `X | None`). `Codec(cls)` reads the
annotations and turns values into bytes and back. There is exactly one byte string for a value and
one value for a byte string: integers are big-endian and of fixed width, text is NFC UTF-8 behind a
length, a bool is 0 or 1, nothing follows the last field. There are no maps and no floats.

A layout is read and written by straight code that is made of it at its first use (`compiled.py`), which is what makes the
codec fast enough to stand on the path of every claim; `forms.py` judges whatever that code gives up on.

Source: docs/ENCODING.md, which is written so that a second decoder can be built from it alone.
"""

from functools import cached_property
from typing import Any, Generic, TypeVar

from claims.compiled import NOT_PLAIN, Read, Write, compile_read, compile_write
from claims.forms import (
    CACHED_TEXT_LIMIT,
    CACHED_TEXTS,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Ascii,
    Bytes,
    Cents,
    Day,
    DecodeError,
    EncodeError,
    Fixed,
    Hash,
    Int,
    LocatedError,
    Many,
    StructForm,
    Text,
)

__all__ = [
    "CACHED_TEXTS",
    "CACHED_TEXT_LIMIT",
    "I32",
    "I64",
    "U8",
    "U16",
    "U32",
    "U64",
    "Ascii",
    "Bytes",
    "Cents",
    "Codec",
    "Day",
    "DecodeError",
    "EncodeError",
    "Fixed",
    "Hash",
    "Int",
    "LocatedError",
    "Many",
    "Text",
]

T = TypeVar("T")


class Codec(Generic[T]):
    """Turns values of one dataclass into their bytes and back.

    `version` is the first byte of every encoding; bytes that begin with another are refused. `None` leaves the
    byte out, for structures that stand only inside signed bodies.
    """

    def __init__(self, cls: type[T], version: int | None = 1) -> None:
        self._form = StructForm(cls)
        self._head = b"" if version is None else bytes((version,))

    @cached_property
    def _write(self) -> Write:
        return compile_write(self._form)

    @cached_property
    def _read(self) -> Read:
        return compile_read(self._form)

    def encode(self, value: T) -> bytes:
        """The one byte string of `value`. Raises EncodeError."""
        out = bytearray(self._head)
        try:
            self._write(value, out)
        except NOT_PLAIN:
            return self.encode_carefully(value)
        return bytes(out)

    def encode_carefully(self, value: T) -> bytes:
        """The same by the forms alone: slower, and it says what is wrong."""
        out = bytearray(self._head)
        self._form.write(value, out)
        return bytes(out)

    def decode(self, data: bytes) -> T:
        """The one value whose encoding is `data`. Raises DecodeError, also for bytes left over."""
        if data.startswith(self._head):
            try:
                value, at = self._read(data, len(self._head))
            except NOT_PLAIN:
                return self.decode_carefully(data)
            if at == len(data):
                return value  # type: ignore[no-any-return]
        return self.decode_carefully(data)

    def decode_first(self, data: bytes) -> Any:
        """The first field alone, where it is a structure: who signed, before all of it is read. Raises DecodeError."""
        return self._form.read_first(data, self._skip_head(data))

    def decode_carefully(self, data: bytes) -> T:
        """The same by the forms alone: slower, and it says what is wrong."""
        value: Any
        value, at = self._form.read(data, self._skip_head(data))
        if at != len(data):
            raise DecodeError(f"{len(data) - at} bytes left over", at)
        return value  # type: ignore[no-any-return]

    def _skip_head(self, data: bytes) -> int:
        """Where the fields begin. Raises DecodeError for another version."""
        if not data.startswith(self._head):
            raise DecodeError(f"version {data[0] if data else 'missing'}, not {self._head[0]}", 0)
        return len(self._head)
