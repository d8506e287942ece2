"""The blocks above the last committed one.

A node knows what follows from its chain alone (next sequence of each lane, the height that its chain commits), so every
replica that holds the chain judges a proposal on it alike, whatever else it has seen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ledger_commit.consensus.evidence import Charge, charges_of
from ledger_commit.consensus.messages import (
    BatchRef,
    MessageType,
    Proposal,
    block_id,
    signed_message,
)

TREE_LIMIT: Final = 4096
"""Uncommitted blocks held at most; a range fetch brings 256 at a time, a live round one."""
ORPHAN_LIMIT: Final = 64
"""Blocks that wait for a parent: a few for each member's slots."""


def genesis_id(chain_id: bytes) -> bytes:
    """The id that stands in the first block's parent_id."""
    return signed_message(MessageType.PROPOSAL, chain_id, 0, b"genesis")


@dataclass(frozen=True, slots=True)
class Root:
    """What the tree stands on: the last committed block as its descendants need to know it."""

    id: bytes
    height: int
    round: int
    parent_round: int
    time_ms: int
    exec_height: int
    exec_results_size: int
    commits_to: int
    """The height that this block's own chain commits."""
    lanes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """Next sequence of the newest lane that each member has used; 1 for any other. V7 lets none before it come again."""
    accused: frozenset[Charge] = frozenset()
    """What this block or one before it has evidence of."""

    @classmethod
    def genesis(cls, chain_id: bytes, time_ms: int) -> "Root":
        return cls(genesis_id(chain_id), 0, 0, 0, time_ms, 0, 0, 0)

    def child(self, proposal: Proposal, identity: bytes | None = None) -> "Root":
        """The same knowledge one block on. Pure; also how a driver finds the root of a block log."""
        header = proposal.header
        consecutive = self.height > 0 and self.round == self.parent_round + 1
        return Root(
            identity or block_id(header),
            header.height,
            header.round,
            self.round,
            header.time_ms,
            header.exec_height,
            header.exec_results_size,
            self.height - 1 if consecutive else self.commits_to,
            advance_lanes(self.lanes, proposal.batches),
            self.accused | charges_of(proposal.evidence) if proposal.evidence else self.accused,
        )

    def commits_after(self) -> int:
        """What a child of this block commits: its QC for this block may commit this block's parent."""
        return self.height - 1 if self.height > 0 and self.round == self.parent_round + 1 else self.commits_to


def advance_lanes(lanes: Mapping[tuple[int, int], int], batches: tuple[BatchRef, ...]) -> Mapping[tuple[int, int], int]:
    if not batches:
        return lanes
    after = dict(lanes)
    for ref in batches:
        if ref.lane not in after:
            after = {lane: following for lane, following in after.items() if lane[0] != ref.member}
        after[ref.lane] = ref.seq + 1
    return after


def lanes_follow(lanes: Mapping[tuple[int, int], int], batches: tuple[BatchRef, ...]) -> bool:
    """Whether each batch is the next of its lane (V7)."""
    following = dict(lanes)
    for ref in batches:
        if following.get(ref.lane, 1) != ref.seq:
            return False
        following[ref.lane] = ref.seq + 1
    return True


@dataclass(frozen=True, slots=True)
class Node:
    """A block in the tree; `parent` is None where the parent is the root."""

    proposal: Proposal
    facts: Root
    parent: "Node | None"

    @property
    def id(self) -> bytes:
        return self.facts.id


class Tree:
    def __init__(self, root: Root) -> None:
        self.root = root
        self._nodes: dict[bytes, Node] = {}
        self._orphans: dict[bytes, Proposal] = {}

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._nodes or identity == self.root.id

    def __len__(self) -> int:
        return len(self._nodes)

    def has_child(self, identity: bytes) -> bool:
        return any(node.proposal.header.parent_id == identity for node in self._nodes.values())

    def node(self, identity: bytes) -> Node | None:
        return self._nodes.get(identity)

    def facts(self, identity: bytes) -> Root | None:
        """What is known of the block, the root included."""
        if identity == self.root.id:
            return self.root
        node = self._nodes.get(identity)
        return node.facts if node else None

    def insert(self, proposal: Proposal) -> Node | None:
        """Adds a block whose parent is held; None where it is not, or the height does not follow, or the tree is full."""
        identity = block_id(proposal.header)
        if identity in self._nodes:
            return self._nodes[identity]
        parent_id = proposal.header.parent_id
        parent = self.facts(parent_id)
        if parent is None or proposal.header.height != parent.height + 1 or len(self._nodes) >= TREE_LIMIT:
            return None
        node = Node(proposal, parent.child(proposal, identity), self._nodes.get(parent_id))
        self._nodes[identity] = node
        return node

    def hold(self, proposal: Proposal) -> None:
        """Keeps a block whose parent is missing; the oldest goes when there are too many."""
        self._orphans[block_id(proposal.header)] = proposal
        if len(self._orphans) > ORPHAN_LIMIT:
            del self._orphans[next(iter(self._orphans))]

    def take_orphans_of(self, identity: bytes) -> list[Proposal]:
        """The held blocks that stand on this one; they are no longer held."""
        found = [(i, p) for i, p in self._orphans.items() if p.header.parent_id == identity]
        for orphan_id, _ in found:
            del self._orphans[orphan_id]
        return [proposal for _, proposal in found]

    def ancestors(self, node: Node | None) -> Iterator[Node]:
        """The node and its ancestors above the root, highest first."""
        while node is not None:
            yield node
            node = node.parent

    def keep_only(self, identity: bytes) -> None:
        """Drops all but this block and its ancestors, to make room; what is needed after all can be fetched."""
        self._nodes = {node.id: node for node in self.ancestors(self.node(identity))}

    def move_root(self, node: Node) -> None:
        """Makes a committed block the root and drops it and everything that does not stand on it."""
        self.root = node.facts
        kept: dict[bytes, Node] = {}
        for identity, other in sorted(self._nodes.items(), key=lambda item: item[1].facts.height):
            parent_id = other.proposal.header.parent_id
            if other.facts.height <= node.facts.height or (parent_id != node.id and parent_id not in kept):
                continue
            kept[identity] = replace(other, parent=kept.get(parent_id))
        self._nodes = kept
        self._orphans = {i: p for i, p in self._orphans.items() if p.header.height > node.facts.height}
