"""What a power loss leaves: everything up to the last sync, and of the rest a beginning."""

from dataclasses import dataclass, field

from ledger_commit.consensus.events import SafetyRecord
from ledger_commit.consensus.messages import BatchRef, Proposal, block_id


@dataclass(frozen=True, slots=True)
class Marker:
    """This block is committed."""

    block: bytes


Entry = Proposal | BatchRef | Marker


@dataclass
class Disk:
    """The log as the driver writes it: one file, synced as a whole; and the safety record, which is written durably."""

    safety: SafetyRecord
    log: list[Entry] = field(default_factory=list)
    synced: int = 0
    blocks: dict[bytes, Proposal] = field(default_factory=dict)
    batches: dict[bytes, BatchRef] = field(default_factory=dict)
    committed: list[Proposal] = field(default_factory=list)
    durable: set[bytes] = field(default_factory=set)
    """Ids of blocks and digests of batches that a power loss cannot take."""
    trusted: bool = True
    """Whether the record is the one that was last written: false from a loss on until another is written."""
    named: int = 0
    """How many batches committed blocks name."""

    def append(self, entry: Entry) -> None:
        self.log.append(entry)
        self._index(entry)

    def sync(self) -> None:
        for entry in self.log[self.synced :]:
            if isinstance(entry, Proposal):
                self.durable.add(block_id(entry.header))
            elif isinstance(entry, BatchRef):
                self.durable.add(entry.digest)
        self.synced = len(self.log)

    def lose(self, kept: int) -> int:
        """Cuts the log to `kept` entries, at least the synced ones; returns how many went."""
        assert kept >= self.synced, "what was synced stays"
        lost = len(self.log) - kept
        if lost:
            del self.log[kept:]
            self.blocks, self.batches, self.committed, self.named = {}, {}, [], 0
            for entry in self.log:
                self._index(entry)
        self.sync()  # a replica that opens its log syncs what it found
        return lost

    def _index(self, entry: Entry) -> None:
        match entry:
            case Proposal():
                self.blocks[block_id(entry.header)] = entry
            case BatchRef():
                self.batches[entry.digest] = entry
            case Marker(identity):
                self.committed.append(self.blocks[identity])
                self.named += len(self.blocks[identity].batches)
