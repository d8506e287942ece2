"""Certificates under real signatures: who counts, how often, and under which bitmap; and which keys make a committee.

Source: consensus.md §2 and §6.
"""

from dataclasses import replace
from typing import Any

import pytest

from claims.transaction import Genesis
from ledger_commit.consensus.certificates import Certificates
from ledger_commit.consensus.committee import Committee, Member
from ledger_commit.consensus.messages import (
    ZERO,
    QuorumCert,
    TimeoutCert,
    TimeoutGroup,
    VoteData,
    timeout_message,
    vote_message,
)
from ledger_commit.opening import GenesisError, committee_of
from runtime.bls import ORDER, Bls, PyblstBackend
from tests.fixtures.ledger_world import genesis

BLS = Bls(PyblstBackend())
CHAIN_ID = bytes((9,)) * 32
SECRETS = tuple(range(11, 21))
DATA = VoteData(0, 7, bytes((1,)) * 32, bytes((2,)) * 32, 6, ZERO)
ROUND = 9


def committee(size: int = 4) -> Committee:
    return Committee(CHAIN_ID, 0, tuple(Member(f"org{s}", BLS.public_key(s), bytes(32)) for s in SECRETS[:size]))


class Credulous(Bls):
    """Takes any aggregate for good, so that what is refused is refused for its form."""

    def verify_distinct(self, *_: Any, **__: Any) -> bool:
        return True


def certificates(size: int = 4, bls: Bls = BLS) -> Certificates:
    """One that remembers nothing."""
    return Certificates(committee(size), bls, ZERO)


def qc(voters: list[int], bitmap: bytes | None = None, data: VoteData = DATA, size: int = 4) -> QuorumCert:
    message = vote_message(CHAIN_ID, data)
    aggregate = BLS.aggregate([BLS.sign(SECRETS[voter % size], message) for voter in voters])
    return QuorumCert(data, committee(size).bitmap(voters) if bitmap is None else bitmap, aggregate)


def tc(groups: list[tuple[int, list[int]]], high_qc: QuorumCert, tc_round: int = ROUND) -> TimeoutCert:
    signatures = [
        BLS.sign(SECRETS[voter], timeout_message(CHAIN_ID, 0, tc_round, qc_round))
        for qc_round, voters in groups
        for voter in voters
    ]
    named = tuple(TimeoutGroup(qc_round, committee().bitmap(voters)) for qc_round, voters in groups)
    return TimeoutCert(0, tc_round, high_qc, named, BLS.aggregate(signatures))


def test_three_of_four_make_a_certificate_and_two_do_not() -> None:
    assert certificates().qc_is_valid(qc([0, 1, 2]))
    assert certificates().qc_is_valid(qc([0, 1, 2, 3]))
    assert not certificates().qc_is_valid(qc([0, 1]))


@pytest.mark.parametrize(
    "bitmap",
    [b"", b"\x07\x00", b"\x17", b"\x87", b"\x0b", b"\x0f", b"\x00"],
    ids=["empty", "a byte too many", "member 4 of 4", "member 7 of 4", "another signer", "one more", "nobody"],
)
def test_a_bitmap_names_exactly_those_who_signed(bitmap: bytes) -> None:
    """Right length, no index beyond the committee, nobody else."""
    assert not certificates().qc_is_valid(qc([0, 1, 2], bitmap))


def test_a_committee_of_nine_or_more_has_two_bytes() -> None:
    voters = [0, 2, 4, 6, 7, 8, 9]
    assert certificates(10).qc_is_valid(qc(voters, size=10))
    whole = committee(10).bitmap(voters)
    assert not certificates(10).qc_is_valid(qc(voters, whole[:1], size=10))
    assert not certificates(10).qc_is_valid(qc(voters, whole[:1] + bytes((whole[1] | 4,)), size=10))


def test_a_signature_twice_is_one_signer() -> None:
    """The sum with one member's signature twice verifies under no bitmap."""
    for bitmap in range(16):
        assert not certificates().qc_is_valid(qc([0, 1, 1], bytes((bitmap,))))


def test_a_certificate_is_of_this_chain_epoch_and_block() -> None:
    valid = qc([0, 1, 2])
    for data in (replace(DATA, epoch=1), replace(DATA, block_id=ZERO), replace(DATA, commit_digest=b"\x01" * 32)):
        assert not certificates().qc_is_valid(replace(valid, data=data))
    assert not certificates().qc_is_valid(qc([0, 1, 2], data=replace(DATA, epoch=1)))
    other = Certificates(replace(committee(), chain_id=ZERO), BLS, ZERO)
    assert not other.qc_is_valid(valid)


@pytest.mark.parametrize("aggregate", [bytes(96), b"\xc0" + bytes(95), b"\xff" * 96])
def test_what_is_no_signature_certifies_nothing(aggregate: bytes) -> None:
    assert not certificates().qc_is_valid(replace(qc([0, 1, 2]), aggregate=aggregate))
    assert not certificates().tc_is_valid(replace(tc([(7, [0, 1, 2])], qc([0, 1, 2])), aggregate=aggregate))


def test_a_certificate_that_failed_is_not_remembered_as_valid() -> None:
    judge, valid = certificates(), qc([0, 1, 2])
    for _ in range(2):
        assert not judge.qc_is_valid(replace(valid, signers=b"\x0b"))
    assert judge.qc_is_valid(valid)
    assert not judge.qc_is_valid(replace(valid, signers=b"\x0b"))


def test_timeouts_of_several_locks_make_one_certificate() -> None:
    assert certificates().tc_is_valid(tc([(7, [0, 1, 2])], qc([0, 1, 2])))
    assert certificates().tc_is_valid(tc([(3, [3]), (7, [0, 1])], qc([0, 1, 2])))


@pytest.mark.parametrize(
    ("groups", "shown_round"),
    [
        pytest.param([(3, [0, 1]), (7, [1, 2])], 7, id="one signer in two groups"),
        pytest.param([(7, [0, 1]), (7, [2])], 7, id="one round in two groups"),
        pytest.param([(3, []), (7, [0, 1, 2])], 7, id="an empty group"),
        pytest.param([(7, [0, 1])], 7, id="no quorum"),
        pytest.param([], 7, id="no groups"),
        pytest.param([(3, [0, 1, 2])], 7, id="a high QC that nobody had"),
        pytest.param([(3, [0]), (8, [1, 2])], 7, id="a lock above the QC shown"),
        pytest.param([(ROUND, [0, 1, 2])], ROUND, id="a lock of the round itself"),
    ],
)
def test_a_timeout_certificate_that_is_not_sound_is_refused(
    groups: list[tuple[int, list[int]]], shown_round: int
) -> None:
    shown = qc([0, 1, 2], data=replace(DATA, round=shown_round))
    assert certificates().qc_is_valid(shown)
    for bls in (BLS, Credulous(PyblstBackend())):
        assert not certificates(bls=bls).tc_is_valid(tc(groups, shown))


def test_a_timeout_certificate_needs_the_quorum_certificate_behind_it() -> None:
    forged = replace(qc([0, 1, 2]), signers=b"\x0f")
    assert not certificates().tc_is_valid(tc([(7, [0, 1, 2])], forged))
    assert not certificates().tc_is_valid(replace(tc([(7, [0, 1, 2])], qc([0, 1, 2])), epoch=1))


def test_one_key_is_one_member() -> None:
    key = BLS.public_key(11)
    with pytest.raises(ValueError, match="twice"):
        Committee(CHAIN_ID, 0, (Member("one", key, bytes(32)), Member("other", key, bytes(32))))


@pytest.mark.parametrize("size", [0, 65])
def test_a_committee_has_one_to_sixty_four_members(size: int) -> None:
    members = tuple(Member(f"org{i}", i.to_bytes(48, "big"), bytes(32)) for i in range(size))
    with pytest.raises(ValueError, match="members"):
        Committee(CHAIN_ID, 0, members)


def founded(possession_of_the_last: bytes, last_key: bytes) -> Genesis:
    given = genesis()
    replicas = [
        replace(replica, bls_public_key=BLS.public_key(secret), bls_possession=BLS.prove_possession(secret))
        for replica, secret in zip(given.replicas, SECRETS, strict=False)
    ]
    replicas[-1] = replace(replicas[-1], bls_public_key=last_key, bls_possession=possession_of_the_last)
    return replace(given, replicas=tuple(replicas))


def test_a_key_enters_the_committee_with_its_proof_of_possession() -> None:
    made = committee_of(founded(BLS.prove_possession(14), BLS.public_key(14)), CHAIN_ID, BLS)
    assert [member.public_key for member in made.members] == [BLS.public_key(secret) for secret in SECRETS[:4]]


def test_a_key_made_to_cancel_the_others_keeps_out() -> None:
    """Its owner could sign alone for all four: the sum of the keys would be its own key."""
    others = BLS.backend.add([BLS.key_point(BLS.public_key(secret)) for secret in SECRETS[:3]])
    point = BLS.backend.add([BLS.key_point(BLS.public_key(5)), BLS.backend.times(others, ORDER - 1)])
    rogue = BLS.backend.write_key(point)
    keys = [*(BLS.public_key(secret) for secret in SECRETS[:3]), rogue]
    message = vote_message(CHAIN_ID, DATA)
    assert BLS.verify_same(keys, message, BLS.sign(5, message)), "what the proof is there to keep out"
    for possession in (BLS.prove_possession(5), BLS.prove_possession(14), bytes(96), b"\xc0" + bytes(95)):
        with pytest.raises(GenesisError, match="meridian"):
            committee_of(founded(possession, rogue), CHAIN_ID, BLS)
