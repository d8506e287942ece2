"""The stage as records go through it: a claim that was denied, and what is sent to put it right."""

import pytest

from claimledger.events.v1 import events_pb2
from claims.claim import ACCEPTED_CLAIM, Frequency
from claims.transaction import RECORD
from runtime.stage import DataError, Incoming, Out
from tests.unit.validation.payer_world import case, claim, reference, service_line
from validation.case import Case
from validation.history import Histories
from validation.records import Issuer
from validation.stage import Validation

TOPIC, STATE, VALIDATED = "p.aurora.claims.submitted", "p.aurora.validation.state", "p.aurora.claims.validated"
SCAN = service_line(procedure="70551")
WITHOUT, WITH = claim([SCAN]), claim([SCAN], {"authorization": "PA-1"})


async def no_tags(_: object) -> list[bytes]:
    return []


def stage() -> Validation:
    issuer = Issuer("aurora", bytes(32), bytes(32), 4, lambda message: bytes(64))
    return Validation({"aurora": issuer}, {"aurora": reference()}, no_tags, lambda: 42)


def applied(state: Histories, found: Case) -> list[Out]:
    submitted = events_pb2.SubmittedClaim(accepted=ACCEPTED_CLAIM.encode(found.accepted), attempt=1)
    value = events_pb2.SubmittedBatch(claims=[submitted]).SerializeToString()
    record = Incoming(TOPIC, 0, 0, None, value)
    return stage().apply(state, record, stage().decode(record))


def denials(outs: list[Out]) -> list[str]:
    """The CARC of each line of the one priced claim, empty where it stands."""
    (value,) = [out.value or b"" for out in outs if out.topic == VALIDATED]
    (priced,) = RECORD.decode(events_pb2.ValidatedRecord.FromString(value).record).claims
    return [line.denial_carc for line in priced.lines]


@pytest.mark.parametrize("restart", [False, True])
def test_what_was_denied_for_want_of_an_authorisation_is_paid_with_it(restart: bool) -> None:
    """And once: sent a third time it is a duplicate. The denied one keeps its answer when it comes again."""
    state = Histories()
    first = applied(state, case(WITHOUT))
    if restart:
        state = restarted(first)
    assert denials(first) == ["197"]
    assert denials(applied(state, case(WITH, name="two"))) == [""]
    assert denials(applied(state, case(WITH, name="three"))) == ["18"]
    assert denials(applied(state, case(WITHOUT))) == ["197"]


def restarted(outs: list[Out]) -> Histories:
    state = Histories()
    for out in outs:
        if out.topic == STATE:
            stage().restore(state, Incoming(STATE, 0, 0, out.key, out.value or b""))
    return state


@pytest.mark.parametrize(("frequency", "carc"), [(Frequency.ORIGINAL, "18"), (Frequency.REPLACEMENT, "")])
def test_a_service_billed_after_its_replacement_is_no_duplicate_of_it(frequency: Frequency, carc: str) -> None:
    state = Histories()
    applied(state, case(claim(header={"frequency": frequency})))
    assert denials(applied(state, case(name="two"))) == [carc]


def test_the_same_line_twice_in_one_claim_is_paid_once() -> None:
    assert denials(applied(Histories(), case(claim([service_line(), service_line(2)])))) == ["", "18"]


# Fields of a later version, as bytes on the wire, and state that cannot be read.


def unknown(number: int, content: bytes) -> bytes:
    """A field of bytes that this version has no number for."""
    tag = number << 3 | 2
    return bytes((tag & 0x7F | 0x80, tag >> 7, len(content))) + content


def record_of(*claims: bytes, beside: bytes = b"") -> Incoming:
    """A record of encoded SubmittedClaims."""
    one_by_one = [b"\x0a" + bytes((len(c) & 0x7F | 0x80, len(c) >> 7)) + c for c in claims]
    return Incoming(TOPIC, 0, 0, None, b"".join(one_by_one) + beside)


def submitted(found: Case, beside: bytes = b"") -> bytes:
    return (
        events_pb2.SubmittedClaim(accepted=ACCEPTED_CLAIM.encode(found.accepted), attempt=1).SerializeToString()
        + beside
    )


def test_what_a_later_version_writes_beside_a_claim_and_a_record_goes_on_to_scoring_and_nowhere_else() -> None:
    """In the place and under the number that it had, so that a later scoring reads it; steps, rejections and history have none
    of it. A claim that has nothing beside it gets nothing."""
    first, second, bad = case(), case(name="two"), case(claim(header={"total_charge_cents": 1}), name="bad")
    record = record_of(
        submitted(first, unknown(1000, b"by-claim")), submitted(second), submitted(bad, unknown(1001, b"by-bad")),
        beside=unknown(1002, b"by-record"),
    )  # fmt: skip
    outs = stage().apply(Histories(), record, stage().decode(record))
    (value,) = [out.value or b"" for out in outs if out.topic == VALIDATED]
    told = events_pb2.ValidatedRecord.FromString(value)
    assert told.passed_on.SerializeToString() == unknown(1002, b"by-record")
    assert [facts.passed_on.SerializeToString() for facts in told.facts] == [unknown(1000, b"by-claim"), b""]
    assert not told.facts[1].HasField("passed_on")
    others = [out for out in outs if out.topic != VALIDATED]
    assert {out.topic.removeprefix("p.aurora.") for out in others} == {
        "claims.rejected",
        "validation.state",
        "status.raw",
    }
    assert b"by-" not in b"".join((out.value or b"") + out.key for out in others)


def test_a_record_is_divided_into_its_claims_and_each_keeps_what_was_unknown() -> None:
    claims = [submitted(case(), unknown(1000, b"by-claim")), submitted(case(name="two"))]
    parts = stage().divide(record_of(*claims, beside=unknown(1002, b"by-record")))
    assert parts == [record_of(claim, beside=unknown(1002, b"by-record")).value for claim in claims]
    assert stage().divide(Incoming(TOPIC, 0, 0, None, b"\xff")) == ()


def test_unreadable_history_is_a_data_error_and_changes_nothing() -> None:
    (kept,) = [out for out in applied(Histories(), case()) if out.topic == STATE]
    state = Histories()
    for key, value in ((kept.key, b"\x01junk"), (b"other", kept.value or b""), (b"", kept.value or b"")):
        with pytest.raises(DataError):
            stage().restore(state, Incoming(STATE, 0, 0, key, value))
    assert state == Histories()
    for key in (kept.key, b"other", b""):
        stage().restore(state, Incoming(STATE, 0, 0, key, b""))  # a tombstone is never one
    assert all(not history.claims for history in state.members.values())
