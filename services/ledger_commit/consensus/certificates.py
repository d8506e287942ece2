"""Checking certificates and making them from votes and timeouts.

Signatures are aggregated first and verified once at the quorum; only where that fails are they verified one by one, and
those who sent a bad one are named. What has been verified is remembered by digest, in a bounded table.

Source: consensus.md §2 and §6.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from ledger_commit.consensus.committee import Committee
from ledger_commit.consensus.messages import (
    Proposal,
    QuorumCert,
    Timeout,
    TimeoutCert,
    TimeoutGroup,
    Vote,
    VoteData,
    block_id,
    certificate_digest,
    genesis_cert,
    timeout_message,
    vote_message,
)

VERIFIED_LIMIT: Final = 4096
"""Remembered digests: some hundred rounds of certificates of each kind."""


class Signatures(Protocol):
    """Verification as the core needs it; BLS in the driver, unforgeable pairs in the simulator."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool: ...

    def aggregate(self, signatures: Sequence[bytes]) -> bytes: ...

    def verify_same(self, public_keys: Sequence[bytes], message: bytes, aggregate: bytes) -> bool: ...

    def verify_distinct(self, groups: Sequence[tuple[Sequence[bytes], bytes]], aggregate: bytes) -> bool: ...


class Certificates:
    """Says whether a certificate, a proposal or a timeout is signed as it claims."""

    def __init__(self, committee: Committee, signatures: Signatures, genesis_id: bytes) -> None:
        self.committee = committee
        self.signatures = signatures
        self.genesis = genesis_cert(genesis_id)
        self._verified: OrderedDict[bytes, None] = OrderedDict()

    def trust(self, certificate: QuorumCert | TimeoutCert) -> None:
        """Remembers a certificate as valid: made here, or vouched for by a certified descendant."""
        self._verified[certificate_digest(certificate)] = None
        while len(self._verified) > VERIFIED_LIMIT:
            self._verified.popitem(last=False)

    def qc_is_valid(self, qc: QuorumCert) -> bool:
        if qc.round == 0:
            return qc == self.genesis
        if certificate_digest(qc) in self._verified:
            return True
        signers = self.committee.signers(qc.signers)
        if qc.data.epoch != self.committee.epoch or signers is None or len(signers) < self.committee.quorum_size:
            return False
        message = vote_message(self.committee.chain_id, qc.data)
        if not self.signatures.verify_same(self.committee.keys(signers), message, qc.aggregate):
            return False
        self.trust(qc)
        return True

    def tc_is_valid(self, tc: TimeoutCert) -> bool:
        """Groups disjoint and together a quorum, every QC below the round, the highest one shown and valid."""
        if certificate_digest(tc) in self._verified:
            return True
        if tc.epoch != self.committee.epoch or not tc.groups or not self._groups_are_sound(tc):
            return False
        if not self.qc_is_valid(tc.high_qc):
            return False
        if not self.signatures.verify_distinct([self._signed(tc, group) for group in tc.groups], tc.aggregate):
            return False
        self.trust(tc)
        return True

    def _groups_are_sound(self, tc: TimeoutCert) -> bool:
        seen: set[int] = set()
        rounds = [group.qc_round for group in tc.groups]
        for group in tc.groups:
            signers = self.committee.signers(group.signers)
            if not signers or not seen.isdisjoint(signers):
                return False
            seen.update(signers)
        return (
            len(seen) >= self.committee.quorum_size
            and len(set(rounds)) == len(rounds)
            and max(rounds) < tc.round
            and max(rounds) == tc.high_qc.round
        )

    def _signed(self, tc: TimeoutCert, group: TimeoutGroup) -> tuple[list[bytes], bytes]:
        signers = self.committee.signers(group.signers) or []
        message = timeout_message(self.committee.chain_id, tc.epoch, tc.round, group.qc_round)
        return self.committee.keys(signers), message

    def proposal_is_signed(self, proposal: Proposal) -> bool:
        """By the proposer that its header names, whom the caller knows for a member."""
        key = self.committee.members[proposal.header.proposer].public_key
        return self.signatures.verify(key, block_id(proposal.header), proposal.signature)

    def timeout_is_justified(self, timeout: Timeout) -> bool:
        """Its high QC is of the round before, or a TC of the round before allows a lower one. Certificates only."""
        if not self.qc_is_valid(timeout.high_qc) or timeout.high_qc.round >= timeout.round:
            return False
        tc = timeout.last_tc
        if tc is not None and not self.tc_is_valid(tc):
            return False
        if timeout.high_qc.round == timeout.round - 1:
            return True
        return tc is not None and tc.round == timeout.round - 1 and timeout.high_qc.round >= tc.high_qc.round


@dataclass(slots=True)
class VoteSlots:
    """The votes of one round, one slot a voter."""

    votes: dict[int, Vote] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)
    """Voters whose signature was bad; they are not heard again in this round."""

    def for_data(self, data: VoteData) -> list[Vote]:
        return [vote for vote in self.votes.values() if vote.data == data]

    def try_certify(self, certificates: Certificates, data: VoteData) -> tuple[QuorumCert | None, list[int]]:
        """The certificate, if these votes make one, and the members whose signatures were bad (they are dropped)."""
        committee, signatures = certificates.committee, certificates.signatures
        votes = sorted(self.for_data(data), key=lambda vote: vote.voter)
        if len(votes) < committee.quorum_size:
            return None, []
        message = vote_message(committee.chain_id, data)
        voters = [vote.voter for vote in votes]
        aggregate = signatures.aggregate([vote.signature for vote in votes])
        if signatures.verify_same(committee.keys(voters), message, aggregate):
            qc = QuorumCert(data, committee.bitmap(voters), aggregate)
            certificates.trust(qc)
            return qc, []
        bad = [
            vote.voter
            for vote in votes
            if not signatures.verify(committee.members[vote.voter].public_key, message, vote.signature)
        ]
        for voter in bad:
            del self.votes[voter]
        self.dropped.update(bad)
        return None, bad


@dataclass(slots=True)
class TimeoutSlots:
    """The timeouts of one round, one slot a voter."""

    timeouts: dict[int, Timeout] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)

    def try_certify(self, certificates: Certificates) -> tuple[TimeoutCert | None, list[int]]:
        """As for votes; one group for each round of high QC that was reported."""
        committee, signatures = certificates.committee, certificates.signatures
        if len(self.timeouts) < committee.quorum_size:
            return None, []
        timeouts = [self.timeouts[voter] for voter in sorted(self.timeouts)]
        tc = _assemble(committee, signatures, timeouts)
        if certificates.tc_is_valid(tc):
            return tc, []
        bad = [t.voter for t in timeouts if not timeout_is_signed(committee, signatures, t)]
        for voter in bad:
            del self.timeouts[voter]
        self.dropped.update(bad)
        return None, bad


def timeout_is_signed(committee: Committee, signatures: Signatures, timeout: Timeout) -> bool:
    message = timeout_message(committee.chain_id, timeout.epoch, timeout.round, timeout.high_qc.round)
    return signatures.verify(committee.members[timeout.voter].public_key, message, timeout.signature)


def _assemble(committee: Committee, signatures: Signatures, timeouts: list[Timeout]) -> TimeoutCert:
    by_round: dict[int, list[int]] = {}
    for timeout in timeouts:
        by_round.setdefault(timeout.high_qc.round, []).append(timeout.voter)
    groups = tuple(TimeoutGroup(r, committee.bitmap(voters)) for r, voters in sorted(by_round.items()))
    high_qc = max((t.high_qc for t in timeouts), key=lambda qc: qc.round)
    aggregate = signatures.aggregate([t.signature for t in timeouts])
    first = timeouts[0]
    return TimeoutCert(first.epoch, first.round, high_qc, groups, aggregate)
