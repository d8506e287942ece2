"""Rules, features and state of fraud scoring."""

import hashlib
import random
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from claimledger.events.v1 import events_pb2
from claimledger.fraud.v1 import fraud_pb2
from claims.claim import MAX_AMOUNT_CENTS, MAX_LINES, Frequency
from claims.transaction import (
    RECORD,
    SCORED_RECORD,
    Disposition,
    Group,
    Kind,
    Prefix,
    PricedClaim,
    PricedLine,
    ReasonClass,
    Record,
    Tier,
    scoring_message,
)
from fraud_scoring import features, state_log
from fraud_scoring.features import (
    HALVE_AT,
    OBSERVATIONS,
    WINDOW_DAYS,
    CodeCharges,
    Observations,
    ObservedLine,
    PartitionState,
    charge_class,
)
from fraud_scoring.rules import ClaimFacts, observation_of, score
from fraud_scoring.stage import FraudScoring, Scorer
from fraud_scoring.state_log import RING, SNAPSHOT_EVERY, StateLog
from fraud_scoring.wire import facts_from
from runtime.stage import DataError, Incoming, Out

NPI, OTHER = "1234567893", "1245319599"
KEY = Ed25519PrivateKey.from_private_bytes(b"s" * 32)


def facts(number: int = 0, **changes: Any) -> ClaimFacts:
    base = ClaimFacts(
        hashlib.sha256(b"%d" % number).digest()[:16], 1, NPI, NPI, b"m" * 16, 20_000, 20,
        (ObservedLine("99213", 1, 12_000),), False, 0,
    )  # fmt: skip
    return replace(base, **changes)


def see(state: PartitionState, claim: ClaimFacts) -> int:
    given = score(claim, state)
    state.observe(observation_of(claim, given))
    return given.score_bp


def rules_of(claim: ClaimFacts, state: PartitionState) -> list[str]:
    return [reason.rule for reason in score(claim, state).reasons]


def usual(state: PartitionState, count: int = 100) -> None:
    """Claims of many providers at a charge of about 120."""
    for number in range(count):
        day = 20_000 + number % 10
        see(state, facts(number, billing_npi=OTHER, rendering_npi=OTHER, member_ref=b"%016d" % number, service_day=day))


def test_an_ordinary_claim_scores_nothing() -> None:
    state = PartitionState()
    usual(state)
    assert score(facts(1000), state).score_bp == 0


def test_an_excluded_provider_reaches_the_threshold_alone() -> None:
    assert score(facts(excluded_provider=True), PartitionState()).score_bp == 9_500


@pytest.mark.parametrize(("minutes", "weight"), [(960, None), (961, 5_000), (1440, 5_000), (1441, 9_000)])
def test_a_day_of_work_has_an_end(minutes: int, weight: int | None) -> None:
    state = PartitionState()
    see(state, facts(1, minutes=900))
    reasons = score(facts(2, minutes=minutes - 900), state).reasons
    assert [r.weight_bp for r in reasons] == ([] if weight is None else [weight])


def test_minutes_count_for_who_rendered_the_service() -> None:
    state = PartitionState()
    see(state, facts(1, minutes=1400))
    assert rules_of(facts(2, rendering_npi=OTHER, minutes=100), state) == []


@pytest.mark.parametrize(("factor", "weight"), [(2, None), (4, 5_000), (12, 8_500)])
def test_a_charge_is_measured_against_the_running_quantile_of_its_code(factor: int, weight: int | None) -> None:
    state = PartitionState()
    usual(state)
    quantile = state.charges_of("99213").quantile_cents(95)  # type: ignore[union-attr]
    assert 12_000 <= quantile < 12_000 * 1.2
    reasons = score(facts(1000, lines=(ObservedLine("99213", 1, quantile * factor),)), state).reasons
    assert [r.weight_bp for r in reasons] == ([] if weight is None else [weight])


@pytest.mark.parametrize(
    ("seen", "factor", "weights"), [(7, 100, []), (8, 9, []), (8, 10, [8_500]), (29, 4, []), (30, 4, [5_000])]
)
def test_the_fewer_charges_were_seen_the_farther_out_one_must_be(seen: int, factor: int, weights: list[int]) -> None:
    state = PartitionState()
    usual(state, seen)
    quantile = state.charges_of("99213").quantile_cents(95)  # type: ignore[union-attr]
    reasons = score(facts(1000, lines=(ObservedLine("99213", 1, quantile * factor),)), state).reasons
    assert [r.weight_bp for r in reasons] == weights


def test_a_provider_without_a_past_has_no_usual_day() -> None:
    """A burst is measured against other days, so the first day of a provider is none."""
    state = PartitionState()
    told = [rules_of_then_see(state, facts(n, minutes=0, member_ref=b"%016d" % n)) for n in range(25)]
    assert told == [[]] * 25


def told_of_a_day(state: PartitionState, before: int, then: int) -> list[list[str]]:
    """The rules of each claim of one day, after claims of other members on six days before."""
    for number in range(before):
        see(state, facts(number, service_day=20_000 + number % 6, minutes=0, member_ref=b"%016d" % number))
    return [
        rules_of_then_see(state, facts(100 + n, service_day=20_030, minutes=0, member_ref=b"%016d" % (100 + n)))
        for n in range(then)
    ]


def test_a_busy_provider_makes_no_burst_of_a_usual_day() -> None:
    state = PartitionState()
    assert told_of_a_day(state, before=60, then=25) == [[]] * 25


def test_a_claim_seen_twice_counts_once_and_no_charges_have_no_quantile() -> None:
    state = PartitionState()
    for _ in range(2):
        see(state, facts())
    assert state.claims_on(NPI, 20_000) == 1
    assert CodeCharges().quantile_cents(95) == 0


def test_codes_beyond_the_bound_are_forgotten_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MAX_CODES", 2)
    state = PartitionState()
    for number, code in enumerate(("A0001", "A0002", "A0001", "A0003")):
        see(state, facts(number, lines=(ObservedLine(code, 1, 100),)))
    assert [state.charges_of(code) is not None for code in ("A0001", "A0002", "A0003")] == [True, False, True]


def test_the_window_is_of_days_and_not_of_days_with_claims() -> None:
    state = PartitionState()
    for day in (20_000, 20_001, 20_000 + WINDOW_DAYS):
        see(state, facts(day, service_day=day))
    assert [state.claims_on(NPI, day) for day in (20_000, 20_001, 20_000 + WINDOW_DAYS)] == [0, 1, 1]


def test_a_burst_is_many_times_the_usual() -> None:
    state = PartitionState()
    scores = told_of_a_day(state, before=12, then=20)
    assert scores[:19] == [[]] * 19
    assert scores[19] == ["fraud.burst"]


def rules_of_then_see(state: PartitionState, claim: ClaimFacts) -> list[str]:
    rules = rules_of(claim, state)
    see(state, claim)
    return rules


def test_one_member_again_and_again() -> None:
    state = PartitionState()
    told = [rules_of_then_see(state, facts(n, service_day=20_000 + n)) for n in range(7)]
    assert told == [[]] * 6 + [["fraud.frequent_visits"]]


def test_doubts_combine() -> None:
    state = PartitionState()
    usual(state)
    quantile = state.charges_of("99213").quantile_cents(95)  # type: ignore[union-attr]
    claim = facts(1000, same_service_elsewhere=1, lines=(ObservedLine("99213", 1, quantile * 4),))
    assert score(claim, state).score_bp == 8_000  # 1 - 0.4 * 0.5


def test_what_is_remembered_has_bounds() -> None:
    state = PartitionState()
    for number in range(WINDOW_DAYS + 5):
        see(state, facts(number, service_day=20_000 + number))
    assert state.claims_on(NPI, 20_000) == 0
    assert state.claims_on(NPI, 20_005) == 1
    charges = CodeCharges()
    for _ in range(HALVE_AT):
        charges.add(charge_class(100))
    assert charges.total == HALVE_AT // 2


def history(seed: int, count: int) -> list[ClaimFacts]:
    chance = random.Random(seed)
    return [
        facts(
            number,
            billing_npi=chance.choice([NPI, OTHER]),
            rendering_npi=chance.choice([NPI, OTHER]),
            member_ref=b"%016d" % chance.randrange(6),
            service_day=20_000 + chance.randrange(40),
            minutes=chance.choice([0, 20, 300]),
            lines=(
                ObservedLine(chance.choice(["99213", "99214"]), chance.randrange(3), chance.randrange(100, 90_000)),
            ),
        )
        for number in range(count)
    ]


def test_the_whole_state_survives_its_encoding() -> None:
    state = PartitionState()
    for claim in history(1, 500):
        see(state, claim)
    again = PartitionState.decoded(state.encoded())
    assert again.encoded() == state.encoded()
    later = history(2, 50)
    assert [see(state, replace(c, version=2)) for c in later] == [see(again, replace(c, version=2)) for c in later]


@pytest.mark.parametrize("crash_after", [0, 1, 7, 8, 9, 15, 16, 17, 40, 63])
@pytest.mark.parametrize("torn", [False, True])
def test_after_a_crash_the_same_history_gives_the_same_scores(
    crash_after: int, torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of a run that dies are those of one that does not, also where the snapshot was written in part."""
    monkeypatch.setattr(state_log, "SNAPSHOT_EVERY", 8)
    monkeypatch.setattr(state_log, "RING", 32)
    monkeypatch.setattr(state_log, "PART_BYTES", 200)
    claims = history(3, 128)
    records = [claims[i : i + 2] for i in range(0, 128, 2)]
    undisturbed = StateLog()
    expected = [run(undisturbed, at, record)[0] for at, record in enumerate(records)]

    written: list[tuple[bytes, fraud_pb2.ScoringSnapshot]] = []
    log, got = StateLog(), []
    for at, record in enumerate(records[: crash_after + 1]):
        scores, kept = run(log, at, record)
        got.append(scores)
        written += kept[:2] if torn and at == crash_after else kept
    log = StateLog()
    for key, value in compacted(written):
        log.restore(key, value)
    # the last two records come again, since their offsets were not acknowledged
    for at in range(max(0, crash_after - 1), len(records)):
        scores, _ = run(log, at, records[at])
        got[at:] = [scores]
    assert got == expected


def compacted(written: list[tuple[bytes, fraud_pb2.ScoringSnapshot]]) -> list[tuple[bytes, fraud_pb2.ScoringSnapshot]]:
    """The last value of each key, in the order of the log."""
    last = {key: place for place, (key, _) in enumerate(written)}
    return [written[place] for place in sorted(last.values())]


def run(
    log: StateLog, offset: int, claims: list[ClaimFacts]
) -> tuple[list[int], list[tuple[bytes, fraud_pb2.ScoringSnapshot]]]:
    scores, new = [], []
    for claim in claims:
        known = log.state.score_of(claim.claim_ref, claim.version)
        if known is None:
            known = score(claim, log.state)
            seen = observation_of(claim, known)
            log.state.observe(seen)
            new.append(seen)
        scores.append(known.score_bp)
    return scores, list(log.record(offset, tuple(new))) if new else []


def test_the_ring_reaches_back_beyond_two_snapshots() -> None:
    assert RING > 3 * SNAPSHOT_EVERY


def priced(number: int, disposition: Disposition = Disposition.PAY) -> PricedClaim:
    line = PricedLine(1, 12_000, 9_000, Group.CO, 0, 0, 0, False, 0, bytes(32), Group.CO, "")
    return PricedClaim(
        facts(number).claim_ref, 1, Frequency.ORIGINAL, "riverside", "aurora", "riverside", b"p" * 16, b"m" * 16, "gold",
        2026, Tier.IN_NETWORK, 20_000, 20_001, None, disposition, ReasonClass.NONE, bytes(32), bytes(32), (), (line,),
    )  # fmt: skip


def incoming(
    claims: list[PricedClaim],
    excluded: set[int],
    *,
    payer: str = "aurora",
    attempt: int = 1,
    facts_of: int | None = None,
) -> Incoming:
    record = RECORD.encode(Record(Prefix(bytes(32), Kind.RECORD, payer, 2, 0, 0), 1, bytes(32), tuple(claims)))
    sides = [
        events_pb2.ClaimFacts(
            billing_npi=NPI, rendering_npi=NPI, service_day=20_000, excluded_provider=place in excluded, attempt=attempt,
            lines=[events_pb2.LineFacts(number=1, procedure="99213", units=1, charge_cents=12_000, minutes=20)],
        )
        for place in range(len(claims) if facts_of is None else facts_of)
    ]  # fmt: skip
    value = events_pb2.ValidatedRecord(record=record, signature=b"g" * 64, facts=sides)
    return Incoming("p.aurora.claims.validated", 1, 5, None, value.SerializeToString())


def stage() -> FraudScoring:
    return FraudScoring({"aurora": Scorer("aurora", 2, 8_000, KEY.sign)}, lambda: 42)


def applied(stage: FraudScoring, log: StateLog, record: Incoming) -> dict[str, list[Out]]:
    outs: dict[str, list[Out]] = {}
    for out in stage.apply(log, record, stage.decode(record)):
        outs.setdefault(out.topic.removeprefix("p.aurora."), []).append(out)
    return outs


def test_the_record_passes_untouched_with_signed_bits_beside_it() -> None:
    record = incoming([priced(n) for n in range(10)], {3, 8})
    outs = applied(stage(), StateLog(), record)
    scored = SCORED_RECORD.decode(
        events_pb2.ScoredRecord.FromString(outs["claims.scored"][0].value or b"").scored_record
    )
    sent = events_pb2.ValidatedRecord.FromString(record.value)
    assert (scored.record, scored.signature) == (sent.record, sent.signature)
    assert scored.pend_bits == bytes([0b1000, 0b1])
    message = scoring_message(hashlib.sha256(scored.record).digest(), scored.pend_bits)
    KEY.public_key().verify(scored.scoring_signature, message)
    assert len(outs["fraud.scores"]) == 10
    assert [out.key for out in outs["fraud.alerts"]] == [priced(3).claim_ref, priced(8).claim_ref]


def test_no_codes_and_no_identifiers_leave_in_scored() -> None:
    outs = applied(stage(), StateLog(), incoming([priced(n) for n in range(3)], {1}))
    for name in ("claims.scored", "fraud.scores", "fraud.alerts", "status.raw"):
        for out in outs[name]:
            assert NPI.encode() not in (out.value or b""), name
            assert b"99213" not in (out.value or b""), name


@pytest.mark.parametrize(
    ("disposition", "pended"), [(Disposition.PAY, True), (Disposition.PEND, True), (Disposition.DENY, False)]
)
def test_an_alert_says_whether_the_claim_waits_for_a_person(disposition: Disposition, pended: bool) -> None:
    """Also where the payer's own edits hold it, so that no pend bit is needed."""
    outs = applied(stage(), StateLog(), incoming([priced(0, disposition)], {0}))
    (alert,) = [fraud_pb2.FraudAlert.FromString(out.value or b"") for out in outs["fraud.alerts"]]
    (told,) = [fraud_pb2.FraudScore.FromString(out.value or b"") for out in outs["fraud.scores"]]
    assert (alert.score.pended, told.pended) == (pended, pended)


def test_a_claim_that_the_payer_denies_is_not_held_but_told_to_analysts() -> None:
    outs = applied(stage(), StateLog(), incoming([priced(0, Disposition.DENY)], {0}))
    scored = SCORED_RECORD.decode(
        events_pb2.ScoredRecord.FromString(outs["claims.scored"][0].value or b"").scored_record
    )
    assert scored.pend_bits == b"\x00"
    assert len(outs["fraud.alerts"]) == 1


def test_a_retry_goes_where_every_replica_reads() -> None:
    outs = applied(stage(), StateLog(), incoming([priced(0)], set(), attempt=2))
    assert "claims.retry" in outs
    assert "claims.scored" not in outs


def test_a_redelivered_record_gives_the_same_bytes_and_no_new_state() -> None:
    log, record = StateLog(), incoming([priced(n) for n in range(3)], {1})
    first, again = applied(stage(), log, record), applied(stage(), log, record)
    assert first["claims.scored"] == again["claims.scored"]
    assert first["fraud.scores"] == again["fraud.scores"]
    assert "fraud.state" in first
    assert "fraud.state" not in again


def widest(count: int) -> Incoming:
    """Claims of fifty lines of the most units that intake takes, of the longest visit, for one day of one provider."""
    record = incoming([priced(n) for n in range(count)], set())
    value = events_pb2.ValidatedRecord.FromString(record.value)
    line = events_pb2.LineFacts(procedure="99223", units=9_999, charge_cents=MAX_AMOUNT_CENTS, minutes=75)
    for side in value.facts:
        del side.lines[:]
        side.lines.extend([line] * MAX_LINES)
    return replace(record, value=value.SerializeToString())


def test_the_widest_claims_of_a_day_still_have_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they are more minutes than a row holds; the state that is read back is the one that was written."""
    monkeypatch.setattr(state_log, "SNAPSHOT_EVERY", 1)
    log, again = StateLog(), StateLog()
    states = applied(stage(), log, widest(115))["fraud.state"]
    assert [bytes(out.key or b"").partition(b"/")[0] for out in states] == [b"observed", b"snapshot"]
    for out in states:
        again.restore(out.key or b"", fraud_pb2.ScoringSnapshot.FromString(out.value or b""))
    assert again.state.minutes_on(NPI, 20_000) == log.state.minutes_on(NPI, 20_000) == 2**32 - 1
    assert again.state.claims_on(NPI, 20_000) == 115
    assert again.state.encoded() == log.state.encoded()


def test_a_sum_at_its_bound_stays_there() -> None:
    """Of claims as of minutes."""
    state = PartitionState()
    state._providers[NPI] = {20_000: (2**32 - 1, 2**32 - 1)}
    see(state, facts(minutes=1))
    again = PartitionState.decoded(state.encoded())
    assert (again.claims_on(NPI, 20_000), again.minutes_on(NPI, 20_000)) == (2**32 - 1, 2**32 - 1)


def test_one_claim_has_no_more_minutes_than_are_kept() -> None:
    """Whatever a payer's facts say, its record can be written down."""
    line = events_pb2.LineFacts(procedure="99223", units=2**32 - 1, charge_cents=1, minutes=2**32 - 1)
    claim = facts_from(priced(0), events_pb2.ClaimFacts(billing_npi=NPI, rendering_npi=NPI, lines=[line]))
    assert claim.minutes == 2**32 - 1
    seen = observation_of(claim, score(claim, PartitionState()))
    ((_, kept),) = StateLog().record(0, (seen,))
    assert OBSERVATIONS.decode(kept.state).claims == (seen,)


@pytest.mark.parametrize(
    "record",
    [
        Incoming("p.aurora.claims.validated", 0, 0, None, b"\xff\xff"),
        Incoming("p.aurora.claims.validated", 0, 0, None, events_pb2.ValidatedRecord(record=b"x").SerializeToString()),
        incoming([priced(0)], set(), payer="borealis"),
        incoming([priced(0)], set(), facts_of=0),
        incoming([], set()),
    ],
    ids=["not protobuf", "not a record", "another payer's", "facts missing", "empty"],
)
def test_what_is_no_validated_record_is_a_data_error(record: Incoming) -> None:
    with pytest.raises(DataError):
        stage().decode(record)


# Fields of a later version, and state that cannot be read or comes late.


def test_nothing_that_scoring_does_not_know_leaves_it() -> None:
    """Whatever is unknown at whatever level could name a person: no output has it."""
    record = incoming([priced(0)], set())
    value = events_pb2.ValidatedRecord.FromString(record.value)
    unknown = bytes((0xC2, 0x3E, 6)) + b"secret"
    value.facts[0].lines[0].MergeFromString(unknown)
    value.facts[0].MergeFromString(unknown)
    value.facts[0].passed_on.MergeFromString(unknown)
    value.passed_on.MergeFromString(unknown)
    value.MergeFromString(unknown)
    excluded = replace(record, value=value.SerializeToString())
    assert excluded.value.count(b"secret") == 5
    value.facts[0].excluded_provider = True
    outs = stage().apply(StateLog(), excluded, stage().decode(replace(record, value=value.SerializeToString())))
    topics = {out.topic.removeprefix("p.aurora.") for out in outs}
    assert topics == {"claims.scored", "fraud.scores", "fraud.alerts", "status.raw", "fraud.state"}
    assert b"secret" not in b"".join((out.value or b"") + out.key for out in outs)


def snapshots(monkeypatch: pytest.MonkeyPatch, records: int) -> tuple[StateLog, list[tuple[bytes, Any]]]:
    """A log and what it wrote, a snapshot in several parts after every second record."""
    monkeypatch.setattr(state_log, "SNAPSHOT_EVERY", 2)
    monkeypatch.setattr(state_log, "PART_BYTES", 100)
    log, written = StateLog(), []
    for at, claim in enumerate(history(5, records)):
        written += run(log, at, [claim])[1]
    return log, written


@pytest.mark.parametrize("damage", [b"\xff\xff", b"", b"junk"], ids=["not protobuf", "empty", "no state"])
def test_a_damaged_snapshot_is_a_data_error_and_the_one_before_counts(
    damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, written = snapshots(monkeypatch, 6)
    again, refused = StateLog(), 0
    last = max(place for place, (key, _) in enumerate(written) if key.startswith(b"snapshot/"))
    for place, (key, value) in enumerate(written):
        body = value.SerializeToString()
        if place == last:
            body = damage if damage != b"junk" else _with_state(value, b"junk" * 30)
        try:
            stage().restore(again, Incoming("p.aurora.fraud.state", 0, 0, key, body))
        except DataError:
            refused += 1
    assert refused == (damage != b""), "an empty value is a tombstone"
    assert again.state.encoded() == log.state.encoded()


def _with_state(value: Any, state: bytes) -> bytes:
    changed = fraud_pb2.ScoringSnapshot()
    changed.CopyFrom(value)
    changed.state = state
    return changed.SerializeToString()


@pytest.mark.parametrize("key", [b"", b"observed", b"observed/x", b"snapshot/7/0", b"snapshot/0", b"other/0"])
def test_a_key_that_no_state_has_is_a_data_error(key: bytes) -> None:
    value = fraud_pb2.ScoringSnapshot(state=OBSERVATIONS.encode(Observations(())), parts=1).SerializeToString()
    with pytest.raises(DataError):
        stage().restore(StateLog(), Incoming("p.aurora.fraud.state", 0, 0, key, value))


def test_what_was_set_aside_and_is_replayed_late_counts_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """An observation in its order, and without moving the ring; a part of an old snapshot not at all."""
    log, written = snapshots(monkeypatch, 7)
    observed = [(key, value) for key, value in written if key.startswith(b"observed/")]
    late = observed[5]
    old_part = next(item for item in written if item[0].startswith(b"snapshot/"))
    again = StateLog()
    for key, value in [*(item for item in written if item is not late), old_part, late]:
        again.restore(key, value)
    assert again.state.encoded() == log.state.encoded()
    (claim,) = history(6, 1)
    assert run(again, 7, [replace(claim, version=3)]) == run(log, 7, [replace(claim, version=3)])
