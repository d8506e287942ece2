"""What an id and a digest cover."""

from dataclasses import fields, replace
from typing import Any

import pytest

from ledger_commit.consensus.messages import (
    HEADER,
    ZERO,
    Batch,
    BatchRef,
    Header,
    batch_digest,
    batch_message,
    batches_root,
    block_id,
    certificate_digest,
    commit_digest,
)
from tests.fixtures.consensus import CHAIN_ID, GENESIS_QC, batch, block, certify, chain, time_out

FIELDS = [field.name for field in fields(Header)]


@pytest.mark.parametrize("name", FIELDS)
def test_a_block_id_covers_every_field_of_its_header(name: str) -> None:
    header = block(None, 1).header
    value = getattr(header, name)
    changed: dict[str, Any] = {name: bytes([7]) * 32 if isinstance(value, bytes) else value + 1}
    other = replace(header, **changed)
    assert block_id(other) != block_id(header)


def test_a_header_has_a_fixed_width() -> None:
    assert {len(HEADER.encode(b.header)) for b in chain(1, 2, 4)} == {413}


def test_a_block_id_does_not_cover_the_proposers_signature() -> None:
    assert block_id(replace(block(None, 1), signature=bytes(96)).header) == block_id(block(None, 1).header)


def test_a_batch_digest_covers_all_but_the_signature() -> None:
    made = Batch(1, 1, 3, 2, (b"a", b"bc"), bytes(64))
    assert batch_digest(replace(made, signature=b"\x01" * 64)) == batch_digest(made)
    others = (
        replace(made, member=2),
        replace(made, incarnation=2),
        replace(made, seq=4),
        replace(made, count=3),
        replace(made, records=(b"ab", b"c")),
    )
    assert len({batch_digest(each) for each in (made, *others)}) == 6


def test_a_lane_signs_the_place_and_the_digest_of_its_batch() -> None:
    """Two for one place show without their records; `count` and `size_bytes` are what a block names of them."""
    ref = batch(1, 3)
    others = []
    for field in fields(BatchRef):
        changed: Any = bytes(32) if field.name == "digest" else getattr(ref, field.name) + 1
        others.append(replace(ref, **{field.name: changed}))
    told = {batch_message(CHAIN_ID, each) for each in (ref, *others)}
    assert len(told | {batch_message(bytes(32), ref)}) == len(others) + 2


def test_a_payload_root_covers_which_batches_in_which_order() -> None:
    one, two = batch(0, 1), batch(1, 1)
    roots = {batches_root(refs) for refs in ((), (one,), (one, two), (two, one), (replace(one, count=1),))}
    assert len(roots) == 5
    assert batches_root(()) == ZERO


def test_no_certificate_has_the_digest_of_zeros() -> None:
    first = block(None, 1)
    digests = [
        certificate_digest(c) for c in (None, GENESIS_QC, certify(first), certify(first, (1, 2, 3)), time_out(1))
    ]
    assert digests[0] == ZERO
    assert len(set(digests)) == 5


def test_a_commit_digest_names_epoch_height_block_and_round() -> None:
    told = [
        (0, 5, ZERO, 7),
        (1, 5, ZERO, 7),
        (0, 6, ZERO, 7),
        (0, 5, b"\x01" * 32, 7),
        (0, 5, ZERO, 8),
        (5, 0, ZERO, 7),
    ]
    assert len({commit_digest(*each) for each in told}) == len(told)
