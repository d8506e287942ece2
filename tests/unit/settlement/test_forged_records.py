"""Who stands behind a record, asked before it is ordered: the same as the contract asks afterwards."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from claimledger.events.v1 import events_pb2
from claims.encoding import DecodeError
from claims.transaction import RECORD, SCORED_RECORD, ScoredRecord
from ledger_commit.feeder import entry_of
from ledger_commit.settlement.authenticity import Forgery, forgery_of_record
from runtime.stage import DataError
from tests.fixtures.ledger_world import LedgerWorld, claim, line, scored_entry, verify

GENUINE = SCORED_RECORD.decode(scored_entry([claim("one", [line()])])[1:])
Change = Callable[[ScoredRecord], ScoredRecord]
FORGED: dict[str, tuple[str, Change]] = {
    "pricing": ("signature", lambda s: replace(s, signature=bytes(64))),
    "pend bits": ("scoring_signature", lambda s: replace(s, pend_bits=b"\x01")),
    "scoring key of another use": ("scoring_signature", lambda s: replace(s, scoring_key_id=2)),
    "scoring key that is none": ("scoring_signature", lambda s: replace(s, scoring_key_id=99)),
    "stranger": ("signature", lambda s: replace(s, record=s.record.replace(b"\x00\x06aurora", b"\x00\x06nobody"))),
    "pricing key of another use": (
        "signature",
        lambda s: replace(s, record=s.record.replace(b"aurora\x00\x02", b"aurora\x00\x03")),
    ),
}


def test_a_record_under_both_signatures_of_its_payer_is_taken() -> None:
    assert forgery_of_record(LedgerWorld().state, GENUINE, verify) is None


@pytest.mark.parametrize("what", FORGED)
def test_a_record_that_its_payer_did_not_sign_is_set_aside_and_says_which_signature(what: str) -> None:
    """Before it is ordered; and the contract would leave nothing of it."""
    field, change = FORGED[what]
    changed, world = change(GENUINE), LedgerWorld()
    assert changed != GENUINE
    found = forgery_of_record(world.state, changed, verify)
    assert found is not None
    assert found.field == field
    entry = scored_entry([claim("one", [line()])])[:1] + SCORED_RECORD.encode(changed)
    assert world.block(entry).dropped == 1


def test_what_has_no_prefix_is_undecodable_and_not_forged() -> None:
    with pytest.raises(DecodeError):
        forgery_of_record(LedgerWorld().state, replace(GENUINE, record=b"\x01"), verify)


def judge(scored: ScoredRecord) -> Forgery | None:
    return forgery_of_record(LedgerWorld().state, scored, verify)


@pytest.mark.parametrize(
    ("record", "kind"), [(FORGED["pricing"][1](GENUINE), "forged"), (replace(GENUINE, record=b""), "undecodable")]
)
def test_a_feeder_makes_no_entry_of_it(record: ScoredRecord, kind: str) -> None:
    value = events_pb2.ScoredRecord(scored_record=SCORED_RECORD.encode(record)).SerializeToString()
    with pytest.raises(DataError) as caught:
        entry_of(value, judge)
    assert caught.value.kind == kind


def test_the_prefix_of_a_record_is_read_without_the_rest() -> None:
    """Whatever follows it; and where it is cut, the error says in which field."""
    whole = RECORD.decode(GENUINE.record)
    assert RECORD.decode_first(GENUINE.record) == RECORD.decode_first(GENUINE.record[:-1] + b"more") == whole.prefix
    with pytest.raises(DecodeError, match=r"prefix\.kind"):
        RECORD.decode_first(GENUINE.record[:33])
    with pytest.raises(DecodeError, match="version 2"):
        RECORD.decode_first(b"\x02" + GENUINE.record[1:])
