"""Hypothesis strategies for any declared type, from its annotations."""

import enum
import unicodedata
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from hypothesis import strategies as st

from claims.encoding import Ascii, Bytes, Fixed, Int, Many, Text
from tests.unit.claims.declared import hints_of

PRINTABLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E)


def values(hint: Any) -> st.SearchStrategy[Any]:
    if get_origin(hint) is Annotated:
        base, marker = get_args(hint)
        return _marked(marker, base)
    if get_origin(hint) in {Union, UnionType}:
        (inner,) = (arg for arg in get_args(hint) if arg is not type(None))
        return st.none() | values(inner)
    if hint is bool:
        return st.booleans()
    if issubclass(hint, enum.IntEnum):
        return st.sampled_from(list(hint))
    return st.builds(hint, **{name: values(inner) for name, inner in hints_of(hint).items()})


def _marked(marker: Any, base: Any) -> st.SearchStrategy[Any]:
    match marker:
        case Int():
            low = -(2 ** (8 * marker.width - 1)) if marker.signed else 0
            return st.integers(low, low + 2 ** (8 * marker.width) - 1)
        case Fixed():
            return st.binary(min_size=marker.length, max_size=marker.length)
        case Bytes():
            return st.binary(max_size=min(marker.limit, 40))
        case Ascii():
            return st.text(PRINTABLE, max_size=min(marker.limit, 40))
        case Text():
            return text_within(marker.limit)
        case Many():
            items = values(get_args(base)[0])
            return st.lists(items, max_size=min(marker.limit, 3)).map(tuple)
    raise TypeError(marker)


def text_within(limit: int) -> st.SearchStrategy[str]:
    """NFC text of at most so many bytes."""
    letters = st.characters(exclude_categories=("Cc", "Cs"))
    composed = st.text(letters, max_size=min(limit, 30)).map(lambda s: unicodedata.normalize("NFC", s))
    return composed.filter(lambda s: len(s.encode()) <= limit)
