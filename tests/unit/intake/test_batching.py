"""Micro-batches: one payer and bucket each, within their bounds, nothing lost and nothing twice."""

from hypothesis import given
from hypothesis import strategies as st

from claim_intake.batching import MAX_BYTES, MAX_CLAIMS, MAX_EVENTS, Emission, received_records, submitted_records
from claimledger.events.v1 import events_pb2

emissions = st.lists(
    st.builds(
        Emission,
        claim_id=st.integers(1, 10**6),
        attempt=st.integers(1, 3),
        claim_ref=st.binary(min_size=16, max_size=16),
        version=st.just(1),
        submitter=st.just("clinic"),
        payer=st.sampled_from(["one", "two"]),
        bucket=st.integers(0, 3),
        received_ms=st.just(5),
        accepted=st.sampled_from([b"x" * 300, b"y" * 33_000]),
    ),
    max_size=60,
    unique_by=lambda e: e.claim_id,
)


@given(emissions)
def test_every_emission_is_in_exactly_one_record_of_its_payer_and_bucket(given_emissions: list[Emission]) -> None:
    by_row = {(e.claim_id, e.attempt): e for e in given_emissions}
    seen: list[tuple[int, int]] = []
    for record in submitted_records(given_emissions):
        batch = events_pb2.SubmittedBatch.FromString(record.out.value or b"")
        assert len(batch.claims) == len(record.rows) <= MAX_CLAIMS
        assert sum(len(c.accepted) for c in batch.claims) <= MAX_BYTES
        for row, claim in zip(record.rows, batch.claims, strict=True):
            emission = by_row[row]
            assert (claim.accepted, claim.attempt) == (emission.accepted, emission.attempt)
            assert record.out.topic == f"p.{emission.payer}.claims.submitted"
            assert record.out.partition == emission.bucket
        seen += record.rows
    assert sorted(seen) == sorted(by_row)


def emission(number: int, attempt: int = 1) -> Emission:
    return Emission(number, attempt, number.to_bytes(16, "big"), 1, "clinic", "one", 0, 5, b"x")


def test_a_record_takes_two_hundred_claims_and_a_report_five_hundred() -> None:
    many = [emission(n) for n in range(1, 1_002)]
    assert [len(r.rows) for r in submitted_records(many)] == [200, 200, 200, 200, 200, 1]
    reports = [events_pb2.StatusBatch.FromString(out.value or b"") for out in received_records(many, 1)]
    assert [len(r.events) for r in reports] == [MAX_EVENTS, MAX_EVENTS, 1]


def test_only_a_first_emission_is_reported_as_received() -> None:
    assert list(received_records([emission(1, attempt=2)], 4)) == []


def test_the_same_claims_have_the_same_event_id_and_another_attempt_another() -> None:
    (one,), (same,), (again,) = (list(submitted_records([emission(1, a)])) for a in (1, 1, 2))
    assert one.out.event_id == same.out.event_id != again.out.event_id
