"""Fields that a schema does not have, found by number: a client that sets what only the system may set has made a mistake
that silence would hide.

At the public edge they are refused; inside the pipeline they are kept. Source: security.md, B4.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from runtime.errors import InvalidArgumentError, Violation

RULE: Final = "request.unknown_field"
MOST_ITEMS: Final = 50
"""Longer lists are not looked into; whoever allows more items judges each of them by itself."""


def unknown_fields(message: Message, path: str = "", *, deep: bool = True) -> Iterator[tuple[str, str]]:
    """Path and description of each of them, here and, where `deep`, in every message below."""
    if deep and not _has_unknown(message):
        return
    unknown: Any = UnknownFieldSet(message)
    for index in range(len(unknown)):
        yield path or "request", f"field number {unknown[index].field_number} is not one of {message.DESCRIPTOR.name}'s"
    if deep:
        for below, place in _messages_in(message, path):
            yield from unknown_fields(below, place)


def refuse_unknown_fields(message: Message) -> None:
    """Raises InvalidArgumentError naming each."""
    found = [Violation(path, description, RULE) for path, description in unknown_fields(message)]
    if found:
        raise InvalidArgumentError(f"{found[0].field}: {found[0].description}", violations=found[:MOST_ITEMS])


def _has_unknown(message: Message) -> bool:
    """Whether anything is lost without them; most messages have none, and looking into each part of them takes long."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return known.ByteSize() != message.ByteSize()


def _messages_in(message: Message, path: str) -> Iterator[tuple[Message, str]]:
    """The messages right below one, with their paths."""
    for name, repeated in _message_fields(message.DESCRIPTOR):
        place = f"{path}.{name}" if path else name
        if repeated:
            items = getattr(message, name)
            yield from ((item, f"{place}[{i}]") for i, item in enumerate(items if len(items) <= MOST_ITEMS else ()))
        elif message.HasField(name):
            yield getattr(message, name), place


@cache
def _message_fields(descriptor: Any) -> tuple[tuple[str, bool], ...]:
    """The fields of a message type that hold messages: name, and whether repeated."""
    return tuple((f.name, bool(f.is_repeated)) for f in descriptor.fields if f.message_type is not None)
