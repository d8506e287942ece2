"""Idempotency: what a key and a body leave behind, and how the next submission is judged by it."""

import pytest

from claim_intake.intake import Verdict, client_key_findings, fingerprint, retry_delay_ms, tenant_key, verdict

SECRET = bytes(32)


def test_the_same_key_and_body_of_two_organisations_leave_different_fingerprints() -> None:
    one = fingerprint(tenant_key(SECRET, "clinic-a"), "k", b"body")
    other = fingerprint(tenant_key(SECRET, "clinic-b"), "k", b"body")
    assert one.key != other.key
    assert one.body != other.body


def test_key_and_body_are_separate_domains() -> None:
    """A body equal to a key must not give an equal HMAC."""
    made = fingerprint(tenant_key(SECRET, "a"), "same", b"same")
    assert made.key != made.body[:16]


@pytest.mark.parametrize(
    ("own", "body", "expected"),
    [(b"new", b"x", Verdict.NEW), (b"old", b"x", Verdict.REPEATED), (b"old", b"y", Verdict.CONFLICT)],
)
def test_a_submission_is_judged_by_the_row_under_its_key(own: bytes, body: bytes, expected: Verdict) -> None:
    kept = b"new" if own == b"new" else b"first"
    assert verdict(own, body, kept, b"x") is expected


@pytest.mark.parametrize("key", ["", "x" * 65, "tab\there", "schlüssel", "line\n"])
def test_a_client_key_is_short_printable_ascii(key: str) -> None:
    assert [f.path for f in client_key_findings(key)] == ["client_key"]
    assert client_key_findings("ISA-000001/12/3/PCN") == []


def test_overdue_delays_double_up_to_the_cap() -> None:
    assert [retry_delay_ms(n, 10_000, 600_000) for n in (1, 2, 3, 7, 500)] == [10_000, 20_000, 40_000, 600_000, 600_000]
