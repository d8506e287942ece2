"""What a Byzantine member does beside running twice: silence towards some, junk, lies under its own good signature.

It signs with its own key only, and repeats whatever it has heard. In an epoch after the first it also has certificates that
the same members signed in the epoch before.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from claims.encoding import Codec, DecodeError
from ledger_commit.consensus.events import BlocksFetched
from ledger_commit.consensus.evidence import DoubleProposal, SignedHeader, encode, evidence_root
from ledger_commit.consensus.messages import (
    PROPOSAL,
    SYNC_INFO,
    TIMEOUT,
    TIMEOUT_CERT,
    UNSIGNED,
    VOTE,
    ZERO,
    Header,
    Message,
    Proposal,
    QuorumCert,
    SyncInfo,
    Timeout,
    TimeoutCert,
    TimeoutGroup,
    Vote,
    VoteData,
    batches_root,
    block_id,
    certificate_digest,
    commit_digest,
    timeout_message,
    vote_message,
)
from runtime.bls import Bls, PyblstBackend
from tests.simulation.signatures import Signing

CODECS: Final[dict[type, Codec[Any]]] = {
    Proposal: PROPOSAL,
    Vote: VOTE,
    Timeout: TIMEOUT,
    TimeoutCert: TIMEOUT_CERT,
    SyncInfo: SYNC_INFO,
}
REMEMBERED: Final = 200
RATE: Final = 0.3
"""Of its messages it leaves this many as they should be."""
ALIKE: Final = 0.6


class Adversary:
    """Turns what a member would send to one peer into what it sends."""

    def __init__(self, member: int, signing: Signing, chance: random.Random, seen: Counter[str]) -> None:
        self.member = member
        self.signing = signing
        self.committee = signing.committee
        self.key = self.committee.members[member].public_key
        self.chance = chance
        self.seen = seen
        self.qcs: list[QuorumCert] = []
        self.tcs: list[TimeoutCert] = []
        self.blocks: list[Proposal] = []
        self.timeouts: dict[int, dict[int, Timeout]] = {}
        self.archive = list(self._certificates_of_the_epoch_before())
        self._spoken_of: Message | None = None
        self._to_all_alike = False
        self._story: list[Message] = []
        self.stubborn = chance.random() < 0.5
        """Never gives what it was asked for, and offers itself all the time."""
        self.alone: int | None = None
        """The secret with which it signs for everyone, should its key have been let in without proof of possession."""

    def hears(self, sender: int, message: Message) -> None:
        """Remembers what it can repeat."""
        match message:
            case Proposal():
                self.blocks.append(message)
                self.qcs.append(message.qc)
            case Timeout():
                self.qcs.append(message.high_qc)
                if message.voter == sender != self.member:
                    self.timeouts.setdefault(message.round, {})[message.voter] = message
                    self.timeouts.pop(message.round - 20, None)
            case TimeoutCert() if message not in self.tcs[-8:]:
                self.tcs.append(message)
        for memory in (self.qcs, self.tcs, self.blocks):
            del memory[:-REMEMBERED]

    def says(self, message: Message) -> list[Message]:
        """Instead of the message, to one peer: nothing, itself, something else, or more. Often the same to every peer."""
        if message is not self._spoken_of or not self._to_all_alike:
            self._spoken_of, self._to_all_alike = message, self.chance.random() < ALIKE
            self._story = self._invents(message)
        if self.stubborn and self.qcs:
            return [*self._story, SyncInfo(max(self.qcs, key=lambda qc: qc.round), None, 10**6)]
        return self._story

    def _invents(self, message: Message) -> list[Message]:
        if self.alone is not None and isinstance(message, Vote):
            return [message, self._signed_alone(message.data, self.alone)]
        if self.chance.random() < RATE:
            return [message]
        others: dict[type, tuple[Callable[[Any], list[Message]], ...]] = {
            Proposal: (
                self._other_header,
                self._other_payload,
                self._other_certificates,
                self._other_evidence,
                self._from_below,
            ),
            Vote: (self._other_vote, self._votes_ahead, self._bad_signature),
            Timeout: (self._lying_timeout, self._stale_tc, self._forged_tc, self._bad_signature),
            TimeoutCert: (self._stale_tc, self._forged_tc),
            SyncInfo: (self._tall_tale,),
        }
        ways = (self._nothing, self._junk, self._of_the_epoch_before, *others[type(message)])
        way = self.chance.choice(ways)
        self.seen[f"adversary{way.__name__}"] += 1
        return way(message)

    def gives(self, answer: BlocksFetched) -> BlocksFetched:
        """Blocks that a peer asked for: as they are, others, or changed ones."""
        if not self.stubborn and self.chance.random() < RATE:
            return answer
        self.seen["adversary_as_sync_peer"] += 1
        if self.stubborn and answer.qc is not None and len(answer.blocks) > 1 and self.chance.random() < 0.5:
            return replace(answer, blocks=answer.blocks[:1], qc=answer.blocks[1].qc)  # true, and of little use
        blocks = tuple(
            self._changed(block)
            if self.stubborn
            else self.chance.choice((block, *self.blocks[-5:], self._changed(block)))
            for block in answer.blocks
        )
        return replace(answer, blocks=blocks)

    def _changed(self, block: Proposal) -> Proposal:
        """In its header, in what the header names, or, by one that is not stubborn, where it does no harm."""
        changes: list[dict[str, Any]] = [
            {"header": replace(block.header, time_ms=block.header.time_ms + 1)},
            {"qc": replace(block.qc, signers=b"")},
        ]
        if not self.stubborn:
            changes.append({"signature": self.chance.randbytes(96)})
        return replace(block, **self.chance.choice(changes))

    # For every message.

    def _nothing(self, _message: Message) -> list[Message]:
        return []

    def _junk(self, message: Message) -> list[Message]:
        """Some flipped bits; what still decodes arrives."""
        codec = CODECS[type(message)]
        data = bytearray(codec.encode(message))
        for _ in range(self.chance.randint(1, 6)):
            data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
        try:
            return [codec.decode(bytes(data))]
        except DecodeError:
            self.seen["junk_undecodable"] += 1
            return []

    def _of_the_epoch_before(self, message: Message) -> list[Message]:
        if not self.archive:
            return [message]
        qc = self.chance.choice(self.archive)
        return [message, SyncInfo(qc, None, qc.round)]

    def _certificates_of_the_epoch_before(self) -> Iterator[QuorumCert]:
        """What these members did sign then, round by round."""
        if self.committee.epoch == 0:
            return
        everyone = list(range(len(self.committee)))
        for old_round in range(1, 400):
            identity = old_round.to_bytes(32, "big")
            data = VoteData(self.committee.epoch - 1, old_round, identity, ZERO, old_round - 1, ZERO)
            message = vote_message(self.committee.chain_id, data)
            votes = [self.signing.sign(member.public_key, message) for member in self.committee.members]
            yield QuorumCert(data, self.committee.bitmap(everyone), self.signing.checks.aggregate(votes))

    def _signed_alone(self, data: VoteData, secret: int) -> SyncInfo:
        told = replace(data, block_id=self.chance.randbytes(32))
        message = vote_message(self.committee.chain_id, told)
        everyone = self.committee.bitmap(list(range(len(self.committee))))
        return SyncInfo(QuorumCert(told, everyone, Bls(PyblstBackend()).sign(secret, message)), None, 0)

    # Proposals, signed anew.

    def _signed(self, proposal: Proposal, **header: Any) -> list[Message]:
        """The proposal with another header, and a vote for it."""
        told = replace(proposal.header, **header)
        if told.proposer != self.member:
            return [replace(proposal, header=told)]
        identity = block_id(told)
        return [
            replace(proposal, header=told, signature=self.signing.sign(self.key, identity)),
            self._vote(self._data(told, identity, proposal.qc.round)),
        ]

    def _data(self, header: Header, identity: bytes, parent_round: int) -> VoteData:
        digest = ZERO
        if header.round == parent_round + 1 and header.height > 1:
            digest = commit_digest(header.epoch, header.height - 1, header.parent_id, parent_round)
        return VoteData(header.epoch, header.round, identity, header.parent_id, parent_round, digest)

    def _other_header(self, proposal: Proposal) -> list[Message]:
        header = proposal.header
        change: dict[str, Any] = self.chance.choice(
            (
                {"exec_state_root": self.chance.randbytes(32)},
                {"exec_height": max(0, header.exec_height + self.chance.choice((-1, 1, 5)))},
                {"time_ms": max(0, header.time_ms + self.chance.choice((-4000, 1, 900)))},
                {"height": max(0, header.height + self.chance.choice((-1, 1)))},
                {"epoch": header.epoch + 1},
                {"round": header.round + self.chance.choice((1, 4))},
                {"schedule_digest": ZERO},
                {"snapshot_height": 7},
            )
        )
        return self._signed(proposal, **change)

    def _other_payload(self, proposal: Proposal) -> list[Message]:
        batches = proposal.batches[::-1] if self.chance.random() < 0.5 else proposal.batches[1:]
        return self._signed(replace(proposal, batches=batches), batches_root=batches_root(batches))

    def _other_certificates(self, proposal: Proposal) -> list[Message]:
        qc = self.chance.choice([*self.qcs, proposal.qc])
        tc = self.chance.choice([*self.tcs, None])
        told = replace(proposal, qc=qc, tc=tc)
        return self._signed(
            told, parent_id=qc.block_id, qc_digest=certificate_digest(qc), tc_digest=certificate_digest(tc)
        )

    def _other_evidence(self, proposal: Proposal) -> list[Message]:
        """What blocks have had already, or what nobody signed, against whoever proposed a block that it heard."""
        heard = [block for block in self.blocks if block.signature != UNSIGNED]
        if not heard:
            return [proposal]
        known = sorted({piece for block in self.blocks for piece in block.evidence})
        pieces = (self.chance.choice([self._made_up(self.chance.choice(heard)), *known]),)
        return self._signed(replace(proposal, evidence=pieces), evidence_root=evidence_root(pieces))

    def _made_up(self, block: Proposal) -> bytes:
        """The good signature of its proposer, and another block beside it under a bad one."""
        other = replace(block.header, time_ms=block.header.time_ms + 1)
        told = SignedHeader(block.header, block.signature), SignedHeader(other, self.chance.randbytes(96))
        return encode(DoubleProposal(*sorted(told, key=lambda each: block_id(each.header))))

    def _from_below(self, proposal: Proposal) -> list[Message]:
        """On an old block, with the TC of the round before as an excuse."""
        old = self.chance.choice([*self.blocks, proposal])
        due = [tc for tc in self.tcs if tc.round == proposal.header.round - 1]
        tc = proposal.tc or next(iter(due), None)
        if tc is None:
            return [proposal]
        told = replace(proposal, qc=old.qc, tc=tc, batches=())
        return self._signed(
            told,
            parent_id=old.qc.block_id,
            height=old.header.height,
            qc_digest=certificate_digest(old.qc),
            tc_digest=certificate_digest(tc),
            batches_root=batches_root(()),
            exec_height=old.header.exec_height,
            exec_state_root=old.header.exec_state_root,
            exec_results_size=old.header.exec_results_size,
            exec_results_root=old.header.exec_results_root,
        )

    # Votes.

    def _vote(self, data: VoteData) -> Vote:
        return Vote(data, self.member, self.signing.sign(self.key, vote_message(self.committee.chain_id, data)))

    def _other_vote(self, vote: Vote) -> list[Message]:
        rivals = [block_id(b.header) for b in self.blocks if b.header.round == vote.data.round]
        return [self._vote(replace(vote.data, block_id=self.chance.choice([*rivals, self.chance.randbytes(32)])))]

    def _votes_ahead(self, vote: Vote) -> list[Message]:
        """A flood for rounds that nobody is in."""
        return [self._vote(replace(vote.data, round=vote.data.round + ahead)) for ahead in range(0, 60, 3)]

    def _bad_signature(self, message: Any) -> list[Message]:
        return [replace(message, signature=self.chance.randbytes(96))]

    # Timeouts.

    def _lying_timeout(self, timeout: Timeout) -> list[Message]:
        """A lock below its own, for this round or another, with or without a TC that would allow it."""
        qc = self.chance.choice([*self.qcs, timeout.high_qc])
        tc = self.chance.choice([*self.tcs[-3:], timeout.last_tc, None])
        told_round = max(0, timeout.round + self.chance.choice((-1, 0, 0, 0, 1, 20)))
        message = timeout_message(self.committee.chain_id, timeout.epoch, told_round, qc.round)
        signature = self.signing.sign(self.key, message)
        return [replace(timeout, round=told_round, high_qc=qc, last_tc=tc, signature=signature)]

    def _stale_tc(self, message: Message) -> list[Message]:
        return [message, *self.chance.sample(self.tcs, min(2, len(self.tcs)))]

    def _forged_tc(self, message: Message) -> list[Message]:
        """Genuine timeouts of others, its own with a lock that it never had, and a made-up certificate to show for it."""
        quorum = self.committee.quorum_size
        for told_round in sorted(self.timeouts, reverse=True):
            others = list(self.timeouts[told_round].values())[: quorum - 1]
            if len(others) == quorum - 1 and all(t.high_qc.round < told_round - 1 for t in others):
                return [self._with_own_lock(told_round, others)]
        return [message]

    def _with_own_lock(self, told_round: int, others: list[Timeout]) -> TimeoutCert:
        chain_id, epoch, bitmap = self.committee.chain_id, self.committee.epoch, self.committee.bitmap
        lock = told_round - 1
        data = VoteData(epoch, lock, self.chance.randbytes(32), ZERO, 0, ZERO)
        made_up = QuorumCert(data, bitmap(list(range(self.committee.quorum_size))), self.chance.randbytes(96))
        rounds = sorted({t.high_qc.round for t in others})
        groups = [TimeoutGroup(r, bitmap([t.voter for t in others if t.high_qc.round == r])) for r in rounds]
        own = self.signing.sign(self.key, timeout_message(chain_id, epoch, told_round, lock))
        aggregate = self.signing.checks.aggregate([*(t.signature for t in others), own])
        return TimeoutCert(epoch, told_round, made_up, (*groups, TimeoutGroup(lock, bitmap([self.member]))), aggregate)

    def _tall_tale(self, info: SyncInfo) -> list[Message]:
        return [replace(info, committed_height=info.committed_height + 10**6)]
