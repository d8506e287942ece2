"""Fields of a later version, kept by a stage that makes a new message of an old one.

Protobuf keeps what it does not know in the message that it read. A stage answers with a message of another kind, whose
numbers mean other things, so what is unknown travels in a message of its own kind inside the new one. ADR 0023 says which
messages have such a place.
"""

from typing import TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


def unknown_of(message: M) -> M | None:
    """The message without the fields that this version knows; None where nothing is left. Empties the message given."""
    for field in message.DESCRIPTOR.fields:
        message.ClearField(field.name)
    return message if message.ByteSize() else None
