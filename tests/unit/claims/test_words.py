"""The domain's small words: identifiers, money, days, status, padding, and what is signed."""

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claims.claim import commitment, padded
from claims.finding import Finding, Severity
from claims.identifiers import claim_ref_of, control_number, date_of, day_of, npi_is_valid, npi_with_check_digit
from claims.money import half_up, share_of, shown
from claims.reference import Benefit
from claims.rejection import rejection_message
from claims.result import CLAIM_RESULT, TRANSACTION_RESULT, ClaimResult, TransactionResult, refusal_of
from claims.status import (
    ACTOR_OF,
    AFTER_REVIEW_STEP,
    STEP_OF,
    TERMINAL,
    TRANSITIONS,
    Status,
    StatusEvent,
    event_id,
    may_follow,
)
from claims.transaction import (
    Kind,
    RefusalReason,
    Tier,
    operator_message,
    record_message,
    scoring_message,
    transaction_message,
)
from tests.unit.claims.make_vectors import Sample

# The first is the example in CMS' description of the check digit.
REAL_NPIS = ("1234567893", "1245319599", "1003000126")


@pytest.mark.parametrize("npi", REAL_NPIS)
def test_a_real_npi_holds_and_any_other_last_digit_does_not(npi: str) -> None:
    assert npi_is_valid(npi)
    assert npi_with_check_digit(npi[:9]) == npi
    assert [d for d in "0123456789" if npi_is_valid(npi[:9] + d)] == [npi[-1]]


@pytest.mark.parametrize(
    "text", ["", "123456789", "12345678930", "3234567899", "12345678X3", "١٢٣٤٥٦٧٨٩٣", "1234567890"]
)
def test_what_has_not_the_form_of_an_npi_is_none(text: str) -> None:
    assert not npi_is_valid(text)


@given(st.binary(min_size=16, max_size=16))
def test_a_control_number_leads_back_to_its_claim(claim_ref: bytes) -> None:
    number = control_number(claim_ref)
    assert len(number) == 26
    assert claim_ref_of(f" {number.lower()} ") == claim_ref


@pytest.mark.parametrize("text", ["", "A" * 25, "A" * 27, "1" * 26, "A" * 25 + "B", "É" * 26, "A" * 26 + "======"])
def test_another_text_is_no_control_number(text: str) -> None:
    """The last case but two differs from a control number only in bits that 16 bytes do not have."""
    with pytest.raises(ValueError, match="no claim control number"):
        claim_ref_of(text)


def test_days_count_from_1970() -> None:
    assert day_of(datetime.date(1970, 1, 1)) == 0
    assert day_of(datetime.date(1969, 12, 31)) == -1
    assert date_of(20_000) == datetime.date(2024, 10, 4)
    with pytest.raises(ValueError, match="ordinal"):
        date_of(-(10**6))


@pytest.mark.parametrize(
    ("numerator", "denominator", "cents"), [(0, 1, 0), (1, 2, 1), (1, 3, 0), (2, 3, 1), (5, 2, 3), (7, 7, 1)]
)
def test_halves_go_up(numerator: int, denominator: int, cents: int) -> None:
    assert half_up(numerator, denominator) == cents


@given(st.integers(0, 10**11), st.integers(0, 10_000))
def test_a_share_is_within_half_a_cent(amount: int, basis_points: int) -> None:
    share = share_of(amount, basis_points)
    assert -5_000 < 10_000 * share - amount * basis_points <= 5_000
    assert 0 <= share <= amount


@pytest.mark.parametrize(("numerator", "denominator"), [(-1, 2), (1, 0)])
def test_money_is_not_divided_below_zero_or_by_nothing(numerator: int, denominator: int) -> None:
    with pytest.raises(AssertionError):
        half_up(numerator, denominator)


def test_money_is_shown_with_its_sign() -> None:
    assert [shown(c) for c in (0, 5, 123_456, -7, -100_000)] == ["0.00", "0.05", "1,234.56", "-0.07", "-1,000.00"]


def test_every_status_has_its_followers_its_actor_and_its_step() -> None:
    assert TRANSITIONS.keys() == {None, *Status}
    assert ACTOR_OF.keys() == STEP_OF.keys() == set(Status)
    assert may_follow(None, Status.RECEIVED)
    assert not may_follow(None, Status.SETTLED)
    assert may_follow(Status.PENDED, Status.SETTLED)
    assert not may_follow(Status.REJECTED, Status.VALIDATED)
    assert Status.PENDED not in TERMINAL


def test_a_step_rises_along_every_way() -> None:
    """Order by step number is order of events; a review's outcome has a number of its own."""
    for before, followers in TRANSITIONS.items():
        for after in followers:
            step = AFTER_REVIEW_STEP if before is Status.PENDED and STEP_OF[after] < 6 else STEP_OF[after]
            assert before is None or step > STEP_OF[before]


def test_the_same_step_told_twice_has_one_id() -> None:
    event = StatusEvent(bytes(16), 1, Status.SCORED, 2, 1_000, "clinic", "payer", "")
    again = StatusEvent(bytes(16), 1, Status.SCORED, 2, 2_000, "clinic", "payer", "clinic", "told later")
    assert event.id == again.id == event_id(bytes(16), 1, 2)
    assert len({event_id(bytes(16), version, step) for version in range(4) for step in range(7)}) == 28


@settings(max_examples=60)
@given(st.integers(0, 32 * 1024 - 1))
def test_padding_hides_all_but_the_size_class(length: int) -> None:
    plain = b"\x80" * length
    whole = padded(plain)
    assert len(whole) in {1024 * kib for kib in (1, 2, 4, 8, 16, 32)}
    assert len(whole) == 1024 or len(whole) < 2 * (length + 1)
    assert whole.rstrip(b"\x00") == plain + b"\x80"


def test_a_claim_beyond_32_kib_is_refused() -> None:
    with pytest.raises(ValueError, match="32768 bytes does not fit"):
        padded(bytes(32 * 1024))


def test_a_commitment_depends_on_salt_and_claim() -> None:
    made = {commitment(bytes((salt,)) * 32, claim) for salt in (0, 1) for claim in (b"", b"a", b"a\x80")}
    assert len(made) == 6


def test_signed_bytes_of_different_kinds_never_begin_alike() -> None:
    """No label is the beginning of another, so a signature for one purpose is none for another."""
    messages = [make(b"") for make in (rejection_message, record_message, transaction_message)]
    messages += [scoring_message(b"", b""), operator_message(bytes(32), 0, b"")]
    assert not any(a is not b and b.startswith(a) for a in messages for b in messages)


def test_a_refusal_is_told_by_its_reason() -> None:
    least = Sample("least")
    claim, transaction = least.of(ClaimResult), least.of(TransactionResult)
    assert refusal_of(claim) is None
    assert refusal_of(transaction) is None
    refused = TransactionResult(1, 0, Kind.PUBLISH_PLAN, "payer", bytes(32), RefusalReason.EXPIRED)
    assert refusal_of(refused) is RefusalReason.EXPIRED
    assert CLAIM_RESULT.encode(claim)[0] != TRANSACTION_RESULT.encode(transaction)[0]


def test_a_benefit_covers_and_a_finding_concerns_the_whole_claim_unless_they_say_so() -> None:
    assert Benefit("office", Tier.IN_NETWORK, 0, 0, deductible_applies=False).covered
    assert Finding("rule", "lines[0]", Severity.WARN, "why").line == 0
