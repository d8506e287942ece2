"""Who hears a vote: everybody, or in a committee of more than ten the two leaders that come next.

Source: consensus.md §9.
"""

from dataclasses import replace
from functools import partial

import pytest

from ledger_commit.consensus.events import Broadcast, Effect, Persist, Received, SafetyRecord, Send
from ledger_commit.consensus.messages import Proposal, QuorumCert, SyncInfo, Vote, VoteData, block_id, vote_message
from ledger_commit.consensus.replica import VOTES_TO_ALL
from tests.fixtures.consensus import of, persisted, proposals
from tests.simulation.cluster import Cluster

NOW = 0
"""When a cluster begins."""


class Member:
    """One replica of a committee of any size, and what it does at its start. The others' votes are signed here."""

    def __init__(self, size: int, place: int, safety: SafetyRecord | None = None) -> None:
        cluster = Cluster(0, size)
        self.signing = cluster.signing
        self.committee = self.signing.committee
        self.me = self.committee.leader_of(place)
        self.first: list[Effect] = []
        host = cluster.hosts[self.me]
        host.disk.safety = safety or host.disk.safety
        host._carry_out = self.first.extend  # type: ignore[assignment, method-assign]
        host.start()
        self.replica = host.replica

    def leader(self, round_number: int) -> int:
        return self.committee.leader_of(round_number)

    def signs(self, member: int, message: bytes) -> bytes:
        return self.signing.sign(self.committee.members[member].public_key, message)

    def hears(self, proposal: Proposal) -> list[Effect]:
        signed = replace(proposal, signature=self.signs(proposal.header.proposer, block_id(proposal.header)))
        return self.replica.step(Received(proposal.header.proposer, signed), NOW)

    def hears_votes(self, data: VoteData) -> list[Effect]:
        """Of a quorum of others."""
        told: list[Effect] = []
        others = [member for member in range(len(self.committee)) if member != self.me]
        for voter in others[: self.committee.quorum_size]:
            signature = self.signs(voter, vote_message(self.committee.chain_id, data))
            told += self.replica.step(Received(voter, Vote(data, voter, signature)), NOW)
        return told


def first_proposal(size: int) -> Proposal:
    """What the leader of round 1 proposes at its start."""
    (proposal,) = proposals(Member(size, 1).first)
    return proposal


def cast(effects: list[Effect]) -> tuple[list[Vote], list[tuple[int, Vote]]]:
    """Votes to everyone, and votes to one member."""
    broadcast = [effect.message for effect in of(effects, Broadcast) if isinstance(effect.message, Vote)]
    return broadcast, [(effect.to, effect.message) for effect in of(effects, Send) if isinstance(effect.message, Vote)]


@pytest.mark.parametrize(("size", "to_all"), [(4, True), (VOTES_TO_ALL, True), (VOTES_TO_ALL + 1, False), (13, False)])
def test_votes_go_to_everyone_or_to_the_leaders_of_the_next_two_rounds(size: int, to_all: bool) -> None:
    """After what makes them durable, in both cases."""
    member = Member(size, 5)
    effects = member.hears(first_proposal(size))
    broadcast, single = cast(effects)
    assert len(broadcast) == to_all
    assert [to for to, _ in single] == ([] if to_all else [member.leader(2), member.leader(3)])
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Persist) < min(kinds.index(kind) for kind in (Broadcast, Send) if kind in kinds)


@pytest.mark.parametrize("place", [2, 3])
def test_a_next_leader_votes_for_itself_too(place: int) -> None:
    """Its vote is one of the quorum that it collects."""
    member = Member(13, place)
    _, single = cast(member.hears(first_proposal(13)))
    assert [to for to, _ in single] == [member.leader(2), member.leader(3)]
    assert member.me in dict(single)


def test_a_vote_is_said_again_at_start_to_those_who_collect_it() -> None:
    before = Member(13, 5)
    record = persisted(before.hears(first_proposal(13)))[-1]
    broadcast, single = cast(Member(13, 5, record).first)
    assert (broadcast, [to for to, _ in single]) == ([], [before.leader(2), before.leader(3)])


shown = partial(filter, lambda effect: isinstance(effect, Broadcast) and isinstance(effect.message, SyncInfo))


def test_the_second_leader_shows_the_certificate_and_the_first_one_proposes_with_it() -> None:
    """All others have heard no vote of that round, and would time it out where the first one is silent or has no work."""
    proposal = first_proposal(13)
    for place, shows in ((2, 0), (3, 1)):
        member = Member(13, place)
        _, ((_, vote), _) = cast(member.hears(proposal))
        effects = member.hears_votes(vote.data)
        assert member.replica.high_qc.round == 1
        assert len(list(shown(effects))) == shows
        for effect in shown(effects):
            assert effect.message == SyncInfo(member.replica.high_qc, None, 0)
            assert isinstance(effect.message.high_qc, QuorumCert)


def test_where_everyone_hears_the_votes_nobody_shows_a_certificate() -> None:
    member = Member(4, 3)
    ((vote,), _) = cast(member.hears(first_proposal(4)))
    assert list(shown(member.hears_votes(vote.data))) == []
    assert member.replica.high_qc.round == 1
