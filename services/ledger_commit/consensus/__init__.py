"""Jolteon with a leader for every round, as one pure state machine.

`Replica.step(event, now_ms)` takes what happened and returns what is to be done, in order. Nothing in this package
knows a socket, a file, a clock or a key: time and verification arrive as arguments, signing and durability leave
as effects. The driver (`node.py`) and the simulator (tests/simulation) run the same class.

Source: Jolteon and Ditto, arXiv 2106.10362; docs/ARCHITECTURE.md, Consensus.
"""

from ledger_commit.consensus.committee import Committee, Member
from ledger_commit.consensus.events import (
    BatchStored,
    BlocksFetched,
    Broadcast,
    Commit,
    Effect,
    Event,
    Executed,
    FetchBatches,
    FetchBlocks,
    FetchRange,
    Persist,
    Received,
    Rejoin,
    Report,
    SafetyRecord,
    Send,
    SetTimer,
    Tick,
)
from ledger_commit.consensus.messages import (
    Batch,
    BatchRef,
    Header,
    Proposal,
    QuorumCert,
    SyncInfo,
    Timeout,
    TimeoutCert,
    Vote,
    VoteData,
)
from ledger_commit.consensus.replica import Replica
from ledger_commit.consensus.tree import Root

__all__ = [
    "Batch",
    "BatchRef",
    "BatchStored",
    "BlocksFetched",
    "Broadcast",
    "Commit",
    "Committee",
    "Effect",
    "Event",
    "Executed",
    "FetchBatches",
    "FetchBlocks",
    "FetchRange",
    "Header",
    "Member",
    "Persist",
    "Proposal",
    "QuorumCert",
    "Received",
    "Rejoin",
    "Replica",
    "Report",
    "Root",
    "SafetyRecord",
    "Send",
    "SetTimer",
    "SyncInfo",
    "Tick",
    "Timeout",
    "TimeoutCert",
    "Vote",
    "VoteData",
]
