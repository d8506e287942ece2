"""The codec: one byte string for a value, one value for a byte string, and errors that say where."""

import enum
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claims import forms
from claims.encoding import (
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Ascii,
    Bytes,
    Codec,
    DecodeError,
    EncodeError,
    Fixed,
    Many,
    Text,
)
from tests.unit.claims import second_decoder
from tests.unit.claims.declared import codecs, plain, structures
from tests.unit.claims.drawn import text_within, values

BOUNDED = settings(max_examples=15, deadline=None)


class Colour(enum.IntEnum):
    RED = 1
    BLUE = 7


@dataclass(frozen=True, slots=True)
class Inner:
    flag: bool
    colour: Colour
    amount: Annotated[int, I64]
    note: Annotated[str, Text(8)]

    def __post_init__(self) -> None:
        if self.note == "refused":
            raise ValueError("this note is refused")


@dataclass(frozen=True, slots=True)
class Outer:
    small: Annotated[int, U8]
    medium: Annotated[int, U16]
    large: Annotated[int, U32]
    largest: Annotated[int, U64]
    day: Annotated[int, I32]
    digest: Annotated[bytes, Fixed(4)]
    label: Annotated[str, Ascii(6)]
    blob: Annotated[bytes, Bytes(5)]
    maybe: Annotated[int, U16] | None
    inner: Inner
    many: Annotated[tuple[Inner, ...], Many(3)]
    grid: Annotated[tuple[Annotated[tuple[Colour, ...], Many(2)], ...], Many(2)]


OUTER = Codec(Outer)
INNER = Inner(True, Colour.BLUE, -5, "é")
VALUE = Outer(1, 2, 3, 4, -1, b"abcd", "lab", b"\x00\x01", 9, INNER, (INNER, INNER), ((Colour.RED,), ()))
BYTES = OUTER.encode(VALUE)


def changed(**fields: Any) -> Outer:
    return replace(VALUE, **fields)


def in_second_item(**fields: Any) -> Outer:
    return changed(many=(INNER, replace(INNER, **fields)))


@pytest.mark.parametrize("name", sorted(codecs()))
def test_every_record_comes_back_from_its_bytes_and_the_second_decoder_reads_the_same(name: str) -> None:
    codec = codecs()[name]

    @BOUNDED
    @given(values(structures()[name]))
    def holds(value: Any) -> None:
        data = codec.encode(value)
        assert codec.decode(data) == value
        assert second_decoder.decode(name, data) == plain(value)
        assert second_decoder.encode(name, plain(value)) == data

    holds()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_what_decodes_at_all_encodes_to_the_same_bytes(data: bytes) -> None:
    for head in (b"", BYTES[:1], BYTES[:30], BYTES[:-3]):
        try:
            value = OUTER.decode(head + data)
        except DecodeError:
            continue
        assert OUTER.encode(value) == head + data


@settings(max_examples=30, deadline=None)
@given(values(Outer), st.integers(1, 255))
def test_truncations_and_trailing_bytes_are_refused(value: Outer, byte: int) -> None:
    data = OUTER.encode(value)
    for end in range(len(data)):
        with pytest.raises(DecodeError):
            OUTER.decode(data[:end])
    with pytest.raises(DecodeError, match="left over"):
        OUTER.decode(data + bytes((byte,)))


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (changed(small=-1), "small"),
        (changed(small=256), "small"),
        (changed(medium=2**16), "medium"),
        (changed(large=2**32), "large"),
        (changed(largest=2**64), "largest"),
        (changed(largest=-1), "largest"),
        (changed(day=2**31), "day"),
        (changed(day=-(2**31) - 1), "day"),
        (changed(day=1.0), "day"),
        (changed(maybe=2**16), "maybe"),
        (changed(inner=replace(INNER, amount=2**63)), "inner.amount"),
        (in_second_item(amount=-(2**63) - 1), "many[1].amount"),
    ],
)
def test_a_number_out_of_range_has_no_encoding_and_its_field_is_named(value: Outer, path: str) -> None:
    with pytest.raises(EncodeError) as caught:
        OUTER.encode(value)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (changed(digest=b"abc"), "digest: 3 bytes where 4 are due"),
        (changed(digest=b"abcde"), "digest: 5 bytes where 4 are due"),
        (changed(blob=bytes(6)), "blob: 6 bytes, at most 5"),
        (changed(label="seven77"), "label: 7 bytes of text, at most 6"),
        (changed(label="é"), "label: only ASCII has a place here"),
        (changed(label="a\n"), "label: control characters have no place in text"),
        (changed(label="\x7f"), "label: control characters have no place in text"),
        (in_second_item(note="e\u0301"), "many[1].note: text is not in NFC"),
        (in_second_item(note="\x85é"), "many[1].note: control characters have no place in text"),
        (in_second_item(note="\ud800"), "many[1].note: control characters have no place in text"),
        (in_second_item(note="éééé1"), "many[1].note: 9 bytes of text, at most 8"),
        (in_second_item(flag=1), "many[1].flag: 1 is no bool"),
        (in_second_item(colour=7), "many[1].colour: 7 is no Colour"),
        (changed(many=(INNER,) * 4), "many: 4 items, at most 3"),
        (changed(grid=((), (Colour.RED, 1))), "grid[1][1]: 1 is no Colour"),
    ],
)
def test_what_the_layout_does_not_allow_has_no_encoding(value: Outer, message: str) -> None:
    with pytest.raises(EncodeError) as caught:
        OUTER.encode(value)
    assert str(caught.value) == message


def spoiled(before: bytes, after: bytes) -> bytes:
    """The sample's bytes with one place changed; the place stands there once."""
    assert BYTES.count(before) == 1
    return BYTES.replace(before, after)


LABEL, FIRST_INNER = b"\x00\x03lab", b"\x00\x00\x00\x02\x01\x07"
"""Where the label stands, and the count of `many` with the beginning of its first item."""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "version missing, not 1 at byte 0"),
        (b"\x02" + BYTES[1:], "version 2, not 1 at byte 0"),
        (BYTES[:3], "medium: the bytes end early at byte 3"),
        (BYTES[:24], "label: the bytes end early at byte 24"),
        (BYTES[:25], "label: the bytes end early at byte 25"),
        (BYTES[: BYTES.index(LABEL) + 10], "blob: the bytes end early at byte 34"),
        (BYTES[: BYTES.index(LABEL) + 8], "blob: the bytes end early at byte 32"),
        (BYTES[: BYTES.index(LABEL) + 7], "blob: the bytes end early at byte 31"),
        (BYTES[: BYTES.index(LABEL) + 11], "maybe: the bytes end early at byte 35"),
        (BYTES[: BYTES.index(FIRST_INNER) + 2], "many: the bytes end early at byte 54"),
        (BYTES[: BYTES.index(FIRST_INNER) + 9], "many[0].amount: the bytes end early at byte 61"),
        (spoiled(LABEL, b"\x00\x07seven77"), "label: 7 bytes of text, at most 6 at byte 26"),
        (spoiled(LABEL, b"\x00\x02\xc3\xa9"), "label: only ASCII has a place here at byte 26"),
        (spoiled(LABEL, b"\x00\x01\xff"), "label: not UTF-8 at byte 26"),
        (
            spoiled(b"\x00\x00\x00\x02\x00\x01\x01\x00\x09", b"\x00\x00\x00\x06123456"),
            "blob: 6 bytes, at most 5 at byte 29",
        ),
        (spoiled(b"\x00\x01\x01\x00\x09", b"\x00\x01\x02\x00\x09"), "maybe: presence is 0 or 1 at byte 35"),
        (spoiled(FIRST_INNER, b"\x00\x00\x00\x02\x02\x07"), "many[0].flag: a bool is 0 or 1 at byte 56"),
        (spoiled(FIRST_INNER, b"\x00\x00\x00\x02\x01\x02"), "many[0].colour: unknown Colour 2 at byte 57"),
        (spoiled(FIRST_INNER, b"\xff\xff\xff\xff\x01\x07"), "many: 4294967295 items, at most 3 at byte 52"),
        (BYTES[:-5] + b"\x09" + BYTES[-4:], "grid[0][0]: unknown Colour 9 at byte 92"),
        (BYTES + b"\x00", "1 bytes left over at byte 97"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_bytes_that_are_no_encoding_are_refused_with_field_and_offset(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        OUTER.decode(data)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["e\u0301", "\u1112\u1161\u11ab", "\u212b", "a\u0323\u0307\u0301"])
def test_text_that_is_not_composed_is_refused_in_bytes_too(text: str) -> None:
    """Otherwise the same name would have two encodings."""
    codec = Codec(Inner)
    composed = codec.encode(replace(INNER, note=unicodedata.normalize("NFC", text)))
    head = composed[:11]
    raw = text.encode()
    with pytest.raises(DecodeError, match=r"note: (text is not in NFC|\d+ bytes of text)"):
        codec.decode(head + len(raw).to_bytes(2, "big") + raw)


@pytest.mark.parametrize("raw", [b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"])
def test_bytes_that_are_not_utf_8_are_refused(raw: bytes) -> None:
    head = Codec(Inner).encode(replace(INNER, note=""))[:11]
    with pytest.raises(DecodeError, match="note: not UTF-8"):
        Codec(Inner).decode(head + len(raw).to_bytes(2, "big") + raw)


@BOUNDED
@given(st.lists(text_within(8), max_size=20))
def test_short_texts_that_are_remembered_stay_what_they_were(texts: list[str]) -> None:
    """Values that repeat come from a table; the second time they are the same bytes and the same text."""
    codec = Codec(Inner)
    twice = [codec.encode(replace(INNER, note=text)) for text in texts * 2]
    assert twice[: len(texts)] == twice[len(texts) :]
    assert [codec.decode(data).note for data in twice] == texts * 2


def test_the_table_of_remembered_texts_is_bounded() -> None:
    form = forms.TextForm(Text(forms.CACHED_TEXT_LIMIT))
    for number in range(3 * forms.CACHED_TEXTS):
        form.write(f"text {number}", out := bytearray())
        assert form.read(bytes(out), 0) == (f"text {number}", len(out))
        assert max(len(form.written), len(form.known)) <= forms.CACHED_TEXTS
    long = forms.TextForm(Text(forms.CACHED_TEXT_LIMIT + 1))
    long.write("people's names are not kept", out := bytearray())
    assert long.read(bytes(out), 0)[0] == "people's names are not kept"
    assert not long.written
    assert not long.known


def test_a_value_that_its_class_refuses_is_no_encoding() -> None:
    data = Codec(Inner).encode(replace(INNER, note="refuse"))
    with pytest.raises(DecodeError, match="this note is refused at byte 20"):
        Codec(Inner).decode(data.replace(b"\x00\x06refuse", b"\x00\x07refused"))


def told(decode: Callable[[bytes], Any], data: bytes) -> Any:
    """The value, or what is said of bytes that are none."""
    try:
        return decode(data)
    except DecodeError as error:
        return str(error)


@BOUNDED
@given(values(Outer), st.binary(max_size=6), st.integers(0, 200), st.integers(0, 6))
def test_straight_code_accepts_nothing_that_the_forms_refuse(value: Outer, junk: bytes, at: int, gone: int) -> None:
    codec = Codec(Outer)
    data = codec.encode(value)
    assert data == codec.encode_carefully(value)
    spoilt = data[:at] + junk + data[at + gone :]
    assert told(codec.decode, spoilt) == told(codec.decode_carefully, spoilt)


def test_a_structure_without_a_version_byte_begins_with_its_first_field() -> None:
    bare = Codec(Inner, version=None)
    assert b"\x01" + bare.encode(INNER) == Codec(Inner).encode(INNER)
    assert bare.decode(bare.encode(INNER)) == INNER


@dataclass(frozen=True, slots=True)
class Loose:
    anything: dict[str, int]


@dataclass(frozen=True, slots=True)
class Lonely:
    """One packed field before one that is not, and nothing packed at the end."""

    number: Annotated[int, U8]
    text: Annotated[str, Text(4)]


def test_an_annotation_without_a_wire_form_is_refused_when_the_codec_is_made() -> None:
    with pytest.raises(TypeError, match="names no wire form"):
        Codec(Loose)


def test_a_single_packed_field_is_located_too() -> None:
    codec = Codec(Lonely)
    assert codec.decode(codec.encode(Lonely(3, "abc"))) == Lonely(3, "abc")
    with pytest.raises(EncodeError, match=r"^number: "):
        codec.encode(Lonely(300, ""))


def test_an_error_of_the_whole_has_no_path() -> None:
    assert str(EncodeError("no place")) == "no place"
    assert str(DecodeError("no place", 3)) == "no place at byte 3"
