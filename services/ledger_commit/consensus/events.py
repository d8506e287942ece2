"""What goes into `Replica.step` and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from claims.encoding import U64, Codec, Hash
from claims.transaction import FIRST_LANE, OpenLane
from ledger_commit.consensus.messages import (
    BatchRef,
    Message,
    Proposal,
    QuorumCert,
    Round,
    Timeout,
    TimeoutCert,
    VoteData,
)


@dataclass(frozen=True, slots=True)
class SafetyRecord:
    """What must survive a crash before anything that relies on it is sent.

    `last_vote` and `last_timeout` are kept unsigned: the same message is signed again after a restart.
    Source: consensus.md §4 and §8.
    """

    epoch: Annotated[int, U64]
    last_voted_round: Round
    last_vote: VoteData | None
    last_timeout: Timeout | None
    last_proposed_round: Round
    last_proposed_id: Hash
    high_qc: QuorumCert
    high_tc: TimeoutCert | None

    @property
    def silent_through(self) -> int:
        """The last round in which nothing may be signed since it is not known what was: where the record rests on an
        operator's statement instead of a message of its own. 0 for any other record."""
        said = {message.round for message in (self.last_vote, self.last_timeout) if message is not None}
        return 0 if self.last_voted_round in said else self.last_voted_round

    def follows(self, statement_round: int) -> bool:
        """Whether it was made under an operator's statement of this round, or under a later one. What was signed before it ends at
        this round at the latest, and may well end there."""
        return self.last_voted_round > statement_round or self.silent_through == statement_round


SAFETY_RECORD: Final = Codec(SafetyRecord)


@dataclass(frozen=True, slots=True)
class Received:
    """A message that came over `sender`'s own authenticated stream (an index into the committee)."""

    sender: int
    message: Message


@dataclass(frozen=True, slots=True)
class BatchStored:
    """A batch with a valid lane signature is durable at this replica.

    Without the signature, where it is not at hand, the batch proves nothing against its maker.
    """

    ref: BatchRef
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class BlocksFetched:
    """Blocks that a peer gave, in height order; the chain of parent ids vouches for those before the last.

    For a range, `qc` certifies the last block; else it is one that was asked for by its id.
    """

    sender: int
    blocks: tuple[Proposal, ...]
    qc: QuorumCert | None = None


@dataclass(frozen=True, slots=True)
class Executed:
    """The contract has applied the committed block of this height."""

    height: int
    state_root: bytes
    results_size: int
    results_root: bytes
    lanes: Mapping[int, OpenLane] = field(default_factory=dict, compare=False)
    """By member, where it is not FIRST_LANE. It follows from the state root, by which headers tell of it."""

    def lane_of(self, member: int) -> OpenLane:
        return self.lanes.get(member, FIRST_LANE)


@dataclass(frozen=True, slots=True)
class Rejoin:
    """The operator's statement is executed, and this is what stands in the place of the record that was lost
    (`rejoining.py`)."""

    high_qc: QuorumCert
    high_tc: TimeoutCert | None
    last_voted_round: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; a timer that `SetTimer` asked for may be due."""


Event = Received | BatchStored | BlocksFetched | Executed | Rejoin | Tick


@dataclass(frozen=True, slots=True)
class Persist:
    """Blocks to the block log, then the safety record; both durable before the next effect is carried out.

    Without a safety record nothing that follows relies on the blocks, and no sync is needed.
    """

    blocks: tuple[Proposal, ...]
    safety: SafetyRecord | None


@dataclass(frozen=True, slots=True)
class Send:
    """To one member. A Vote in it is signed by the driver."""

    to: int
    message: Message


@dataclass(frozen=True, slots=True)
class Broadcast:
    """To every member. A Proposal, Vote or Timeout of this replica is signed by the driver and also comes back as
    `Received` from itself."""

    message: Message


@dataclass(frozen=True, slots=True)
class FetchBlocks:
    """Ask for a certified block by its id, and for so many of its ancestors: `members` in this order, until one gives it."""

    id: bytes
    ancestors: int
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FetchRange:
    """Ask for committed blocks of these heights, both included: two of `members` at once, in this order."""

    from_height: int
    to_height: int
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FetchBatches:
    """Ask for payload that a block names."""

    refs: tuple[BatchRef, ...]
    hint: int


@dataclass(frozen=True, slots=True)
class SetTimer:
    """`Tick` is wanted at this time (replaces the timer before)."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class Commit:
    """These blocks are final, in height order without a gap. The last one is committed directly.

    `qc` is the QC(B1) of rule C1: its vote data names the last block as parent.
    """

    blocks: tuple[Proposal, ...]
    qc: QuorumCert


@dataclass(frozen=True, slots=True)
class Report:
    """Something to count and log: `what` is a stable word, `member` whom it concerns, -1 for nobody."""

    what: str
    member: int = -1
    detail: str = ""


Effect = Persist | Send | Broadcast | FetchBlocks | FetchRange | FetchBatches | SetTimer | Commit | Report
