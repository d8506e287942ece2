"""What makes a certificate, and what a replica makes of votes and timeouts. Four members: f is 1, a quorum is 3."""

from dataclasses import replace

import pytest

from ledger_commit.consensus.certificates import VERIFIED_LIMIT, Certificates
from ledger_commit.consensus.committee import Committee, Member
from ledger_commit.consensus.messages import (
    MAX_COMMITTEE,
    QuorumCert,
    Timeout,
    TimeoutGroup,
    vote_message,
)
from tests.fixtures.consensus import (
    CHAIN_ID,
    COMMITTEE,
    GENESIS_ID,
    GENESIS_QC,
    PAIRS,
    Bench,
    block,
    certify,
    chain,
    committed,
    reports,
    time_out,
    timeout,
    vote,
    vote_data,
)
from tests.simulation.signatures import PairSignatures

B1, B2, B3 = chain(1, 2, 3)
AGGREGATE = certify(B1).aggregate


@pytest.fixture
def certificates() -> Certificates:
    return Certificates(COMMITTEE, PAIRS, GENESIS_ID)


@pytest.mark.parametrize(
    ("size", "faults", "quorum"), [(1, 0, 1), (2, 0, 2), (3, 0, 2), (4, 1, 3), (6, 1, 4), (7, 2, 5), (64, 21, 43)]
)
def test_two_quorums_share_an_honest_member(size: int, faults: int, quorum: int) -> None:
    committee = Committee(CHAIN_ID, 0, tuple(Member(f"org{i}", bytes([i]) * 48, bytes(32)) for i in range(size)))
    assert (committee.faults, committee.quorum_size) == (faults, quorum)
    assert 2 * quorum - size > faults
    assert quorum <= size - faults


def test_a_committee_has_members_and_each_key_once() -> None:
    member = Member("org", bytes(48), bytes(32))
    for members in ((), (member, replace(member, organisation="other"))):
        with pytest.raises(ValueError, match="committee"):
            Committee(CHAIN_ID, 0, members)
    with pytest.raises(ValueError, match=f"1 to {MAX_COMMITTEE}"):
        Committee(CHAIN_ID, 0, tuple(Member("org", bytes([i]) * 48, bytes(32)) for i in range(MAX_COMMITTEE + 1)))


def test_members_are_found_by_organisation_and_by_bitmap() -> None:
    assert [COMMITTEE.index_of(name) for name in ("org2", "orgX")] == [2, None]
    assert COMMITTEE.signers(COMMITTEE.bitmap([0, 3])) == [0, 3]
    assert COMMITTEE.bitmap([0, 3]) == b"\x09"
    for bitmap in (b"", b"\x01\x00", b"\x10"):
        assert COMMITTEE.signers(bitmap) is None


# Quorum certificates.

BAD_QC = {
    "two signers": certify(B1, (0, 1)),
    "a signer who did not sign": replace(certify(B1), signers=COMMITTEE.bitmap([0, 1, 3])),
    "a signer more": replace(certify(B1), signers=COMMITTEE.bitmap([0, 1, 2, 3])),
    "a bit beyond the committee": replace(certify(B1), signers=b"\x17"),
    "a longer bitmap": replace(certify(B1), signers=b"\x07\x00"),
    "other data": replace(certify(B1), data=vote_data(B2)),
    "another epoch": certify(B1, data=replace(vote_data(B1), epoch=1)),
    "zeros": replace(certify(B1), aggregate=bytes(96)),
}


@pytest.mark.parametrize("case", BAD_QC)
def test_a_qc_is_signed_by_a_quorum(certificates: Certificates, case: str) -> None:
    for _ in range(2):
        assert not certificates.qc_is_valid(BAD_QC[case])
    assert certificates.qc_is_valid(certify(B1))
    assert certificates.qc_is_valid(certify(B1, (0, 1, 2, 3)))


def test_what_was_verified_is_remembered_within_a_bound() -> None:
    class Counting(PairSignatures):
        calls = 0

        def verify_same(self, public_keys: object, message: bytes, aggregate: bytes) -> bool:
            Counting.calls += 1
            return super().verify_same(public_keys, message, aggregate)  # type: ignore[arg-type]

    certificates = Certificates(COMMITTEE, Counting(), GENESIS_ID)
    for _ in range(3):
        assert certificates.qc_is_valid(certify(B1))
    assert Counting.calls == 1
    for number in range(10, 10 + VERIFIED_LIMIT):
        certificates.trust(QuorumCert(replace(vote_data(B1), round=number), b"\x07", AGGREGATE))
    assert len(certificates._verified) == VERIFIED_LIMIT
    assert certificates.qc_is_valid(certify(B1))
    assert Counting.calls == 2


# Timeout certificates.

GOOD_TC = time_out(5, certify(B2), {1: (0,), 2: (1, 3)})
BAD_TC = {
    "two members": time_out(5, certify(B2), {1: (0,), 2: (1,)}),
    "a member in two groups": time_out(5, certify(B2), {1: (0, 1), 2: (1, 3)}),
    "a member in two groups and no quorum without": time_out(5, certify(B2), {1: (1,), 2: (1, 3)}),
    "an empty group": replace(GOOD_TC, groups=(TimeoutGroup(0, b"\x00"), *GOOD_TC.groups)),
    "a bit beyond the committee": replace(GOOD_TC, groups=(TimeoutGroup(0, b"\x10"), *GOOD_TC.groups)),
    "two groups of one round": replace(
        time_out(5, certify(B2)), groups=(TimeoutGroup(2, b"\x01"), TimeoutGroup(2, b"\x06"))
    ),
    "no groups": replace(GOOD_TC, groups=()),
    "a QC of its own round": time_out(2, certify(B2), {1: (0,), 2: (1, 3)}),
    "a high QC below the highest told": time_out(5, certify(B1), {1: (0,), 2: (1, 3)}),
    "a high QC above the highest told": time_out(5, certify(B3), {1: (0,), 2: (1, 3)}),
    "a high QC that is none": time_out(5, certify(B2, (0, 1)), {1: (0,), 2: (1, 3)}),
    "another epoch": time_out(5, certify(B2), epoch=1),
    "signed for another epoch": replace(time_out(5, certify(B2), epoch=1), epoch=0),
    "another round": replace(GOOD_TC, round=6),
    "another signature": replace(GOOD_TC, aggregate=AGGREGATE),
    "members exchanged between groups": replace(
        GOOD_TC, groups=(TimeoutGroup(1, COMMITTEE.bitmap([1])), TimeoutGroup(2, COMMITTEE.bitmap([0, 3])))
    ),
}


@pytest.mark.parametrize("case", BAD_TC)
def test_a_tc_is_a_quorum_in_disjoint_groups_with_its_highest_qc(certificates: Certificates, case: str) -> None:
    for _ in range(2):
        assert not certificates.tc_is_valid(BAD_TC[case])
    assert certificates.tc_is_valid(GOOD_TC)
    assert certificates.tc_is_valid(time_out(5))


@pytest.mark.parametrize("case", BAD_TC)
def test_a_bad_tc_is_refused_wherever_it_comes(case: str) -> None:
    bench = Bench()
    wrong = BAD_TC[case]
    for effects in (
        bench.hear(1, wrong),
        bench.learn(GENESIS_QC, wrong),
        bench.hear(1, timeout(1, wrong.round + 1, certify(B3), wrong)),
    ):
        assert [what for what, _ in reports(effects)] == ["bad_certificate"]
    assert bench.replica.round == 1


# Timeouts.

GOOD_TIMEOUTS = {
    "the QC of the round before": timeout(1, 3, certify(B2)),
    "the TC of the round before and its QC": timeout(1, 5, certify(B2), time_out(4, certify(B2))),
    "the TC of the round before and a higher QC": timeout(1, 5, certify(B3), time_out(4, certify(B2))),
    "both": timeout(1, 4, certify(B3), time_out(3, certify(B2))),
    "the first round": timeout(1, 1),
}
BAD_TIMEOUTS = {
    "a QC of its own round": timeout(1, 2, certify(B2)),
    "a QC above its round": timeout(1, 1, certify(B2), None),
    "a QC of its own round beside a TC": timeout(1, 3, certify(B3), time_out(2, certify(B1))),
    "a lower QC without a TC": timeout(1, 5, certify(B2)),
    "the TC of another round": timeout(1, 5, certify(B2), time_out(3, certify(B2))),
    "a QC below that of its TC": timeout(1, 5, certify(B1), time_out(4, certify(B2))),
    "a QC that is none": timeout(1, 3, certify(B2, (0, 1))),
    "a TC that is none": timeout(1, 5, certify(B2), BAD_TC["no groups"]),
}


@pytest.mark.parametrize("case", GOOD_TIMEOUTS)
def test_a_timeout_shows_why_it_may_be_in_its_round(certificates: Certificates, case: str) -> None:
    assert certificates.timeout_is_justified(GOOD_TIMEOUTS[case])


@pytest.mark.parametrize("case", BAD_TIMEOUTS)
def test_a_timeout_without_a_reason_is_refused(case: str) -> None:
    bench = Bench()
    assert reports(bench.hear(1, BAD_TIMEOUTS[case])) == [("bad_certificate", 1)]
    assert (bench.replica.round, bench.replica._timeouts) == (1, {})


@pytest.mark.parametrize(
    "wrong", [timeout(2, 1), replace(timeout(1, 1), epoch=1)], ids=["another member's", "another epoch"]
)
def test_a_timeout_is_the_senders_own_and_of_this_epoch(wrong: Timeout) -> None:
    bench = Bench()
    assert reports(bench.hear(1, wrong)) == [("bad_timeout", 1)]
    assert bench.replica._timeouts == {}


def test_certificates_in_a_timeout_of_a_past_round_count_too() -> None:
    """Its own TC exists already; the QC in it may still be the highest."""
    bench = Bench()
    bench.hear(3, time_out(4))
    bench.hear(1, timeout(1, 3, certify(B2)))
    assert (bench.replica.round, bench.replica.high_qc) == (5, certify(B2))
    bench.hear(1, timeout(1, 5, certify(B2), time_out(4, certify(B2))))
    assert bench.replica.high_tc == time_out(4), "the TC of a round is any one of it"


# Votes.


def test_a_quorum_of_votes_makes_one_qc() -> None:
    bench = Bench()
    for proposal in (B1, B2):
        bench.propose(proposal)
    for voter in (3, 1):
        assert bench.hear(voter, vote(voter, B2)) == []
    effects = bench.hear(2, vote(2, B2))
    assert committed(effects) == [1]
    assert bench.replica.high_qc == certify(B2, (1, 2, 3))
    assert bench.hear(0, vote(0, B2)) == []
    assert bench.replica.high_qc == certify(B2, (1, 2, 3))


def test_votes_for_different_blocks_do_not_add_up() -> None:
    rival = block(B1, 2, time_ms=10_099)
    bench = Bench()
    for voter, proposal in ((0, B2), (1, B2), (2, rival), (3, rival)):
        assert bench.hear(voter, vote(voter, proposal)) == []
    assert bench.replica.high_qc == GENESIS_QC
    assert reports(bench.hear(2, vote(2, B2))) == [("evidence", 2), ("double_vote", 2)]
    assert bench.replica.high_qc == GENESIS_QC


@pytest.mark.parametrize(
    "wrong", [vote(2, B1), vote(1, B1, data=replace(vote_data(B1), epoch=1))], ids=["another member's", "another epoch"]
)
def test_a_vote_is_the_senders_own_and_of_this_epoch(wrong: object) -> None:
    bench = Bench()
    assert reports(bench.hear(1, wrong)) == [("bad_vote", 1)]  # type: ignore[arg-type]
    assert bench.replica._votes == {}


def test_a_forged_vote_is_named_and_dropped_and_the_others_count() -> None:
    bench = Bench()
    forged = replace(vote(1, B1), signature=vote(1, B2).signature)
    bench.hear(1, forged)
    bench.hear(2, vote(2, B1))
    assert reports(bench.hear(3, vote(3, B1))) == [("bad_signature", 1)]
    assert reports(bench.hear(1, forged) + bench.hear(1, vote(1, B1))) == []
    assert bench.replica.high_qc == GENESIS_QC
    bench.hear(0, vote(0, B1))
    assert bench.replica.high_qc == certify(B1, (0, 2, 3))


@pytest.mark.parametrize(("number", "kept"), [(9, False), (10, True), (26, True), (42, True), (43, False)])
def test_votes_are_kept_around_the_current_round(number: int, kept: bool) -> None:
    """Round 26; 16 to either side."""
    bench = Bench()
    bench.hear(3, time_out(25))
    data = replace(vote_data(B1), round=number)
    bench.hear(1, vote(1, B1, data=data))
    assert (number in bench.replica._votes) == kept


def test_a_late_quorum_of_votes_still_locks() -> None:
    """The round timed out first; its QC, formed afterwards, counts and leaves the round as it is."""
    bench = Bench()
    bench.propose(B1)
    bench.hear(3, time_out(3))
    for voter in (1, 2, 3):
        bench.hear(voter, vote(voter, B1))
    assert (bench.replica.high_qc, bench.replica.round) == (certify(B1, (1, 2, 3)), 4)


def test_slots_of_past_rounds_are_dropped() -> None:
    bench = Bench()
    bench.hear(1, vote(1, B1))
    bench.hear(1, timeout(1, 1))
    bench.hear(3, time_out(17))
    assert (len(bench.replica._votes), bench.replica._timeouts) == (0, {})


def test_what_is_signed_differs_by_chain_epoch_kind_and_content() -> None:
    data = vote_data(B2)
    messages = {
        vote_message(CHAIN_ID, data),
        vote_message(bytes(32), data),
        vote_message(CHAIN_ID, replace(data, epoch=1)),
        vote_message(CHAIN_ID, replace(data, round=9)),
        vote_message(CHAIN_ID, replace(data, block_id=bytes(32))),
        vote_message(CHAIN_ID, replace(data, parent_id=bytes(32))),
        vote_message(CHAIN_ID, replace(data, parent_round=9)),
        vote_message(CHAIN_ID, replace(data, commit_digest=bytes(32))),
    }
    assert len(messages) == 8
    assert {len(message) for message in messages} == {32}
