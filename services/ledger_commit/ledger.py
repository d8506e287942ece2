"""The executed ledger of one replica: the contract's state, the tree of results, and the headers that prove them.

Synchronous; the node runs it in one worker thread, so calls never overlap. A result is provable once a directly
committed header covers it (an anchor): its exec_results_size is above the leaf, and its certificate is known.
"""

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from claimledger.ledger.v1 import ledger_pb2
from claims.transaction import Genesis
from ledger_commit.consensus.events import Executed
from ledger_commit.consensus.messages import HEADER, QUORUM_CERT, ZERO, Header, QuorumCert
from ledger_commit.keys import verify_ed25519
from ledger_commit.settlement import BlockInput, Execution, State, apply
from ledger_commit.settlement.merkle import EMPTY_ROOT

RECENT_LEAVES: Final = 50_000
"""Results kept in memory for publishing; older ones come from the projection."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A directly committed header in the form in which proofs carry it."""

    height: int
    size: int
    header: bytes
    commit_qc: bytes


class Ledger:
    """Executes committed blocks and proves results."""

    def __init__(self, genesis: Genesis, chain_id: bytes) -> None:
        self.state = State.from_genesis(genesis, chain_id)
        self._members = {replica.organisation: index for index, replica in enumerate(genesis.replicas)}
        self.anchors: list[Anchor] = []
        self._sizes: list[int] = []
        self._recent: OrderedDict[int, bytes] = OrderedDict()

    @property
    def executed(self) -> Executed:
        """What headers say of this height."""
        lanes = {self._members[organisation]: opened for organisation, opened in self.state.lanes.items()}
        return Executed(self.state.height, self.state.root, len(self.state.results), self.results_root(), lanes)

    def results_root(self) -> bytes:
        return self.state.results.root() if len(self.state.results) else EMPTY_ROOT

    def execute(self, header: Header, entries: Sequence[bytes]) -> Execution:
        """Applies the next committed block."""
        first = len(self.state.results)
        block = BlockInput(header.height, header.round, header.time_ms, entries)
        execution = apply(self.state, block, verify_ed25519)
        for offset, result in enumerate(execution.results):
            self._recent[first + offset] = result
        while len(self._recent) > RECENT_LEAVES:
            self._recent.popitem(last=False)
        return execution

    def anchor(self, header: Header, qc: QuorumCert) -> Anchor:
        """Takes a directly committed header with the certificate that commits it."""
        made = Anchor(header.height, header.exec_results_size, HEADER.encode(header), QUORUM_CERT.encode(qc))
        self.anchors.append(made)
        self._sizes.append(made.size)
        return made

    @property
    def proven_size(self) -> int:
        """Leaves below this one can be proven."""
        return self._sizes[-1] if self._sizes else 0

    def recent(self, leaf: int) -> bytes | None:
        """The canonical result, if it is still in memory."""
        return self._recent.get(leaf)

    def prove(self, leaf: int, result: bytes) -> ledger_pb2.SettlementProof | None:
        """The proof of a leaf under the first anchor that covers it; None while there is none."""
        position = bisect_right(self._sizes, leaf)
        if position == len(self._sizes):
            return None
        anchor = self.anchors[position]
        return ledger_pb2.SettlementProof(
            result=result,
            leaf_index=leaf,
            tree_size=anchor.size,
            path=self.state.results.inclusion_path(leaf, anchor.size),
            header=anchor.header,
            commit_qc=anchor.commit_qc,
        )


class OpaqueLedger(Ledger):
    """Orders entries without looking into them: what is measured is consensus alone."""

    def __init__(self, genesis: Genesis, chain_id: bytes) -> None:
        super().__init__(genesis, chain_id)
        self.entries = 0
        self._executed = Executed(0, ZERO, 0, ZERO)

    @property
    def executed(self) -> Executed:
        return self._executed

    def execute(self, header: Header, entries: Sequence[bytes]) -> Execution:
        root = self._executed.state_root
        if entries:
            root = hashlib.sha256(root + b"".join(hashlib.sha256(e).digest() for e in entries)).digest()
        self.entries += len(entries)
        self._executed = Executed(header.height, root, self.entries, root)
        self.state.height = header.height
        return Execution(header.height, (), (), 0, 0, root, self.entries, root)

    def anchor(self, header: Header, qc: QuorumCert) -> Anchor:
        """Nothing can be proven of what was not looked into."""
        return replace(super().anchor(header, qc), size=0)
