"""What edits and tables make of a claim, and that it is the same every time."""

from dataclasses import replace
from typing import Any

import pytest

from claimledger.events.v1.events_pb2 import ValidatedRecord
from claims.claim import OtherPayer, PayerSequence
from claims.transaction import (
    MAX_RECORD_BYTES,
    RECORD,
    Disposition,
    Group,
    Kind,
    Prefix,
    PricedClaim,
    PriorClaim,
    ReasonClass,
    Record,
    Tier,
)
from tests.unit.validation.payer_world import DAY, EXCLUDED_NPI, NPI, OTHER_NPI, case, claim, reference, service_line
from validation.case import Case
from validation.edits import run_edits
from validation.history import BilledClaim
from validation.pricing import price
from validation.records import CLAIM_BYTES, LINE_BYTES, PREFIX_BYTES, Issuer, Priced, facts_of, validated_records

TAG = b"t" * 32


def priced(found: Case) -> PricedClaim:
    return price(found, run_edits(found), [TAG] * len(found.claim.lines))


def test_allowed_is_the_fee_and_the_benefit_gives_the_share() -> None:
    made = priced(case(claim([service_line(), service_line(2, procedure="97110", units=2, charge_cents=20_000)])))
    first, second = made.lines
    assert (first.allowed_cents, first.copay_cents, first.deductible_applies) == (9_000, 2_500, False)
    assert (second.allowed_cents, second.coinsurance_bp, second.limit_class) == (6_000, 2_000, 1)
    assert (made.payee, made.tier, made.disposition) == ("riverside", Tier.IN_NETWORK, Disposition.PAY)
    assert first.duplicate_tag == TAG


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"charge_cents": 8_000}, 8_000),
        ({"modifiers": ("95",)}, 7_500),
        ({"modifiers": ("25",)}, 9_000),
        ({"procedure": "99214"}, 7_200),
        ({"procedure": "0101T", "charge_cents": 15}, 9),
    ],
    ids=["below the fee", "fee by modifier", "modifier without a fee", "fee expired", "percentage of charge, half up"],
)
def test_which_fee_is_in_force(changes: dict[str, Any], allowed: int) -> None:
    (line,) = priced(case(claim([service_line(**changes)]))).lines
    assert line.allowed_cents == allowed


def test_out_of_network_the_patient_bears_what_exceeds_the_fee() -> None:
    parties = replace(claim().parties, billing_npi=OTHER_NPI, billing_taxonomy="")
    made = priced(case(claim(parties=parties)))
    assert (made.tier, made.lines[0].contractual_group) == (Tier.OUT_OF_NETWORK, Group.PR)


def test_a_claim_of_which_every_line_is_denied_is_a_denial() -> None:
    made = priced(case(received_day=DAY + 100))
    assert (made.disposition, made.lines[0].denial_carc, made.lines[0].allowed_cents) == (Disposition.DENY, "29", 0)


def test_one_denied_line_leaves_the_others() -> None:
    made = priced(case(claim([service_line(), service_line(2, procedure="15780")])))
    assert made.disposition is Disposition.PAY
    assert [(line.denial_group, line.denial_carc) for line in made.lines] == [(Group.CO, ""), (Group.PR, "96")]


def test_an_excluded_provider_is_held() -> None:
    parties = replace(claim().parties, billing_npi=EXCLUDED_NPI)
    made = priced(case(claim(parties=parties)))
    assert (made.disposition, made.reason) == (Disposition.PEND, ReasonClass.EDIT)


def test_earlier_payers_travel_with_the_claim() -> None:
    ref = b"x" * 16
    other = OtherPayer("borealis", PayerSequence.PRIMARY, ref, 1, (4_000,))
    made = priced(case(claim(header={"sequence": PayerSequence.SECONDARY}, other_payers=(other,))))
    assert made.lines[0].other_payer_paid_cents == 4_000
    assert [(p.payer, p.claim_ref, p.version) for p in made.prior] == [("borealis", ref, 1)]


@pytest.mark.parametrize("unknown", [0, 1])
def test_earlier_payers_claims_are_named_all_or_none(unknown: int) -> None:
    """The ledger takes what the named ones paid for all that was paid, so one that it has not hides the others."""
    refs: list[bytes | None] = [b"x" * 16, b"y" * 16]
    refs[unknown] = None
    others = (
        OtherPayer("borealis", PayerSequence.PRIMARY, refs[0], 1, (4_000,)),
        OtherPayer("cygnus", PayerSequence.SECONDARY, refs[1], 1, (3_000,)),
    )
    made = priced(case(claim(header={"sequence": PayerSequence.TERTIARY}, other_payers=others)))
    assert (made.lines[0].other_payer_paid_cents, made.prior) == (7_000, ())


def test_the_priced_claim_has_no_codes_and_no_identifiers_of_persons() -> None:
    issuer = Issuer("aurora", bytes(32), bytes(32), 4, lambda message: bytes(64))
    (out,) = validated_records(issuer, [item(case(), 1)])
    from claimledger.events.v1 import events_pb2

    record = events_pb2.ValidatedRecord.FromString(out.value or b"").record
    for secret in (b"99213", b"J069", b"M1", b"Lovelace", b"person-1", NPI.encode()):
        assert secret not in record


def item(found: Case, attempt: int, bucket: int = 0) -> Priced:
    judged = BilledClaim(found.accepted.claim_ref, 1, DAY, (), (), ())
    return Priced(priced(found), facts_of(found, judged, attempt, 0), bucket)


def test_records_never_mix_buckets_or_attempts_and_are_bounded() -> None:
    issuer = Issuer("aurora", bytes(32), bytes(32), 4, lambda message: bytes(64))
    cases = [case(name=f"c{i}") for i in range(6)]
    outs = validated_records(
        issuer,
        [item(c, attempt, bucket) for c, (attempt, bucket) in zip(cases, [(1, 0), (1, 1), (2, 0)] * 2, strict=True)],
    )
    assert sorted((out.partition, len(out.value or b"") > 0) for out in outs) == [(0, True), (0, True), (1, True)]
    many = validated_records(issuer, [item(case(name=f"m{i}"), 1) for i in range(401)])
    from claimledger.events.v1 import events_pb2

    sizes = [len(RECORD.decode(events_pb2.ValidatedRecord.FromString(o.value or b"").record).claims) for o in many]
    assert sizes == [200, 200, 1]


def test_the_same_claim_gives_the_same_bytes_in_every_attempt() -> None:
    issuer = Issuer("aurora", bytes(32), bytes(32), 4, lambda message: bytes(64))
    from claimledger.events.v1 import events_pb2

    records = {
        events_pb2.ValidatedRecord.FromString(validated_records(issuer, [item(case(), attempt)])[0].value or b"").record
        for attempt in (1, 2, 3)
    }
    assert len(records) == 1


def test_records_stay_within_what_the_ledger_takes() -> None:
    """Two hundred claims of fifty lines are more bytes than one record may have."""
    lines = [service_line(number, charge_cents=10**10) for number in range(1, 51)]
    issuer = Issuer("aurora", bytes(32), bytes(32), 4, lambda message: bytes(64))
    one = item(case(claim(lines)), 1)
    records = [
        RECORD.decode(record)
        for out in validated_records(issuer, [one] * 200)
        if (record := ValidatedRecord.FromString(out.value or b"").record) and len(record) <= MAX_RECORD_BYTES
    ]
    assert len(records) > 1
    assert sum(len(record.claims) for record in records) == 200


def test_the_bounds_of_a_claim_and_a_line_hold_at_their_widest() -> None:
    wide = replace(
        item(case(), 1).claim,
        submitter="s" * 32,
        payer="p" * 32,
        payee="o" * 32,
        plan="n" * 32,
        authorization=bytes(32),
        prior=(PriorClaim("q" * 32, bytes(16), 1),) * 2,
    )
    line = replace(wide.lines[0], denial_carc="12345")
    prefix = Prefix(bytes(32), Kind.RECORD, "p" * 32, 2, 0, 0)
    size = len(RECORD.encode(Record(prefix, 1, bytes(32), (replace(wide, lines=(line,) * 50),))))
    assert size <= PREFIX_BYTES + CLAIM_BYTES + 50 * LINE_BYTES


def test_a_class_that_the_plan_does_not_name_is_denied() -> None:
    plan = replace(reference().plans["gold"], benefits=())
    made = priced(case(known=reference(plans={"gold": plan})))
    assert [(line.denial_group, line.denial_carc) for line in made.lines] == [(Group.PR, "96")]


def test_an_authorisation_travels_as_a_token_of_its_member() -> None:
    made = priced(case(claim(header={"authorization": "PA-1"})))
    assert made.authorization is not None
    assert b"PA-1" not in made.authorization
    assert made.authorization == priced(case(claim(header={"authorization": "PA-1"}), name="two")).authorization
    assert made.authorization != priced(case(claim(header={"authorization": "PA-2"}))).authorization
