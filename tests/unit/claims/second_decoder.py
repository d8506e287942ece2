"""A decoder and an encoder written from docs/ENCODING.md alone: section 1 by hand, the layouts from its tables.

Values are plain: dicts of fields, lists, ints, bools, strings, bytes as hex, enum members by name, None. It shares nothing
with the codec that it is compared with.
"""

import re
import unicodedata
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


def _read(kind: str, source: _Input) -> Any:
    if kind in INTEGERS:
        return int.from_bytes(source.take(INTEGERS[kind]), "big", signed=kind[0] == "i")
    if kind == "bool":
        return (False, True)[source.limited(1, 1)]
    if fixed := re.fullmatch(r"bytes\[(\d+)\]", kind):
        return source.take(int(fixed[1])).hex()
    if limited := re.fullmatch(r"(bytes|ascii|text) ≤ (\d+)", kind):
        data = source.take(source.limited(4 if limited[1] == "bytes" else 2, int(limited[2])))
        return data.hex() if limited[1] == "bytes" else _text(limited[1], data)
    if many := re.fullmatch(r"list ≤ (\d+) of (.+)", kind):
        return [_read(many[2], source) for _ in range(source.limited(4, int(many[1])))]
    if kind.startswith("optional "):
        return _read(kind.removeprefix("optional "), source) if source.limited(1, 1) else None
    if kind.startswith("enum "):
        members = read_page().enums[kind.removeprefix("enum ")]
        value = source.unsigned(1)
        if value not in members:
            raise RefusedError(f"{value} is not in {kind}")
        return members[value]
    return {name: _read(inner, source) for name, inner in read_page().structures[kind].fields}


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
    if kind in INTEGERS:
        return int(value).to_bytes(INTEGERS[kind], "big", signed=kind[0] == "i")
    if kind == "bool":
        return b"\x01" if value else b"\x00"
    if kind.startswith("bytes["):
        return bytes.fromhex(value)
    if kind.startswith("bytes "):
        return _behind_length(4, bytes.fromhex(value))
    if kind.startswith(("ascii ", "text ")):
        return _behind_length(2, value.encode())
    if many := re.fullmatch(r"list ≤ \d+ of (.+)", kind):
        return len(value).to_bytes(4, "big") + b"".join(_write(many[1], item) for item in value)
    if kind.startswith("optional "):
        return b"\x00" if value is None else b"\x01" + _write(kind.removeprefix("optional "), value)
    if kind.startswith("enum "):
        numbers = {name: number for number, name in read_page().enums[kind.removeprefix("enum ")].items()}
        return bytes((numbers[value],))
    return b"".join(_write(inner, value[name]) for name, inner in read_page().structures[kind].fields)


def _behind_length(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width, "big") + data
