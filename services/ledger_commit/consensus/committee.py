"""Who decides in an epoch, how many make a quorum, and whose turn it is."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from ledger_commit.consensus.messages import MAX_COMMITTEE


@dataclass(frozen=True, slots=True)
class Member:
    organisation: str
    public_key: bytes
    """BLS, 48 bytes, its proof of possession already checked."""
    lane_key: bytes
    """Ed25519, 32 bytes; signs the member's batches."""


@dataclass(frozen=True)
class Committee:
    """The replicas of one epoch in genesis order. n ≥ 1; f = ⌊(n−1)/3⌋; quorum ⌈(n+f+1)/2⌉.

    Raises ValueError for an empty or oversized committee or a key that stands in it twice. Source: consensus.md §2.
    """

    chain_id: bytes
    epoch: int
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.members) <= MAX_COMMITTEE:
            raise ValueError(f"a committee has 1 to {MAX_COMMITTEE} members, not {len(self.members)}")
        if len({m.public_key for m in self.members}) != len(self.members):
            raise ValueError("the same public key stands twice in the committee")

    def __len__(self) -> int:
        return len(self.members)

    @cached_property
    def faults(self) -> int:
        return (len(self.members) - 1) // 3

    @cached_property
    def quorum_size(self) -> int:
        return -(-(len(self.members) + self.faults + 1) // 2)

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 over the members in order: length-prefixed organisation, BLS key."""
        digest = hashlib.sha256()
        for member in self.members:
            name = member.organisation.encode()
            digest.update(len(name).to_bytes(2, "big") + name + member.public_key)
        return digest.digest()

    @cached_property
    def schedule(self) -> tuple[int, ...]:
        """The permutation that leaders follow, drawn from H(chain_id ‖ epoch ‖ committee hash)."""
        seed = hashlib.sha256(self.chain_id + self.epoch.to_bytes(8, "big") + self.hash).digest()
        return tuple(sorted(range(len(self.members)), key=lambda i: hashlib.sha256(seed + bytes((i,))).digest()))

    @cached_property
    def schedule_digest(self) -> bytes:
        """What every header of the epoch names; fixed while nobody is left out of the rotation."""
        return hashlib.sha256(b"schedule" + bytes(self.schedule)).digest()

    def leader_of(self, round_number: int) -> int:
        """The member who proposes in this round."""
        return self.schedule[round_number % len(self.schedule)]

    def index_of(self, organisation: str) -> int | None:
        """The organisation's place, or None where it is no member."""
        return next((i for i, m in enumerate(self.members) if m.organisation == organisation), None)

    def keys(self, indices: list[int]) -> list[bytes]:
        return [self.members[i].public_key for i in indices]

    def bitmap(self, indices: list[int]) -> bytes:
        bits = bytearray(-(-len(self.members) // 8))
        for i in indices:
            bits[i // 8] |= 1 << (i % 8)
        return bytes(bits)

    def signers(self, bitmap: bytes) -> list[int] | None:
        """The members that a bitmap names, or None where it has the wrong length or a bit beyond the committee."""
        if len(bitmap) != -(-len(self.members) // 8):
            return None
        indices = [i for i in range(len(bitmap) * 8) if bitmap[i // 8] >> (i % 8) & 1]
        return None if indices and indices[-1] >= len(self.members) else indices
