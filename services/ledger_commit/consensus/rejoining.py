"""What a member that lost its record may say again, and from which round on: out of what Q others hold.

The member has signed something in rounds up to some c, and knows neither c nor its lock. From Q members other than itself it
takes the highest certificates; R is the highest round that one of them is in. It signs nothing up to round R+1. That suffices:

Whatever it signed (vote, timeout or proposal) it signed in the round that it was in, and it entered round c by a certificate of
round c−1. Q members signed for that certificate, in round c−1, before the member entered c and so before anybody was asked. Any Q
members and those Q have 2Q−n ≥ f+1 in common. The member itself counts against f until its statement is executed, so that at
most f−1 others lie: one of those in common, other than the member, is honest, was in round c−1 when it signed, never falls
behind its record, and so answers with a round of c−1 or later. Hence R ≥ c−1, and R+1 ≥ c: in no round that it signs in
from now on did it sign before. With R instead of R+1 it could sign twice in c, where it was the first to be.

The lock. Let its old vote be one of the votes of a certificate QC(B) of round r ≤ c ≤ R+1, whenever that certificate is made; B's
parent has a QC of round q. It signs in no round before R+2 ≥ r+1, and it enters one only by a certificate of round r or later. A
QC of a later round is of a block whose voters saw what follows here. A TC of round t, r ≤ t ≤ R+1, has no signature that the
member made since; its signers have f+1 in common with those of QC(B), of whom one that is honest voted in r before it
timed out in t, with a QC of round q or later. The TC shows the highest, the member takes it over (L1), and its first
timeout tells of it. So what QC(B) commits is never forked, though the lock is lost. Where QC(B) is never made, a lower lock than
the lost one hides nothing; evidence of a violated lock is therefore only what one member said on one side of its statement.

The highest QC of the others is stated and kept as the lock from the start: the member says nothing that is older than what it was
shown, and the round in which it follows is the present one.

An answer counts only with certificates that are valid: nobody can raise R by a number, and so keep a member silent for ever. Who
tells of old certificates is one of those who lie, or one that is late; the intersection takes care of either. With fewer than
Q answers nothing is known, and the member comes back in the next epoch.

Source: consensus.md §8; docs/adr/0020-rejoining.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ledger_commit.consensus.certificates import Certificates
from ledger_commit.consensus.events import Rejoin
from ledger_commit.consensus.messages import SyncInfo


@dataclass(frozen=True, slots=True)
class TooFewAnswers(Exception):  # noqa: N818 - what it is
    """Fewer than Q others answered with certificates that hold. `refused` are members whose certificates did not."""

    answers: int
    due: int
    refused: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.answers} other members showed valid certificates, {self.due} are due"


def round_of(told: SyncInfo) -> int:
    """The round that a member with these certificates is in (P1)."""
    return max(told.high_qc.round, told.high_tc.round if told.high_tc else 0) + 1


def holds(told: SyncInfo, certificates: Certificates) -> bool:
    """Whether the certificates are what they say. The committed height is nobody's proof of anything, and not used."""
    return certificates.qc_is_valid(told.high_qc) and (told.high_tc is None or certificates.tc_is_valid(told.high_tc))


def rejoin_from(answers: Mapping[int, SyncInfo], me: int, certificates: Certificates) -> Rejoin:
    """Where to begin again, from the answers of other members. Raises TooFewAnswers."""
    told = {member: answer for member, answer in answers.items() if member != me}
    sound = [answer for answer in told.values() if holds(answer, certificates)]
    due = certificates.committee.quorum_size
    if len(sound) < due:
        refused = tuple(member for member, answer in sorted(told.items()) if not holds(answer, certificates))
        raise TooFewAnswers(len(sound), due, refused)
    high_qc = max((answer.high_qc for answer in sound), key=lambda qc: qc.round)
    high_tc = max((a.high_tc for a in sound if a.high_tc), key=lambda tc: tc.round, default=None)
    return Rejoin(high_qc, high_tc, last_voted_round=max(map(round_of, sound)) + 1)
