"""How each kind of field is written and read: the careful way, which says where and why when it cannot.

`form_of` turns the wire form that an annotation names into a tree of forms. `compiled.py` makes straight code of such a
tree for what has nothing wrong with it; these forms are the reference, and what speaks when something is.

Source: docs/ENCODING.md.
"""

import enum
import struct
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints


class LocatedError(ValueError):
    """`path` leads to the field that is wrong, as in `lines[2].units`; it is empty where the whole is."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason, path)
        self.reason = reason
        self.path = path

    def under(self, step: str) -> None:
        """Puts one step before the path; called by each level that the error passes on its way out."""
        joint = "." if step and self.path and not self.path.startswith("[") else ""
        self.path = step + joint + self.path

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


class EncodeError(LocatedError):
    """A value that has no encoding: out of range, too long, or of the wrong length."""


class DecodeError(LocatedError):
    """Bytes that are not the encoding of any value. `offset` is where reading stopped."""

    def __init__(self, reason: str, offset: int, path: str = "") -> None:
        super().__init__(reason, path)
        self.offset = offset

    def __str__(self) -> str:
        return f"{super().__str__()} at byte {self.offset}"


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
class Ascii:
    """Printable ASCII of at most `limit` bytes behind a 2-byte length.

    For everything that replicas must agree on: what NFC says of a character depends on the Unicode version that a
    replica runs, what ASCII says of it does not.
    """

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


class Form:
    """How one kind of field is written and read."""

    def write(self, value: Any, out: bytearray) -> None:
        raise NotImplementedError

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        raise NotImplementedError


class PackedForm(Form):
    """A run of fixed-width fields, written and read by one struct."""

    def __init__(self, markers: list[tuple[str, Any]]) -> None:
        self.names = [name for name, _ in markers]
        self.codes = [_code_of(marker) for _, marker in markers]
        self.ends = [struct.calcsize(">" + "".join(self.codes[: i + 1])) for i in range(len(markers))]
        self.fixed = [(i, marker.length) for i, (_, marker) in enumerate(markers) if isinstance(marker, Fixed)]
        self.kinds = [(i, marker) for i, (_, marker) in enumerate(markers) if not isinstance(marker, Int | Fixed)]
        # A dict of the members: calling the enum costs more than all else that is done to a field.
        self.members: list[tuple[int, dict[int, Any]]] = [
            (i, {int(member): member for member in ((False, True) if kind is bool else kind)}) for i, kind in self.kinds
        ]
        self.checked = bool(self.fixed or self.kinds)
        layout = struct.Struct(">" + "".join(self.codes))
        self.size, self.pack, self.unpack_from = layout.size, layout.pack, layout.unpack_from
        self.get = attrgetter(*self.names) if len(self.names) > 1 else None
        self.single: Callable[[Any], Any] = attrgetter(self.names[0])

    def write(self, value: Any, out: bytearray) -> None:
        values = self.get(value) if self.get else (self.single(value),)
        if self.checked:
            for index, length in self.fixed:
                if len(values[index]) != length:
                    raise EncodeError(f"{len(values[index])} bytes where {length} are due", self.names[index])
            for index, kind in self.kinds:
                if type(values[index]) is not kind:
                    raise EncodeError(f"{values[index]!r} is no {kind.__name__}", self.names[index])
        try:
            out += self.pack(*values)
        except struct.error:
            raise self._misfit(values) from None

    def _misfit(self, values: tuple[Any, ...]) -> EncodeError:
        """Says which of the values it was that could not be packed."""
        told = ((_misfit(code, value), name) for name, code, value in zip(self.names, self.codes, values, strict=True))
        return EncodeError(*next((reason, name) for reason, name in told if reason))

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        end = at + self.size
        if end > len(data):
            cut = next(name for name, end in zip(self.names, self.ends, strict=True) if at + end > len(data))
            raise DecodeError("the bytes end early", len(data), cut)
        values: Any = self.unpack_from(data, at)
        if self.members:
            values = list(values)
            for index, members in self.members:
                member = members.get(values[index])
                if member is None:
                    raise self._no_member(index, values[index], at)
                values[index] = member
        return values, end

    def _no_member(self, index: int, byte: int, at: int) -> DecodeError:
        kind = dict(self.kinds)[index]
        reason = "a bool is 0 or 1" if kind is bool else f"unknown {kind.__name__} {byte}"
        return DecodeError(reason, at + self.ends[index] - 1, self.names[index])


class BytesForm(Form):
    def __init__(self, marker: Bytes) -> None:
        self.limit = marker.limit

    def write(self, value: Any, out: bytearray) -> None:
        if len(value) > self.limit:
            raise EncodeError(f"{len(value)} bytes, at most {self.limit}")
        out += len(value).to_bytes(4, "big")
        out += value

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        start = at + 4
        length = int.from_bytes(data[at:start], "big")
        end = start + length
        if end > len(data):
            raise DecodeError("the bytes end early", len(data))
        if length > self.limit:
            raise DecodeError(f"{length} bytes, at most {self.limit}", at)
        return data[start:end], end


class TextForm(Form):
    def __init__(self, marker: Text | Ascii) -> None:
        self.limit, self.ascii = marker.limit, isinstance(marker, Ascii)
        # Identifiers and codes repeat from claim to claim; longer text (people's names) is not kept.
        self.is_kept = marker.limit <= CACHED_TEXT_LIMIT
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
        if self.is_kept:
            if len(table) >= CACHED_TEXTS:
                table.clear()
            table[key] = value

    def _checked(self, value: str) -> bytes:
        if value.isascii():
            printable = value.isprintable()
        elif self.ascii:
            raise EncodeError("only ASCII has a place here")
        else:
            printable = not any(unicodedata.category(c) in ("Cc", "Cs") for c in value)
            if not unicodedata.is_normalized("NFC", value):
                raise EncodeError("text is not in NFC")
        if not printable:
            raise EncodeError("control characters have no place in text")
        data = value.encode()
        if len(data) > self.limit:
            raise EncodeError(f"{len(data)} bytes of text, at most {self.limit}")
        return data

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        start = at + 2
        end = start + int.from_bytes(data[at:start], "big")
        if end > len(data):
            raise DecodeError("the bytes end early", len(data))
        raw = data[start:end]
        known = self.known.get(raw)
        if known is not None:
            return known, end
        try:
            value = raw.decode()
            self._checked(value)
        except UnicodeDecodeError:
            raise DecodeError("not UTF-8", start) from None
        except EncodeError as error:
            raise DecodeError(error.reason, start) from None
        self._remember(self.known, raw, value)
        return value, end


class ManyForm(Form):
    def __init__(self, limit: int, item: Form) -> None:
        self.limit, self.item = limit, item

    def write(self, value: Any, out: bytearray) -> None:
        if len(value) > self.limit:
            raise EncodeError(f"{len(value)} items, at most {self.limit}")
        out += len(value).to_bytes(4, "big")
        write = self.item.write
        try:
            for item in value:
                write(item, out)
        except EncodeError as error:
            # The first of its kind in the list, since an equal one before it would have failed there.
            error.under(f"[{next(i for i, one in enumerate(value) if one is item)}]")
            raise

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        start = at + 4
        count = int.from_bytes(data[at:start], "big")
        if start > len(data):
            raise DecodeError("the bytes end early", len(data))
        # Checked before the loop, so that a hostile count costs nothing.
        if count > self.limit:
            raise DecodeError(f"{count} items, at most {self.limit}", at)
        items: list[Any] = []
        read = self.item.read
        try:
            for _ in range(count):
                item, start = read(data, start)
                items.append(item)
        except DecodeError as error:
            error.under(f"[{len(items)}]")
            raise
        return tuple(items), start


class OptionalForm(Form):
    def __init__(self, item: Form) -> None:
        self.item = item

    def write(self, value: Any, out: bytearray) -> None:
        out.append(0 if value is None else 1)
        if value is not None:
            self.item.write(value, out)

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        if at >= len(data):
            raise DecodeError("the bytes end early", len(data))
        if data[at] == 0:
            return None, at + 1
        if data[at] != 1:
            raise DecodeError("presence is 0 or 1", at)
        return self.item.read(data, at + 1)


class ScalarForm(Form):
    """One fixed-width value standing alone, as an item or behind a presence byte."""

    def __init__(self, marker: Any) -> None:
        self.packed = PackedForm([("value", marker)])
        # The field that holds it puts its own name before the path.
        self.packed.names = [""]
        self.packed.single = lambda value: value

    def write(self, value: Any, out: bytearray) -> None:
        self.packed.write(value, out)

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        values, at = self.packed.read(data, at)
        return values[0], at


class StructForm(Form):
    """A dataclass: its fields in the order in which they are declared."""

    def __init__(self, cls: type) -> None:
        self.make: Callable[..., Any] = cls
        hints = get_type_hints(cls, include_extras=True)
        # A packed run has no name and no getter of its own: it names its fields and takes them from the whole.
        self.parts: list[tuple[str, Form]] = []
        self.writes: list[tuple[str, Callable[[Any], Any] | None, Callable[[Any, bytearray], None]]] = []
        self.reads: list[tuple[str, Callable[[bytes, int], tuple[Any, int]]]] = []
        run: list[tuple[str, Any]] = []
        for field in fields(cls):
            marker = _marker_of(hints[field.name])
            if _is_packed(marker):
                run.append((field.name, marker))
                continue
            self._close(run)
            run = []
            self._add(field.name, attrgetter(field.name), form_of(marker))
        self._close(run)

    def _close(self, run: list[tuple[str, Any]]) -> None:
        if run:
            self._add("", None, PackedForm(run))

    def _add(self, name: str, get: Callable[[Any], Any] | None, form: Form) -> None:
        self.parts.append((name, form))
        self.writes.append((name, get, form.write))
        self.reads.append((name, form.read))

    def write(self, value: Any, out: bytearray) -> None:
        try:
            for name, get, write in self.writes:  # noqa: B007 - the handler names it
                write(value if get is None else get(value), out)
        except EncodeError as error:
            error.under(name)
            raise

    def read_first(self, data: bytes, at: int) -> Any:
        """The first field alone, where it is a structure; what follows is not looked at."""
        name, form = self.parts[0]
        assert isinstance(form, StructForm)
        try:
            return form.read(data, at)[0]
        except DecodeError as error:
            error.under(name)
            raise

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        values: list[Any] = []
        try:
            for name, read in self.reads:
                value, at = read(data, at)
                if name:
                    values.append(value)
                else:
                    values.extend(value)
        except DecodeError as error:
            error.under(name)
            raise
        try:
            return self.make(*values), at
        except ValueError as error:  # a __post_init__ that refuses
            raise DecodeError(str(error), at) from None


def _code_of(marker: Any) -> str:
    """The struct code of a fixed-width field; a bool and an enum take one byte."""
    if isinstance(marker, Int):
        return marker.format
    return f"{marker.length}s" if isinstance(marker, Fixed) else "B"


def _misfit(code: str, value: Any) -> str | None:
    """Why the value does not fit its struct code."""
    try:
        struct.pack(">" + code, value)
    except struct.error as error:
        return str(error)
    return None


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
        marker = next(extra for extra in extras if isinstance(extra, Int | Fixed | Bytes | Text | Ascii | Many))
        return Many(marker.limit, _marker_of(get_args(base)[0])) if isinstance(marker, Many) else marker
    if origin in (Union, UnionType):
        (inner,) = (arg for arg in get_args(hint) if arg is not type(None))
        return (None, _marker_of(inner))
    if isinstance(hint, type) and (hint is bool or is_dataclass(hint) or issubclass(hint, enum.IntEnum)):
        return hint
    raise TypeError(f"{hint!r} names no wire form")


def form_of(marker: Any) -> Form:
    if isinstance(marker, tuple):
        return OptionalForm(form_of(marker[1]))
    if isinstance(marker, Many):
        return ManyForm(marker.limit, form_of(marker.item))
    if isinstance(marker, Bytes):
        return BytesForm(marker)
    if isinstance(marker, Text | Ascii):
        return TextForm(marker)
    if _is_packed(marker):
        return ScalarForm(marker)
    return StructForm(marker)
