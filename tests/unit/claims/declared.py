"""What the code declares: every codec of a lasting record, its layout in the page's words, and values in plain form."""

import dataclasses
import enum
import importlib
from collections.abc import Iterator
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from claims.encoding import Ascii, Bytes, Codec, Fixed, Int, Many, Text
from tests.unit.claims.encoding_page import read_page

MODULES = (
    "claims.claim",
    "claims.rejection",
    "claims.result",
    "claims.transaction",
    "ledger_commit.consensus.messages",
    "ledger_commit.consensus.evidence",
    "ledger_commit.consensus.events",
    "claim_intake.envelope",
)
"""Where lasting records are declared."""
PRIVATE_MODULES = ("validation.history", "fraud_scoring.features")
"""Where a service declares state of its own (section 11 of the page)."""


def class_at(path: str) -> type:
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, type)
    return found


@lru_cache(maxsize=1)
def structures() -> dict[str, type]:
    """The page's structures and the classes that they name."""
    return {name: class_at(structure.code) for name, structure in read_page().structures.items()}


@lru_cache(maxsize=1)
def codecs() -> dict[str, Codec[Any]]:
    """By the page's name: each codec of the modules above."""
    names = {cls: name for name, cls in structures().items()}
    return {names[cls]: codec for module in MODULES for cls, codec in codecs_in(module)}


def codecs_in(module: str) -> Iterator[tuple[type, Codec[Any]]]:
    for value in vars(importlib.import_module(module)).values():
        if isinstance(value, Codec):
            yield value._form.make, value  # type: ignore[misc]


def wire_type(hint: Any) -> str:
    """An annotation in the page's words."""
    names = {cls: name for name, cls in structures().items()}
    if get_origin(hint) is Annotated:
        base, marker = get_args(hint)
        match marker:
            case Int():
                return f"{'i' if marker.signed else 'u'}{8 * marker.width}"
            case Fixed():
                return f"bytes[{marker.length}]"
            case Bytes() | Text() | Ascii():
                return f"{type(marker).__name__.lower()} ≤ {marker.limit}"
            case Many():
                return f"list ≤ {marker.limit} of {wire_type(get_args(base)[0])}"
    if get_origin(hint) in {Union, UnionType}:
        (inner,) = (arg for arg in get_args(hint) if arg is not type(None))
        return f"optional {wire_type(inner)}"
    if issubclass(hint, enum.IntEnum):
        return f"enum {hint.__name__}"
    return "bool" if hint is bool else names[hint]


def hints_of(cls: type) -> dict[str, Any]:
    """Field name → annotation, in order of declaration."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def plain(value: Any) -> Any:
    """A value in the form of the second decoder."""
    match value:
        case bytes():
            return value.hex()
        case enum.IntEnum():
            return value.name
        case tuple():
            return [plain(item) for item in value]
        case _ if dataclasses.is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value
