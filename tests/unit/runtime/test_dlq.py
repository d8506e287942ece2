"""What is kept of a record that is set aside, and what is read back of a letter that anybody may have written."""

from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from runtime.dlq import _letter, dead_letter
from runtime.kafka import MAX_RECORD_BYTES, SEALING_BYTES
from runtime.stage import DataError
from tests.unit.runtime.test_topic_keys import WRITER, keys


def record(key: bytes | None = b"k", value: bytes | None = b"v", headers: Any = ()) -> Any:
    return ConsumerRecord("t", 1, 7, 0, 0, key, value, None, -1, -1, headers)


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (bytes(1_000_000), b"", ()),
        (b"", bytes(1_040_000), ()),
        (bytes(140_000), bytes(900_000), (("h", bytes(16_000)),)),
        (b"k", b"v", tuple((f"h{number}", bytes(100)) for number in range(2_000))),
    ],
    ids=["key", "value", "all of it", "headers"],
)
def test_the_letter_of_whatever_kafka_takes_is_taken_too_and_says_that_it_is_not_whole(
    key: bytes, value: bytes, headers: Any
) -> None:
    """Else the stage would end at that record each time."""
    out = dead_letter(record(key, value, headers), DataError("x" * 1_000), "stage")
    assert out.value is not None
    sealed = out.value + bytes(SEALING_BYTES)
    assert DefaultRecordBatchBuilder.estimate_size_in_bytes(out.key, sealed, list(out.headers)) < MAX_RECORD_BYTES
    assert dict(out.headers)["dlq-cut"] == b"1"


def test_a_header_of_kafka_may_be_null() -> None:
    out = dead_letter(record(headers=(("empty", None), ("key-id", b"x"))), DataError("no"), "stage")
    assert {("orig-empty", b""), ("orig-key-id", b"x"), ("dlq-cut", b"")} <= set(out.headers)


def test_a_letter_that_nobody_here_wrote_is_listed_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    """One of them must not hide the others."""
    headers = (("dlq-partition", b"first"), ("dlq-offset", None), ("dlq-stage", b"\xff"), ("orig-a", None))
    written = record(value=b"not sealed", headers=headers)
    found = _letter(written, {name: content or b"" for name, content in headers}, keys(tmp_path, "a/writer", WRITER))
    assert (found.partition, found.offset, found.headers, found.value) == (0, -1, (("a", b""),), b"")
