"""What a replica finds on its disk at start, and what follows from it.

The block log gives the committed chain (by its markers), the blocks above it and all batches; the safety record says
what was signed. The contract is executed again over the committed chain. A replica whose log is there and whose
record is not may follow and must not sign.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from claims.transaction import GENESIS, Genesis
from ledger_commit.adapters.block_log import BlockLog
from ledger_commit.adapters.disk import DiskFile, RealFile, make_durable_directory
from ledger_commit.adapters.safety_record import SafetyFile, SafetyRecordLostError
from ledger_commit.consensus.committee import Committee, Member
from ledger_commit.consensus.events import Executed, SafetyRecord
from ledger_commit.consensus.messages import BATCH, ZERO, BatchRef, Proposal, genesis_cert
from ledger_commit.consensus.tree import Root, genesis_id
from ledger_commit.last_seen import LastSeen
from ledger_commit.ledger import Ledger
from ledger_commit.settlement import Execution
from runtime.bls import Bls

EXECUTED_KEPT = 64
"""Heights whose execution a restarted replica still has to know: headers name one a few blocks back."""


class GenesisError(ValueError):
    """The genesis is not one that a replica can stand on."""


@dataclass(slots=True)
class Opened:
    """Everything a node starts from. `not_voting` says why it may only follow; empty where it takes part."""

    log: BlockLog
    safety_file: SafetyFile
    safety: SafetyRecord
    root: Root
    executed: list[Executed]
    above: list[Proposal]
    chain: list[bytes]
    """Ids of committed blocks, the first at height 1."""
    waiting: list[BatchRef]
    """Batches that no committed block names."""
    last_seen: LastSeen
    """The newest signatures of each member in the log: of proposals, and in the certificates that the blocks carry."""
    not_voting: str = ""
    executions: list[Execution] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    """How many ledger entries each committed block has."""


def read_genesis(path: Path) -> tuple[Genesis, bytes]:
    """The genesis and its chain id."""
    raw = path.read_bytes()
    return GENESIS.decode(raw), hashlib.sha256(raw).digest()


def committee_of(genesis: Genesis, chain_id: bytes, bls: Bls) -> Committee:
    """The founding committee; every key's proof of possession is checked. Raises GenesisError naming the member."""
    for replica in genesis.replicas:
        if not bls.possession_holds(replica.bls_public_key, replica.bls_possession):
            raise GenesisError(f"{replica.organisation} does not prove possession of its BLS key")
    members = tuple(Member(r.organisation, r.bls_public_key, r.lane_public_key) for r in genesis.replicas)
    return Committee(chain_id, 0, members)


def fresh_safety(chain_id: bytes) -> SafetyRecord:
    """Before anything was signed."""
    return SafetyRecord(0, 0, None, None, 0, ZERO, genesis_cert(genesis_id(chain_id)), None)


def open_disk(
    directory: Path,
    committee: Committee,
    ledger: Ledger,
    genesis: Genesis,
    progress: Callable[[int, int], None],
    open_file: Callable[[Path], DiskFile] = RealFile,
) -> Opened:
    """Opens or makes the replica's files and executes the committed chain again.

    `progress` is told height and total now and then. Raises BlockLogError for a damaged log.
    """
    make_durable_directory(directory)
    log_path = directory / "blocks.log"
    fresh = not log_path.exists()
    safety_file = SafetyFile(open_file(directory / "safety.rec"))
    safety, durable, not_voting = _load_safety(safety_file, committee.chain_id, fresh=fresh)
    log = BlockLog(open_file(log_path), committee.chain_id, durable)
    opened = Opened(
        log,
        safety_file,
        safety,
        Root.genesis(committee.chain_id, genesis.time_ms),
        [ledger.executed],
        [],
        [],
        [],
        LastSeen(),
        not_voting,
    )
    _replay(opened, ledger, progress)
    _collect_rest(opened, committee)
    return opened


def _load_safety(file: SafetyFile, chain_id: bytes, *, fresh: bool) -> tuple[SafetyRecord, int, str]:
    # A first start may end after this file and before the log: a record of nothing signed beside no log is a first start.
    if file.is_new and fresh:
        record = fresh_safety(chain_id)
        file.save(record, 0)
        return record, 0, ""
    try:
        record, durable = file.load()
    except SafetyRecordLostError as error:
        return fresh_safety(chain_id), 0, str(error)
    if fresh and record != fresh_safety(chain_id):
        return record, 0, "the block log is missing beside a safety record"
    return record, durable, ""


def _replay(opened: Opened, ledger: Ledger, progress: Callable[[int, int], None]) -> None:
    """The committed chain as far as the log holds it whole."""
    markers, log = opened.log.markers, opened.log
    height = 1
    while (marker := markers.get(height)) and (block := log.block(marker.id)):
        if block.header.parent_id != opened.root.id or not all(log.has_batch(r.digest) for r in block.batches):
            break
        opened.root = opened.root.child(block, marker.id)
        opened.chain.append(marker.id)
        entries = entries_of(log, block)
        opened.entries.append(len(entries))
        opened.executions.append(ledger.execute(block.header, entries))
        opened.executed.append(ledger.executed)
        if marker.qc is not None:
            ledger.anchor(block.header, marker.qc)
        if height % 500 == 0:
            progress(height, len(markers))
        height += 1
    del opened.executed[:-EXECUTED_KEPT]


def entries_of(log: BlockLog, block: Proposal) -> list[bytes]:
    """The ledger entries of a block in order. All its batches are in the log."""
    entries: list[bytes] = []
    for ref in block.batches:
        encoded = log.batch_bytes(ref.digest)
        assert encoded is not None
        entries.extend(BATCH.decode(encoded).records)
    return entries


def _collect_rest(opened: Opened, committee: Committee) -> None:
    committed = set(opened.chain)
    named: set[bytes] = set()
    for identity in opened.chain:
        block = opened.log.block(identity)
        assert block is not None
        named.update(ref.digest for ref in block.batches)
        opened.last_seen.note_block(block, committee)
    for block in opened.log.blocks_not(committed):
        opened.last_seen.note_block(block, committee)
        if block.header.height > opened.root.height:
            opened.above.append(block)
    opened.above.sort(key=lambda block: block.header.height)
    opened.waiting = [ref for ref in opened.log.refs.values() if ref.digest not in named]
