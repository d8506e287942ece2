"""The stage as records go through it: a claim that was denied, and what is sent to put it right."""

import pytest

from claimledger.events.v1 import events_pb2
from claims.claim import ACCEPTED_CLAIM, Frequency
from claims.transaction import RECORD
from runtime.stage import Incoming, Out
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
