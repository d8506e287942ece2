"""The fixed encoding of everything that is hashed, signed or stored for ever.

A layout is declared once, on the dataclass itself: each field's annotation names its wire form
(`Annotated[int, U64]`, `Annotated[bytes, Fixed(32)]`, `Annotated[str, Text(64)]`, a nested dataclass,
an `IntEnum`, `bool`, `tuple[X, ...]` under `Annotated[..., Many(limit)]`, or `X | None`). `Codec(cls)` reads the
annotations and turns values into bytes and back. There is exactly one byte string for a value and
one value for a byte string: integers are big-endian and of fixed width, text is NFC UTF-8 behind a
length, a bool is 0 or 1, nothing follows the last field. There are no maps and no floats.

Adjacent fields of fixed width are packed by one `struct.Struct`, which is what makes the codec fast
enough to stand on the path of every claim.

Source: docs/ENCODING.md, which is written so that a second decoder can be built from it alone.
"""

import enum
import struct
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter
from types import UnionType
from typing import Annotated, Any, Final, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class EncodeError(ValueError):
    """A value that has no encoding: out of range, too long, or of the wrong length."""


class DecodeError(ValueError):
    """Bytes that are not the encoding of any value. `offset` is where reading stopped."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"{reason} at byte {offset}")
        self.reason = reason
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Int:
    """An integer of `width` bytes, big-endian; two's complement when `signed`."""

    width: int
    signed: bool = False

    @property
    def format(self) -> str:
        code = {1: "b", 2: "h", 4: "i", 8: "q"}[self.width]
        return code if self.signed else code.upper()


@dataclass(frozen=True, slots=True)
class Fixed:
    """Exactly `length` bytes, without a length prefix."""

    length: int


@dataclass(frozen=True, slots=True)
class Bytes:
    """At most `limit` bytes behind a 4-byte length."""

    limit: int


@dataclass(frozen=True, slots=True)
class Text:
    """NFC UTF-8 of at most `limit` bytes behind a 2-byte length; no control characters."""

    limit: int


@dataclass(frozen=True, slots=True)
class Many:
    """At most `limit` items behind a 4-byte count; the annotation is `tuple[X, ...]`."""

    limit: int
    item: Any = None


U8: Final = Int(1)
U16: Final = Int(2)
U32: Final = Int(4)
U64: Final = Int(8)
I32: Final = Int(4, signed=True)
I64: Final = Int(8, signed=True)

CACHED_TEXT_LIMIT: Final = 32
"""Text fields of at most so many bytes keep what they have seen, …"""
CACHED_TEXTS: Final = 1024
"""… at most so many values each, dropped together when full."""

Hash = Annotated[bytes, Fixed(32)]
"""A SHA-256 digest, 32 bytes."""
Cents = Annotated[int, I64]
"""An amount of money in the ledger's one currency, integer cents."""
Day = Annotated[int, I32]
"""A calendar day, days since 1970-01-01; no time zone (claims.md, Numbers)."""


class _Form:
    """How one kind of field is written and read."""

    def write(self, value: Any, out: bytearray) -> None:
        raise NotImplementedError

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        raise NotImplementedError


class _PackedForm(_Form):
    """A run of fixed-width fields, written and read by one struct."""

    def __init__(self, markers: list[tuple[str, Any]]) -> None:
        self.names = [name for name, _ in markers]
        codes = ">"
        self.fixed: list[tuple[int, int]] = []
        self.bools: list[int] = []
        self.enums: list[tuple[int, type[enum.IntEnum], dict[int, enum.IntEnum]]] = []
        for index, (_, marker) in enumerate(markers):
            if isinstance(marker, Int):
                codes += marker.format
            elif isinstance(marker, Fixed):
                codes += f"{marker.length}s"
                self.fixed.append((index, marker.length))
            elif marker is bool:
                codes += "B"
                self.bools.append(index)
            else:
                codes += "B"
                # A dict of the members: calling the enum costs more than all else that is done to a field.
                self.enums.append((index, marker, {int(member): member for member in marker}))
        self.struct = struct.Struct(codes)
        self.get = attrgetter(*self.names) if len(self.names) > 1 else None
        self.single: Callable[[Any], Any] = attrgetter(self.names[0])

    def write(self, value: Any, out: bytearray) -> None:
        values = self.get(value) if self.get else (self.single(value),)
        for index, length in self.fixed:
            if len(values[index]) != length:
                raise EncodeError(f"{self.names[index]}: {len(values[index])} bytes where {length} are due")
        try:
            out += self.struct.pack(*values)
        except struct.error as error:
            raise EncodeError(f"{'/'.join(self.names)}: {error}") from None

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        end = at + self.struct.size
        if end > len(data):
            raise DecodeError(f"{self.names[0]}: the bytes end early", len(data))
        values: Any = self.struct.unpack_from(data, at)
        if self.bools or self.enums:
            values = list(values)
            for index in self.bools:
                if values[index] > 1:
                    raise DecodeError(f"{self.names[index]}: a bool is 0 or 1", at)
                values[index] = values[index] == 1
            for index, kind, members in self.enums:
                member = members.get(values[index])
                if member is None:
                    raise DecodeError(f"{self.names[index]}: unknown {kind.__name__} {values[index]}", at)
                values[index] = member
        return values, end


class _BytesForm(_Form):
    def __init__(self, name: str, marker: Bytes) -> None:
        self.name, self.limit = name, marker.limit

    def write(self, value: Any, out: bytearray) -> None:
        if len(value) > self.limit:
            raise EncodeError(f"{self.name}: {len(value)} bytes, at most {self.limit}")
        out += len(value).to_bytes(4, "big")
        out += value

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        start = at + 4
        length = int.from_bytes(data[at:start], "big")
        if start > len(data) or start + length > len(data):
            raise DecodeError(f"{self.name}: the bytes end early", len(data))
        if length > self.limit:
            raise DecodeError(f"{self.name}: {length} bytes, at most {self.limit}", at)
        return data[start : start + length], start + length


class _TextForm(_Form):
    def __init__(self, name: str, marker: Text) -> None:
        self.name, self.limit = name, marker.limit
        # Identifiers and codes repeat from claim to claim; longer text (people's names) is not kept.
        self.written: dict[str, bytes] = {}
        self.known: dict[bytes, str] = {}

    def write(self, value: Any, out: bytearray) -> None:
        written = self.written.get(value)
        if written is None:
            data = self._checked(value)
            written = len(data).to_bytes(2, "big") + data
            self._remember(self.written, value, written)
        out += written

    def _remember(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        if self.limit <= CACHED_TEXT_LIMIT:
            if len(table) >= CACHED_TEXTS:
                table.clear()
            table[key] = value

    def _checked(self, value: str) -> bytes:
        if value.isascii():
            printable = value.isprintable()
        else:
            printable = not any(unicodedata.category(c) in ("Cc", "Cs") for c in value)
            if not unicodedata.is_normalized("NFC", value):
                raise EncodeError(f"{self.name}: text is not in NFC")
        if not printable:
            raise EncodeError(f"{self.name}: control characters have no place in text")
        data = value.encode()
        if len(data) > self.limit:
            raise EncodeError(f"{self.name}: {len(data)} bytes of text, at most {self.limit}")
        return data

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        start = at + 2
        end = start + int.from_bytes(data[at:start], "big")
        if start > len(data) or end > len(data):
            raise DecodeError(f"{self.name}: the bytes end early", len(data))
        raw = data[start:end]
        known = self.known.get(raw)
        if known is not None:
            return known, end
        try:
            value = raw.decode()
            self._checked(value)
        except UnicodeDecodeError:
            raise DecodeError(f"{self.name}: not UTF-8", start) from None
        except EncodeError as error:
            raise DecodeError(str(error), start) from None
        self._remember(self.known, raw, value)
        return value, end


class _ManyForm(_Form):
    def __init__(self, name: str, limit: int, item: _Form) -> None:
        self.name, self.limit, self.item = name, limit, item

    def write(self, value: Any, out: bytearray) -> None:
        if len(value) > self.limit:
            raise EncodeError(f"{self.name}: {len(value)} items, at most {self.limit}")
        out += len(value).to_bytes(4, "big")
        for item in value:
            self.item.write(item, out)

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        start = at + 4
        count = int.from_bytes(data[at:start], "big")
        if start > len(data):
            raise DecodeError(f"{self.name}: the bytes end early", len(data))
        # Checked before the loop, so that a hostile count costs nothing.
        if count > self.limit:
            raise DecodeError(f"{self.name}: {count} items, at most {self.limit}", at)
        items = []
        for _ in range(count):
            item, start = self.item.read(data, start)
            items.append(item)
        return tuple(items), start


class _OptionalForm(_Form):
    def __init__(self, name: str, item: _Form) -> None:
        self.name, self.item = name, item

    def write(self, value: Any, out: bytearray) -> None:
        out.append(0 if value is None else 1)
        if value is not None:
            self.item.write(value, out)

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        if at >= len(data):
            raise DecodeError(f"{self.name}: the bytes end early", len(data))
        if data[at] == 0:
            return None, at + 1
        if data[at] != 1:
            raise DecodeError(f"{self.name}: presence is 0 or 1", at)
        return self.item.read(data, at + 1)


class _ScalarForm(_Form):
    """One fixed-width value standing alone, as an item or behind a presence byte."""

    def __init__(self, name: str, marker: Any) -> None:
        self.packed = _PackedForm([("value", marker)])
        self.packed.names = [name]
        self.packed.single = lambda value: value

    def write(self, value: Any, out: bytearray) -> None:
        self.packed.write(value, out)

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        values, at = self.packed.read(data, at)
        return values[0], at


class _StructForm(_Form):
    """A dataclass: its fields in the order in which they are declared."""

    def __init__(self, cls: type) -> None:
        self.make: Callable[..., Any] = cls
        hints = get_type_hints(cls, include_extras=True)
        self.steps: list[tuple[Callable[[Any], Any] | None, _Form]] = []
        run: list[tuple[str, Any]] = []
        for field in fields(cls):
            marker = _marker_of(hints[field.name])
            if _is_packed(marker):
                run.append((field.name, marker))
                continue
            self._close(run)
            run = []
            self.steps.append((attrgetter(field.name), _form_of(field.name, marker)))
        self._close(run)

    def _close(self, run: list[tuple[str, Any]]) -> None:
        if run:
            self.steps.append((None, _PackedForm(run)))

    def write(self, value: Any, out: bytearray) -> None:
        for get, form in self.steps:
            form.write(value if get is None else get(value), out)

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        values: list[Any] = []
        for get, form in self.steps:
            value, at = form.read(data, at)
            if get is None:
                values.extend(value)
            else:
                values.append(value)
        try:
            return self.make(*values), at
        except ValueError as error:  # a __post_init__ that refuses
            raise DecodeError(str(error), at) from None


def _is_packed(marker: Any) -> bool:
    return (
        isinstance(marker, Int | Fixed)
        or marker is bool
        or (isinstance(marker, type) and issubclass(marker, enum.IntEnum))
    )


def _marker_of(hint: Any) -> Any:
    """The wire form that an annotation names: a marker, `bool`, an enum, a dataclass or an optional of one."""
    origin = get_origin(hint)
    if origin is Annotated:
        base, *extras = get_args(hint)
        marker = next(extra for extra in extras if isinstance(extra, Int | Fixed | Bytes | Text | Many))
        return Many(marker.limit, _marker_of(get_args(base)[0])) if isinstance(marker, Many) else marker
    if origin in (Union, UnionType):
        (inner,) = (arg for arg in get_args(hint) if arg is not type(None))
        return (None, _marker_of(inner))
    if isinstance(hint, type) and (hint is bool or is_dataclass(hint) or issubclass(hint, enum.IntEnum)):
        return hint
    raise TypeError(f"{hint!r} names no wire form")


def _form_of(name: str, marker: Any) -> _Form:
    if isinstance(marker, tuple):
        return _OptionalForm(name, _form_of(name, marker[1]))
    if isinstance(marker, Many):
        return _ManyForm(name, marker.limit, _form_of(name, marker.item))
    if isinstance(marker, Bytes):
        return _BytesForm(name, marker)
    if isinstance(marker, Text):
        return _TextForm(name, marker)
    if _is_packed(marker):
        return _ScalarForm(name, marker)
    return _StructForm(marker)


class Codec(Generic[T]):
    """Turns values of one dataclass into their bytes and back.

    `version` is the first byte of every encoding; bytes that begin with another are refused. `None` leaves the
    byte out, for structures that stand only inside signed bodies.
    """

    def __init__(self, cls: type[T], version: int | None = 1) -> None:
        self._form = _StructForm(cls)
        self._version = version

    def encode(self, value: T) -> bytes:
        """The one byte string of `value`. Raises EncodeError."""
        out = bytearray() if self._version is None else bytearray((self._version,))
        self._form.write(value, out)
        return bytes(out)

    def decode(self, data: bytes) -> T:
        """The one value whose encoding is `data`. Raises DecodeError, also for bytes left over."""
        at = 0
        if self._version is not None:
            if not data or data[0] != self._version:
                raise DecodeError(f"version {data[0] if data else 'missing'}, not {self._version}", 0)
            at = 1
        value, at = self._form.read(data, at)
        if at != len(data):
            raise DecodeError(f"{len(data) - at} bytes left over", at)
        return value  # type: ignore[no-any-return]
