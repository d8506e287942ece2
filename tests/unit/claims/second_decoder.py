"""A decoder and an encoder written from docs/ENCODING.md alone: section 1 by hand, the layouts from its tables.

Values are plain: dicts of fields, lists, ints, bools, strings, bytes as hex, enum members by name, None. It shares nothing
with the codec that it is compared with.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Any

from tests.unit.claims.encoding_page import read_page

INTEGERS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i32": 4, "i64": 8}


class RefusedError(Exception):
    """Bytes that the page does not allow."""


class _Input:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.position:
            raise RefusedError("end of bytes")
        self.position += count
        return self.data[self.position - count : self.position]

    def unsigned(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def limited(self, width: int, limit: int) -> int:
        count = self.unsigned(width)
        if count > limit:
            raise RefusedError(f"{count} is above {limit}")
        return count


def decode(structure: str, data: bytes) -> dict[str, Any]:
    """The value of a structure with a version byte."""
    source = _Input(data)
    if source.unsigned(1) != read_page().structures[structure].version:
        raise RefusedError("version")
    value = _read(structure, source)
    if source.position != len(data):
        raise RefusedError("bytes left over")
    assert isinstance(value, dict)
    return value


@lru_cache(maxsize=256)
def _form(kind: str) -> tuple[str, int, str]:
    """A type of the page as (what, bound, type inside)."""
    if kind in INTEGERS:
        return "integer", INTEGERS[kind], kind[0]
    if fixed := re.fullmatch(r"bytes\[(\d+)\]", kind):
        return "fixed", int(fixed[1]), ""
    if limited := re.fullmatch(r"(bytes|ascii|text) ≤ (\d+)", kind):
        return limited[1], int(limited[2]), ""
    if many := re.fullmatch(r"list ≤ (\d+) of (.+)", kind):
        return "list", int(many[1]), many[2]
    for what in ("optional", "enum"):
        if kind.startswith(f"{what} "):
            return what, 1, kind.removeprefix(f"{what} ")
    return "bool" if kind == "bool" else "structure", 1, kind


def _read(kind: str, source: _Input) -> Any:
    what, bound, inner = _form(kind)
    match what:
        case "integer":
            return int.from_bytes(source.take(bound), "big", signed=inner == "i")
        case "bool":
            return (False, True)[source.limited(1, 1)]
        case "fixed":
            return source.take(bound).hex()
        case "bytes":
            return source.take(source.limited(4, bound)).hex()
        case "ascii" | "text":
            return _text(what, source.take(source.limited(2, bound)))
        case "list":
            return [_read(inner, source) for _ in range(source.limited(4, bound))]
        case "optional":
            return _read(inner, source) if source.limited(1, 1) else None
        case "enum":
            return _member(inner, source.unsigned(1))
    return {name: _read(field, source) for name, field in read_page().structures[kind].fields}


def _member(name: str, value: int) -> str:
    members = read_page().enums[name]
    if value not in members:
        raise RefusedError(f"{value} is not in {name}")
    return members[value]


def _text(kind: str, data: bytes) -> str:
    if kind == "ascii":
        if any(not 0x20 <= byte <= 0x7E for byte in data):
            raise RefusedError("not printable ASCII")
        return data.decode("ascii")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise RefusedError("not UTF-8") from None
    if unicodedata.normalize("NFC", text) != text or any(unicodedata.category(c) in {"Cc", "Cs"} for c in text):
        raise RefusedError("not NFC, or a control character")
    return text


def encode(structure: str, value: dict[str, Any]) -> bytes:
    """The bytes of a plain value."""
    version = read_page().structures[structure].version
    assert version is not None
    return bytes((version,)) + _write(structure, value)


def _write(kind: str, value: Any) -> bytes:
    what, bound, inner = _form(kind)
    match what:
        case "integer":
            return int(value).to_bytes(bound, "big", signed=inner == "i")
        case "bool":
            return b"\x01" if value else b"\x00"
        case "fixed":
            return bytes.fromhex(value)
        case "bytes":
            return _behind_length(4, bytes.fromhex(value))
        case "ascii" | "text":
            return _behind_length(2, value.encode())
        case "list":
            return len(value).to_bytes(4, "big") + b"".join(_write(inner, item) for item in value)
        case "optional":
            return b"\x00" if value is None else b"\x01" + _write(inner, value)
        case "enum":
            return bytes(number for number, name in read_page().enums[inner].items() if name == value)
    return b"".join(_write(field, value[name]) for name, field in read_page().structures[kind].fields)


def _behind_length(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width, "big") + data
