"""Four replicas in one loop: the real Node, Lane, block log and safety record, over a disk that can lose its power.

Messages go from node to node in memory; what a replica sends is written down, with what was durable at that moment.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from claimledger.ledger.v1 import ledger_pb2
from claims.transaction import GENESIS, Genesis, GenesisReplica
from ledger_commit.adapters.block_log import BlockLog
from ledger_commit.adapters.disk import DiskFile
from ledger_commit.adapters.safety_record import SafetyFile
from ledger_commit.consensus.events import SafetyRecord
from ledger_commit.consensus.messages import BATCH, Batch, BatchRef, Proposal, Timeout, Vote, block_id
from ledger_commit.consensus.pacemaker import Pace
from ledger_commit.keys import ReplicaKeys
from ledger_commit.ledger import OpaqueLedger
from ledger_commit.node import Node
from ledger_commit.opening import committee_of, open_disk
from ledger_commit.peer_service import PeerServicer
from ledger_commit.seen import SeenRecords
from ledger_commit.wire import from_request, to_last_seen
from runtime.bls import Bls, backend
from tests.unit.ledger.losing_disk import LosingFile, Power, PowerLossError

SIZE = 4
BLS = Bls(backend())
SECRETS = tuple(1000 + i for i in range(SIZE))
LANES = tuple(Ed25519PrivateKey.from_private_bytes(bytes([i + 1]) * 32) for i in range(SIZE))
REPLICAS = tuple(
    GenesisReplica(
        f"org-{i}",
        BLS.public_key(SECRETS[i]),
        BLS.prove_possession(SECRETS[i]),
        LANES[i].public_key().public_bytes_raw(),
    )
    for i in range(SIZE)
)
FOUNDING = Genesis("machines", "USD", time.time_ns() // 1_000_000 - 60_000, REPLICAS, ())
CHAIN_ID = hashlib.sha256(GENESIS.encode(FOUNDING)).digest()
COMMITTEE = committee_of(FOUNDING, CHAIN_ID, BLS)
PACE = Pace(base_ms=90, max_ms=200, idle_ms=300)


@dataclass(frozen=True, slots=True)
class Durable:
    """What a restart would find, had the power gone off at this moment."""

    safety: SafetyRecord
    log_size: int
    blocks: frozenset[bytes]
    batches: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Sent:
    """A message, as it was given to the network, with the syncs of log and safety record before it."""

    message: Any
    log_syncs: int
    safety_syncs: int
    durable: Durable | None


class Neighbour:
    """Another machine, as a node sees its peers."""

    def __init__(self, of: "Machine", to: "Machine") -> None:
        self._of, self._to = of, to
        self.index = to.me
        self.organisation = COMMITTEE.members[to.me].organisation

    async def last_seen(self) -> ledger_pb2.GetLastSeenResponse | None:
        return None if self._to.power.off else to_last_seen(self._to.node.last_signed_by(self._of.me))

    async def blocks(self, request: ledger_pb2.FetchBlocksRequest) -> list[ledger_pb2.FetchBlocksResponse]:
        await asyncio.sleep(0)
        return [] if self._to.power.off else list(PeerServicer(self._to.node).blocks(request))

    async def batches(self, refs: list[BatchRef]) -> list[bytes]:
        await asyncio.sleep(0)
        found = [] if self._to.power.off else [self._to.node.disk.log.batch_bytes(r.digest) for r in refs]
        return [b for b in found if b]


class Wires:
    """The peers of one machine: every send is an operation at which the power may go off."""

    def __init__(self, of: "Machine", others: list["Machine"]) -> None:
        self._of = of
        self._others = {m.me: m for m in others}

    def __iter__(self) -> Iterator[Neighbour]:
        return iter([Neighbour(self._of, other) for other in self._others.values()])

    def first(self, hint: int) -> list[Neighbour]:
        return sorted(self, key=lambda n: n.index != hint)

    def named(self, members: Sequence[int]) -> list[Neighbour]:
        return [neighbour for member in members for neighbour in self if neighbour.index == member]

    def broadcast(self, request: ledger_pb2.ExchangeRequest) -> None:
        self._of.power.step()
        self._of.note(from_request(request))
        for other in self._others.values():
            other.later(lambda node: _hand_over(node, self._of.me, request))

    def send(self, to: int, request: ledger_pb2.ExchangeRequest) -> None:
        self._of.power.step()
        if to in self._others:
            self._others[to].later(lambda node: _hand_over(node, self._of.me, request))

    def broadcast_batch(self, encoded: bytes) -> None:
        self._of.power.step()
        self._of.note(BATCH.decode(encoded))
        for other in self._others.values():
            other.later(lambda node: node.receive_batch(encoded))


def _hand_over(node: Node, sender: int, request: ledger_pb2.ExchangeRequest) -> None:
    message = from_request(request)
    assert message is not None
    assert not isinstance(message, bytes), "batches go their own way"
    node.receive(sender, message)


@dataclass
class Machine:
    """One replica and its directory. `sent` outlives restarts; `looks` writes down what was durable at each send."""

    me: int
    directory: Path
    looks: bool = False
    power: Power = field(default_factory=Power)
    sent: list[Sent] = field(default_factory=list)
    files: list[LosingFile] = field(default_factory=list)

    def start(self, others: list["Machine"], off_at: int | None = None) -> None:
        """From what the directory holds. Raises PowerLossError where the power goes off meanwhile."""
        self.power, self.files = Power(off_at), []
        ledger = OpaqueLedger(FOUNDING, CHAIN_ID)
        disk = open_disk(self.directory, COMMITTEE, ledger, FOUNDING, lambda _h, _t: None, self._open)
        keys = ReplicaKeys(SECRETS[self.me], LANES[self.me])
        self.node = Node(
            self.me, COMMITTEE, FOUNDING, keys, BLS, disk, ledger, lambda _blocks: None, PACE, SeenRecords()
        )
        self.node.peers = Wires(self, others)  # type: ignore[assignment]

    def _open(self, path: Path) -> DiskFile:
        self.files.append(LosingFile(path, self.power))
        return self.files[-1]

    def later(self, deliver: Callable[[Node], None]) -> None:
        asyncio.get_running_loop().call_soon(self._deliver, deliver, self.power)

    def _deliver(self, deliver: Callable[[Node], None], power: Power) -> None:
        if power is self.power and not power.off:
            deliver(self.node)

    def note(self, message: Any) -> None:
        safety, log = self.files
        self.sent.append(Sent(message, log.syncs, safety.syncs, self._durable() if self.looks else None))

    def _durable(self) -> Durable:
        safety, log_size = SafetyFile(LosingFile(self.files[0].path, Power())).load()
        log = BlockLog(LosingFile(self.files[1].path, Power()), CHAIN_ID, log_size)
        blocks = frozenset(block_id(b.header) for b in log.blocks_not(set()))
        return Durable(safety, log_size, blocks, frozenset(log.refs))

    def shut(self, torn_bytes: int) -> None:
        """Whatever still runs can do nothing more; what was not synced is lost."""
        self.power.off = True
        for file in self.files:
            file.lose(torn_bytes)


async def run(machine: Machine) -> None:
    """Until cancelled, or the power goes off."""
    try:
        await machine.node.run()
    except PowerLossError:
        return


def contradictions(sent: list[Sent]) -> list[str]:
    """Two votes, timeouts, proposals or batches of one round or sequence number, or a vote after its round's timeout."""
    found: list[str] = []
    signed: dict[tuple[str, int], Any] = {}
    timed_out = 0
    for message in (s.message for s in sent):
        named = _name(message)
        if named is None:
            continue
        place, content = named
        if place not in signed and place[0] == "vote" and place[1] <= timed_out:
            found.append(f"voted in round {place[1]} after the timeout of round {timed_out}")
        if signed.setdefault(place, content) != content:
            found.append(f"two different at {place}")
        if place[0] == "timeout":
            timed_out = max(timed_out, place[1])
    return found


def _name(message: Any) -> tuple[tuple[str, int], Any] | None:
    match message:
        case Vote(data):
            return ("vote", data.round), data
        case Timeout():
            return ("timeout", message.round), message.high_qc.round
        case Proposal(header):
            return ("proposal", header.round), block_id(header)
        case Batch():
            return ("batch", message.seq), (message.records, message.signature)
    return None
