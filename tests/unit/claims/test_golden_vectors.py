"""Bytes that must decode for ever: the codec and the second decoder agree on each of them, and nothing near them decodes."""

import json
from functools import lru_cache
from itertools import pairwise
from typing import Any

import pytest

from claims.encoding import DecodeError
from tests.unit.claims import second_decoder
from tests.unit.claims.declared import codecs, plain
from tests.unit.claims.make_vectors import VECTORS, vectors


@lru_cache(maxsize=1)
def golden() -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = json.loads(VECTORS.read_text())
    return kept


def name_of(vector: dict[str, Any]) -> str:
    return f"{vector['structure']}-{vector['size']}"


@pytest.mark.parametrize("vector", golden(), ids=name_of)
def test_the_codec_decodes_and_encodes_the_vector(vector: dict[str, Any]) -> None:
    codec, data = codecs()[vector["structure"]], bytes.fromhex(vector["hex"])
    value = codec.decode(data)
    assert plain(value) == vector["value"]
    assert codec.encode(value) == data


@pytest.mark.parametrize("vector", golden(), ids=name_of)
def test_straight_code_and_forms_agree_on_the_vector(vector: dict[str, Any]) -> None:
    """The straight code gives up on none of them: what is valid never takes the slow way."""
    codec, data = codecs()[vector["structure"]], bytes.fromhex(vector["hex"])
    value, end = codec._read(data, len(codec._head))
    assert (value, end) == (codec.decode_carefully(data), len(data))
    assert type(value) is type(codec.decode_carefully(data))
    codec._write(value, out := bytearray(codec._head))
    assert bytes(out) == codec.encode_carefully(value) == data


@pytest.mark.parametrize("vector", golden(), ids=name_of)
def test_the_second_decoder_decodes_and_encodes_the_vector(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    assert second_decoder.decode(vector["structure"], data) == vector["value"]
    assert second_decoder.encode(vector["structure"], vector["value"]) == data


def test_there_are_vectors_of_every_codec_and_the_script_makes_the_same() -> None:
    assert {vector["structure"] for vector in golden()} == codecs().keys()
    assert vectors() == golden(), "a layout has changed: see make_vectors.py"


def by_codec(name: str, data: bytes) -> Any:
    """The value in plain form, None for bytes that are no encoding; what decodes must encode to the same bytes."""
    try:
        value = codecs()[name].decode(data)
    except DecodeError:
        return None
    assert codecs()[name].encode(value) == data
    return plain(value)


def by_page(name: str, data: bytes) -> Any:
    try:
        return second_decoder.decode(name, data)
    except second_decoder.RefusedError:
        return None


@pytest.mark.parametrize("vector", [v for v in golden() if v["size"] == "some"], ids=name_of)
def test_every_truncation_and_every_byte_more_is_refused(vector: dict[str, Any]) -> None:
    name, data = vector["structure"], bytes.fromhex(vector["hex"])
    changed = [data[:end] for end in range(len(data))] + [data + bytes((byte,)) for byte in range(256)]
    assert {(by_codec(name, one), by_page(name, one)) for one in changed} == {(None, None)}


@pytest.mark.parametrize("vector", [v for v in golden() if v["size"] == "some"], ids=name_of)
def test_a_changed_byte_is_another_value_or_none_for_both_decoders(vector: dict[str, Any]) -> None:
    name, data = vector["structure"], bytes.fromhex(vector["hex"])
    for position in range(len(data)):
        for flip in (0x01, 0xFF):
            changed = data[:position] + bytes((data[position] ^ flip,)) + data[position + 1 :]
            assert by_codec(name, changed) == by_page(name, changed) != vector["value"]


def test_the_vectors_of_one_structure_differ() -> None:
    ordered = sorted(golden(), key=lambda v: (v["structure"], v["hex"]))
    assert all(a["hex"] != b["hex"] for a, b in pairwise(ordered))
