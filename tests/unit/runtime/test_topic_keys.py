"""A sealed value opens for its recipients, as what it was sealed as, and for nothing and nobody else."""

import datetime
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from runtime.topic_keys import NONCE_BYTES, NONCES_AT_ONCE, SealedValueError, TopicKeys, additional_data

NOON = datetime.datetime(2026, 3, 4, 12, tzinfo=datetime.UTC).timestamp()
WRITER, READER, STRANGER = (X25519PrivateKey.generate() for _ in range(3))


def keys(directory: Path, name: str, private: X25519PrivateKey, at: float = NOON) -> TopicKeys:
    wraps = {n: k.public_key().public_bytes_raw().hex() for n, k in (("a/writer", WRITER), ("b/reader", READER))}
    return TopicKeys(directory, name, private, lambda _: wraps, lambda: at)


def kind(error: pytest.ExceptionInfo[SealedValueError]) -> str:
    return error.value.kind


def test_a_recipient_opens_it_and_the_value_is_not_in_clear(tmp_path: Path) -> None:
    value, headers = keys(tmp_path, "a/writer", WRITER).seal("t", b"k", "s", b"a claim")
    assert b"a claim" not in value
    assert keys(tmp_path, "b/reader", READER).open("t", b"k", "s", value, headers) == b"a claim"


@pytest.mark.parametrize(("topic", "key", "schema"), [("t", b"other", "s"), ("t", None, "s"), ("t", b"k", "other")])
def test_it_is_bound_to_key_and_schema(tmp_path: Path, topic: str, key: bytes | None, schema: str) -> None:
    value, headers = keys(tmp_path, "a/writer", WRITER).seal("t", b"k", "s", b"a claim")
    with pytest.raises(SealedValueError) as error:
        keys(tmp_path, "b/reader", READER).open(topic, key, schema, value, headers)
    assert kind(error) == "bad-tag"


def test_another_topics_key_is_another_key(tmp_path: Path) -> None:
    writer = keys(tmp_path, "a/writer", WRITER)
    value, headers = writer.seal("t", b"k", "s", b"a claim")
    writer.seal("u", b"k", "s", b"")
    with pytest.raises(SealedValueError) as error:
        writer.open("u", b"k", "s", value, headers)
    assert kind(error) == "unknown-key"


def test_every_flipped_bit_of_the_value_is_noticed(tmp_path: Path) -> None:
    writer = keys(tmp_path, "a/writer", WRITER)
    value, headers = writer.seal("t", b"k", "s", b"a claim")
    for position in range(len(value)):
        flipped = bytes(b ^ (i == position) for i, b in enumerate(value))
        with pytest.raises(SealedValueError):
            writer.open("t", b"k", "s", flipped, headers)


def test_no_nonce_is_used_twice_and_another_writer_has_others(tmp_path: Path) -> None:
    """Also across the refill of what was drawn from the system at once."""
    writers = [keys(tmp_path, "a/writer", WRITER) for _ in range(2)]
    count = 2 * NONCES_AT_ONCE + 1
    nonces = {writer.seal("t", b"k", "s", b"")[0][:NONCE_BYTES] for writer in writers for _ in range(count)}
    assert len(nonces) == 2 * count


def test_a_stranger_is_told_so(tmp_path: Path) -> None:
    value, headers = keys(tmp_path, "a/writer", WRITER).seal("t", b"k", "s", b"a claim")
    for name, expected in (("c/stranger", "not-a-recipient"), ("b/reader", "bad-wrap")):
        with pytest.raises(SealedValueError) as error:
            keys(tmp_path, name, STRANGER).open("t", b"k", "s", value, headers)
        assert kind(error) == expected


@pytest.mark.parametrize("header", [b"", b"2026-03-04", b"../../etc.00", b"2026-03-05.00000000", b"\xff", None])
def test_a_wrong_key_id_is_refused(tmp_path: Path, header: Any) -> None:
    """A header of Kafka may be null."""
    writer = keys(tmp_path, "a/writer", WRITER)
    value, _ = writer.seal("t", b"k", "s", b"a claim")
    with pytest.raises(SealedValueError) as error:
        writer.open("t", b"k", "s", value, [("key-id", header)])
    assert kind(error) in {"no-key-id", "unknown-key"}


def test_creators_at_the_same_moment_share_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        sealed = list(pool.map(lambda _: keys(tmp_path, "a/writer", WRITER).seal("t", b"k", "s", b"x"), range(16)))
    assert len({headers[0][1] for _, headers in sealed}) == 1
    assert [p.name for p in (tmp_path / "t").iterdir()] == ["2026-03-04.json"]


def test_the_day_decides_the_key_and_a_forgotten_day_stays_shut(tmp_path: Path) -> None:
    value, headers = keys(tmp_path, "a/writer", WRITER).seal("t", b"k", "s", b"old")
    tomorrow = keys(tmp_path, "a/writer", WRITER, NOON + 86_400)
    assert tomorrow.seal("t", b"k", "s", b"new")[1] != headers
    assert tomorrow.open("t", b"k", "s", value, headers) == b"old"
    (tmp_path / "t" / "2026-03-04.json").unlink()
    with pytest.raises(SealedValueError) as error:
        keys(tmp_path, "b/reader", READER).open("t", b"k", "s", value, headers)
    assert kind(error) == "unknown-key"


def test_the_key_file_holds_only_wraps(tmp_path: Path) -> None:
    keys(tmp_path, "a/writer", WRITER).seal("t", b"k", "s", b"x")
    assert set(json.loads((tmp_path / "t" / "2026-03-04.json").read_text())["wraps"]) == {"a/writer", "b/reader"}


def test_additional_data_has_one_reading() -> None:
    assert additional_data("ab", b"c", "d") != additional_data("a", b"bc", "d")
