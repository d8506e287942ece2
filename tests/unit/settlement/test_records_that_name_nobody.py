"""A record that is not authentic is dropped whole: no result, no version spent."""

import hashlib
from typing import Any

import pytest

from claims.transaction import (
    ENTRY_SCORED_RECORD,
    RECORD,
    SCORED_RECORD,
    Kind,
    Prefix,
    Record,
    ScoredRecord,
    record_message,
    scoring_message,
)
from tests.fixtures.ledger_world import (
    CHAIN_ID,
    PRICING_KEY,
    SCORING_KEY,
    ZERO,
    LedgerWorld,
    claim,
    line,
    private_key,
)


def entry(bits: bytes = b"\0", scoring_key: int = SCORING_KEY, **changes: Any) -> bytes:
    usual: dict[str, Any] = {"chain_id": CHAIN_ID, "kind": Kind.RECORD, "key_id": PRICING_KEY, "expires_height": 0}
    given = usual | changes
    prefix = Prefix(given["chain_id"], given["kind"], "aurora", given["key_id"], 0, given["expires_height"])
    record = RECORD.encode(Record(prefix, 0, ZERO, (claim("one", [line()]),)))
    signature = private_key("aurora", PRICING_KEY).sign(record_message(record))
    scored = private_key("aurora", SCORING_KEY).sign(scoring_message(hashlib.sha256(record).digest(), bits))
    made = ScoredRecord(record, signature, bits, scoring_key, scored)
    return bytes((ENTRY_SCORED_RECORD,)) + SCORED_RECORD.encode(made)


@pytest.fixture
def world() -> LedgerWorld:
    made = LedgerWorld()
    made.plan([])
    made.enroll("ada")
    return made


def test_the_record_that_the_cases_start_from_settles(world: LedgerWorld) -> None:
    assert len(world.block(entry()).outcomes) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"chain_id": ZERO},
        {"kind": Kind.ENROLL_MEMBER},
        {"expires_height": 1},
        {"bits": b""},
        {"bits": b"\0\0"},
        {"key_id": SCORING_KEY},
        {"key_id": 9},
        {"scoring_key": PRICING_KEY},
        {"scoring_key": 9},
    ],
)
def test_a_record_that_is_not_authentic_leaves_nothing(world: LedgerWorld, changes: dict[str, Any]) -> None:
    """Of another chain, of no record's kind, expired, without its pend bits, or under a key of another use."""
    root = world.state.root
    executed = world.block(entry(**changes))
    assert (executed.dropped, executed.outcomes, executed.state_root) == (1, (), root)
