"""What a result becomes for its parties, for the status of its claim, and for everybody."""

from dataclasses import replace
from typing import Any

import pytest

from claimledger.events.v1 import events_pb2
from claimledger.ledger.v1 import ledger_pb2
from claims.identifiers import control_number
from claims.result import Adjustment, ClaimResult, Outcome
from claims.status import Status
from claims.transaction import Group, ReasonClass, RefusalReason
from ledger_commit.publications import (
    Proven,
    block_records,
    cursor_record,
    parties_of,
    settlement_records,
    status_records,
    status_steps,
)
from runtime.network import Network, Organisation
from tests.unit.verifier.proof_world import result_of

NETWORK = Network(
    name="test",
    chain_id="ab" * 32,
    kafka="",
    buckets=1,
    intake_address="",
    tags_address="",
    organisations=tuple(
        Organisation(o, (role,))
        for o, role in (("clinic", "provider"), ("payer", "insurer"), ("other", "insurer"), ("stranger", "provider"))
    ),
    replicas=(),
    endpoints=(),
    pricing_keys={},
    npi_organisations={},
    topic_prefix="net-1",
)
CO_45, CO_50 = Adjustment(Group.CO, "45", 1), Adjustment(Group.CO, "50", 2)


def result(**changes: Any) -> ClaimResult:
    return replace(result_of(9), submitter="clinic", payer="payer", payee="group", **changes)


def proven(leaf: int = 7, **changes: Any) -> Proven:
    return Proven(leaf, result(**changes), b"proof %d" % leaf, 1234)


SPENT = {"outcome": Outcome.REFUSED, "refusal": RefusalReason.VERSION_SPENT}


@pytest.mark.parametrize(
    ("changes", "parties"),
    [
        ({}, [("clinic", "submitter"), ("payer", "payer"), ("group", "payee")]),
        ({"payee": "clinic"}, [("clinic", "submitter"), ("payer", "payer")]),
        ({"submitter": "payer"}, [("payer", "submitter"), ("group", "payee")]),
        ({"submitter": "payer", "payee": "payer"}, [("payer", "submitter")]),
        (SPENT, [("clinic", "submitter")]),
    ],
)
def test_each_party_is_told_once_in_its_first_part(changes: dict[str, Any], parties: list[tuple[str, str]]) -> None:
    """And of a refused repeat nobody but its sender."""
    assert parties_of(replace(result(), **changes)) == parties


def test_settlements_go_to_the_parties_that_are_in_the_network() -> None:
    """With the proof as it is, under the claim's reference, with names that a second publisher gives again."""
    item = proven()
    outs = settlement_records([item], NETWORK)
    subject = ("ce_subject", control_number(item.result.claim_ref).encode())
    assert [(o.topic, o.key, o.value, o.event_id, o.headers, o.sealed) for o in outs] == [
        ("net-1.org.clinic.settlements", item.result.claim_ref, b"proof 7", "7/submitter", (("party", b"submitter"), subject), True),
        ("net-1.org.payer.settlements", item.result.claim_ref, b"proof 7", "7/payer", (("party", b"payer"), subject), True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [(Status.ORDERED, 3, "height 3"), (Status.SETTLED, 4, "")]),
        (
            {"outcome": Outcome.PENDED, "reason": ReasonClass.FRAUD_SUSPICION},
            [(Status.ORDERED, 3, "height 3"), (Status.PENDED, 4, "FRAUD_SUSPICION")],
        ),
        (
            {"outcome": Outcome.DENIED, "lines": (CO_50, CO_45), "reason": ReasonClass.DUPLICATE},
            [(Status.ORDERED, 3, "height 3"), (Status.DENIED, 4, "DUPLICATE CO-45 CO-50")],
        ),
        (
            {"outcome": Outcome.REFUSED, "refusal": RefusalReason.UNKNOWN_CLAIM, "reason": ReasonClass.DUPLICATE},
            [(Status.ORDERED, 3, "height 3"), (Status.REFUSED, 4, "UNKNOWN_CLAIM")],
        ),
        ({"step": 1}, [(Status.SETTLED, 5, "")]),
        (SPENT, []),
    ],
)
def test_a_result_moves_its_claim_by_these_steps(changes: dict[str, Any], steps: list[Any]) -> None:
    """A review adds its outcome alone; a refused repeat leaves the claim that it repeats where it is."""
    if adjustments := changes.get("lines"):
        twice = (replace(result().lines[0], adjustments=adjustments),) * 2
        changes = {**changes, "lines": twice}
    told = status_steps(proven(height=3, **changes))
    assert [(e.status, e.step, e.detail) for e in told] == steps
    assert all(
        (e.submitter, e.payer, e.payee, e.version, e.time_ms) == ("clinic", "payer", "group", 1, 1234) for e in told
    )


def test_status_goes_to_payers_of_the_network_in_the_order_of_the_results() -> None:
    items = [proven(1), replace(proven(2), result=replace(result(), payer="stranger")), proven(3, step=1)]
    (out,) = status_records(items, NETWORK)
    assert (out.topic, out.partition) == ("net-1.p.payer.status.raw", 0)
    events = events_pb2.StatusBatch.FromString(out.value or b"").events
    assert [Status(e.status) for e in events] == [Status.ORDERED, Status.SETTLED, Status.SETTLED]


def test_nothing_is_said_of_claims_whose_payers_are_not_in_the_network() -> None:
    assert status_records([proven()], replace(NETWORK, organisations=())) == []


def test_blocks_and_cursor_are_for_everybody_and_in_one_order() -> None:
    """Not sealed, in the topics' one partition; a block's key orders as its height does."""
    block = ledger_pb2.Block(height=258, id=b"id")
    (out,) = block_records([block], NETWORK)
    assert (out.topic, out.key, out.partition, out.sealed) == ("net-1.ledger.blocks", bytes(6) + b"\x01\x02", 0, False)
    assert ledger_pb2.BlockEvent.FromString(out.value or b"").block == block
    out = cursor_record(5, 258, NETWORK)
    assert (out.topic, out.key, out.partition, out.sealed) == ("net-1.ledger.publisher", b"cursor", 0, False)
    told = ledger_pb2.PublisherCursor.FromString(out.value or b"")
    assert (told.next_leaf, told.block_height, told.chain_id) == (5, 258, b"\xab" * 32)
