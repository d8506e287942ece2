"""Opaque tokens for pages and streams: a number behind a word that says what it counts, in base64url."""

import base64
import binascii
from typing import Final

from runtime.errors import InvalidArgumentError, Violation

_LARGEST: Final = 2**63 - 1


def token(kind: str, position: int) -> str:
    """The token of a position."""
    return base64.urlsafe_b64encode(f"{kind}:{position}".encode()).decode().rstrip("=")


def position(kind: str, text: str, field: str) -> int:
    """The position of a token, 0 for an empty one. Raises InvalidArgumentError for what we never gave out."""
    if not text:
        return 0
    try:
        word, number = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)).decode("ascii").split(":")
        value = int(number) if number.isdigit() and len(number) < 20 else -1
    except (ValueError, binascii.Error):
        word, value = "", -1
    if word != kind or not 0 <= value <= _LARGEST:
        raise InvalidArgumentError(
            f"{field}: not a token of this service", violations=[Violation(field, "not a token of this service")]
        )
    return value
