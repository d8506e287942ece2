"""The newest signatures of each other member that a replica holds, and whether one proves anything to that member.

After every start a member asks its peers for its own newest signature and signs nothing where that is of a later round than its
safety record ends at. A number alone would let one liar silence every replica that restarts, so the
signed message itself is kept, without what its signature can be checked without.

Source: consensus.md §8.
"""

from dataclasses import replace

from ledger_commit.consensus.certificates import Certificates, timeout_is_signed
from ledger_commit.consensus.committee import Committee
from ledger_commit.consensus.messages import Proposal, QuorumCert, Timeout, Vote, vote_message

Signed = Proposal | Vote | Timeout | QuorumCert
"""A certificate is a signature of each of its signers: nobody aggregates a share that was never made."""


def round_of(message: Signed) -> int:
    match message:
        case Proposal(header):
            return header.round
        case Vote(data):
            return data.round
    return message.round


class LastSeen:
    """For each member the message of the highest round, one of each kind.

    The kinds stand beside each other since nothing is verified when it is noted: a signature that does not hold hides none of
    another kind.
    """

    def __init__(self) -> None:
        self._held: dict[int, dict[type[Signed], Signed]] = {}
        self._certificate: QuorumCert | None = None

    def note(self, member: int, message: Signed) -> None:
        """What came from the member itself, or from its own log."""
        held = self._held.setdefault(member, {})
        before = held.get(type(message))
        if before is None or round_of(before) < round_of(message):
            held[type(message)] = _bare(message)

    def note_block(self, block: Proposal, committee: Committee) -> None:
        """A block of the log, whose certificate has been verified: its proposer, and all who signed for its parent."""
        self.note(block.header.proposer, block)
        self.note_certificate(block.qc, committee)

    def note_certificate(self, qc: QuorumCert, committee: Committee) -> None:
        """One that has been verified. In a large committee most members hear of another's vote by it alone."""
        if qc is self._certificate or qc.round == 0:
            return
        self._certificate = qc
        for signer in committee.signers(qc.signers) or []:
            self.note(signer, qc)

    def proven(self, member: int, certificates: Certificates) -> Signed | None:
        """The newest one whose signature holds."""
        newest_first = sorted(self._held.get(member, {}).values(), key=round_of, reverse=True)
        return next((message for message in newest_first if is_signed_by(member, message, certificates)), None)


def _bare(message: Signed) -> Signed:
    """Without payload, evidence and timeout certificate, which no signature needs; so what is kept has a small, fixed bound."""
    match message:
        case Proposal():
            return replace(message, batches=(), tc=None, evidence=())
        case Timeout():
            return replace(message, last_tc=None)
    return message


def is_signed_by(member: int, message: Signed, certificates: Certificates) -> bool:
    """Whether the member signed this on this chain and in this epoch, whoever shows it."""
    committee, signatures = certificates.committee, certificates.signatures
    match message:
        case Proposal(header):
            domain = (header.chain_id, header.epoch, header.proposer)
            return domain == (committee.chain_id, committee.epoch, member) and certificates.proposal_is_signed(message)
        case Vote(data, voter, signature):
            told, key = vote_message(committee.chain_id, data), committee.members[member].public_key
            return (data.epoch, voter) == (committee.epoch, member) and signatures.verify(key, told, signature)
        case Timeout():
            author = (message.epoch, message.voter)
            return author == (committee.epoch, member) and timeout_is_signed(committee, signatures, message)
    return member in (committee.signers(message.signers) or []) and certificates.qc_is_valid(message)
