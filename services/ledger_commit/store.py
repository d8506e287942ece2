"""The projection in SQL: blocks, results, and where to find them. It can be thrown away and rebuilt from the block log.

Rows are written with Core in one transaction for a group of blocks; the newest height in `ledger_block` is how far the projection
has come. SQLite runs with synchronous=FULL: without it a power loss can leave a file that no longer opens.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, event, func, or_, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel import Field, SQLModel

from claims.result import ClaimResult
from claims.transaction import RefusalReason
from ledger_commit.consensus.committee import Committee
from ledger_commit.consensus.evidence import EvidenceKind, charge_of, decode
from ledger_commit.consensus.messages import HEADER, QUORUM_CERT, ZERO, Header, Proposal, QuorumCert
from ledger_commit.settlement import Execution
from runtime.bulk import Row, insert, upsert
from runtime.database import LARGE_INTEGER, transaction


class LedgerBlock(SQLModel, table=True):
    """One committed block; `commit_qc` where it was committed directly."""

    __tablename__ = "ledger_block"

    height: int = Field(sa_column=Column(LARGE_INTEGER, primary_key=True, autoincrement=False))
    round: int = Field(sa_column=Column(LARGE_INTEGER, nullable=False))
    proposer: str
    id: bytes
    header: bytes
    commit_qc: bytes
    batches: int
    entries: int
    time_ms: int = Field(sa_column=Column(LARGE_INTEGER, nullable=False))
    first_leaf: int = Field(sa_column=Column(LARGE_INTEGER, nullable=False))
    results: int


class LedgerResult(SQLModel, table=True):
    """One leaf. `claim_ref` is empty for what is no claim, and for a refused repeat, which never is a claim's latest."""

    __tablename__ = "ledger_result"

    leaf: int = Field(sa_column=Column(LARGE_INTEGER, primary_key=True, autoincrement=False))
    height: int = Field(sa_column=Column(LARGE_INTEGER, nullable=False))
    claim_ref: bytes = Field(index=True)
    submitter: str
    payer: str
    payee: str
    body: bytes


class LedgerTransaction(SQLModel, table=True):
    """Which leaf tells of a transaction that is no claim."""

    __tablename__ = "ledger_transaction"

    transaction_id: bytes = Field(primary_key=True)
    leaf: int = Field(sa_column=Column(LARGE_INTEGER, nullable=False))


class LedgerEvidence(SQLModel, table=True):
    """One piece of evidence in a committed block, at its place there."""

    __tablename__ = "ledger_evidence"

    height: int = Field(sa_column=Column(LARGE_INTEGER, primary_key=True, autoincrement=False))
    place: int = Field(primary_key=True)
    organisation: str
    kind: int
    piece: bytes


TABLES = [
    SQLModel.metadata.tables[name]
    for name in ("ledger_block", "ledger_result", "ledger_transaction", "ledger_evidence")
]
_ADD_BLOCKS, _ADD_RESULTS = insert(TABLES[0]), insert(TABLES[1])
_ADD_EVIDENCE = insert(TABLES[3])
_SET_TRANSACTIONS = upsert(TABLES[2])
"""A transaction that was refused may come again; its row then points to the newer leaf."""


@dataclass(frozen=True, slots=True)
class Accusation:
    """A piece of evidence and whom it accuses of what."""

    organisation: str
    kind: EvidenceKind
    piece: bytes


def accusations(block: Proposal, committee: Committee) -> tuple[Accusation, ...]:
    """The evidence of a committed block, in its order."""
    charges = ((*charge_of(decode(piece)), piece) for piece in block.evidence)
    return tuple(Accusation(committee.members[member].organisation, kind, piece) for member, kind, piece in charges)


@dataclass(frozen=True, slots=True)
class Projected:
    """A committed and executed block on its way into the projection."""

    header: Header
    id: bytes
    proposer: str
    qc: QuorumCert | None
    batches: int
    entries: int
    first_leaf: int
    execution: Execution
    accused: tuple[Accusation, ...] = ()


class Projection:
    """Reads and writes the tables. Open with `open`, close with `close`."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        driver = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}[parsed.get_backend_name()]
        self.engine: AsyncEngine = create_async_engine(parsed.set(drivername=driver))
        if driver.startswith("sqlite"):
            event.listen(self.engine.sync_engine, "connect", _tune_sqlite)

    async def open(self) -> int:
        """Makes the tables where they are missing; returns the newest height, 0 for none."""
        async with transaction(self.engine) as connection:
            await connection.run_sync(SQLModel.metadata.create_all, tables=TABLES)
            newest = await connection.scalar(select(func.max(LedgerBlock.height)))
        return newest or 0

    async def clear(self) -> None:
        """Before a rebuild."""
        async with transaction(self.engine) as connection:
            await connection.run_sync(SQLModel.metadata.drop_all, tables=TABLES)
            await connection.run_sync(SQLModel.metadata.create_all, tables=TABLES)

    async def close(self) -> None:
        await self.engine.dispose()

    async def append(self, blocks: Sequence[Projected]) -> None:
        """Adds blocks in height order, in one transaction."""
        results, transactions = _rows_of_results(blocks)
        async with transaction(self.engine) as connection:
            await _ADD_BLOCKS.run(connection, [_row_of_block(block) for block in blocks])
            await _ADD_RESULTS.run(connection, results)
            await _SET_TRANSACTIONS.run(connection, transactions)
            await _ADD_EVIDENCE.run(connection, _rows_of_evidence(blocks))

    async def block(self, height: int) -> LedgerBlock | None:
        return next(iter(await self.blocks(height, 1)), None)

    async def blocks(self, first: int, count: int) -> list[LedgerBlock]:
        """Blocks by height, ascending."""
        query = select(LedgerBlock).where(_column(LedgerBlock.height) >= first).order_by(_column(LedgerBlock.height))
        return [LedgerBlock(**row) for row in await self._rows(query.limit(count), LedgerBlock)]

    async def evidence(self, blocks: Sequence[LedgerBlock]) -> dict[int, list[LedgerEvidence]]:
        """By height: what these blocks have. Nothing is looked up where their headers name none."""
        heights = [block.height for block in blocks if HEADER.decode(block.header).evidence_root != ZERO]
        found: dict[int, list[LedgerEvidence]] = {}
        if not heights:
            return found
        height, place = _column(LedgerEvidence.height), _column(LedgerEvidence.place)
        query = select(LedgerEvidence).where(height.in_(heights)).order_by(height, place)
        for row in await self._rows(query, LedgerEvidence):
            found.setdefault(row["height"], []).append(LedgerEvidence(**row))
        return found

    async def times(self, heights: Collection[int]) -> dict[int, int]:
        """When the blocks of these heights were made, as far as they are here."""
        height, time_ms = _column(LedgerBlock.height), _column(LedgerBlock.time_ms)
        async with transaction(self.engine) as connection:
            found = await connection.execute(select(height, time_ms).where(height.in_(heights)))
            return {row.height: row.time_ms for row in found}

    async def results(self, first_leaf: int, count: int) -> list[LedgerResult]:
        """Leaves in order."""
        query = (
            select(LedgerResult).where(_column(LedgerResult.leaf) >= first_leaf).order_by(_column(LedgerResult.leaf))
        )
        return [LedgerResult(**row) for row in await self._rows(query.limit(count), LedgerResult)]

    async def latest_of(self, claim_ref: bytes, party: str = "") -> LedgerResult | None:
        """The newest result of a claim; of those with this party, where one is given.

        Submitters draw references for themselves, so claims of different parties may have the same one.
        """
        query = select(LedgerResult).where(_column(LedgerResult.claim_ref) == claim_ref)
        if party:
            parties = (LedgerResult.submitter, LedgerResult.payer, LedgerResult.payee)
            query = query.where(or_(*(_column(column) == party for column in parties)))
        rows = await self._rows(query.order_by(_column(LedgerResult.leaf).desc()).limit(1), LedgerResult)
        return LedgerResult(**rows[0]) if rows else None

    async def transaction(self, identity: bytes) -> bytes | None:
        """The canonical result of a transaction."""
        query = (
            select(LedgerResult.body)  # type: ignore[call-overload]
            .join(LedgerTransaction, LedgerTransaction.leaf == LedgerResult.leaf)
            .where(LedgerTransaction.transaction_id == identity)
        )
        async with transaction(self.engine) as connection:
            found = await connection.scalar(query)
        return bytes(found) if found is not None else None

    async def _rows(self, query: Any, model: Any) -> list[dict[str, Any]]:
        columns = model.__table__.c
        async with transaction(self.engine) as connection:
            found = await connection.execute(query.with_only_columns(*columns))
            return [dict(row._mapping) for row in found]  # noqa: SLF001 - SQLAlchemy's public name for it


def _column(field: Any) -> Any:
    return field


# Rows in the order of their tables' columns.


def _row_of_block(block: Projected) -> Row:
    header = block.header
    qc = QUORUM_CERT.encode(block.qc) if block.qc else b""
    return (
        header.height, header.round, block.proposer, block.id, HEADER.encode(header), qc, block.batches, block.entries,
        header.time_ms, block.first_leaf, len(block.execution.results),
    )  # fmt: skip


def _rows_of_evidence(blocks: Sequence[Projected]) -> list[Row]:
    return [
        (block.header.height, place, each.organisation, int(each.kind), each.piece)
        for block in blocks
        for place, each in enumerate(block.accused)
    ]


def _rows_of_results(blocks: Sequence[Projected]) -> tuple[list[Row], list[Row]]:
    results: list[Row] = []
    transactions: dict[bytes, int] = {}
    for block in blocks:
        told = zip(block.execution.results, block.execution.outcomes, strict=True)
        for leaf, (body, outcome) in enumerate(told, start=block.first_leaf):
            if isinstance(outcome, ClaimResult):
                repeat = outcome.refusal == RefusalReason.VERSION_SPENT
                claim_ref = b"" if repeat else outcome.claim_ref
                parties = (claim_ref, outcome.submitter, outcome.payer, outcome.payee)
            else:
                parties = (b"", outcome.organisation, "", "")
                transactions[outcome.transaction_id] = leaf
            results.append((leaf, outcome.height, *parties, body))
    return results, list(transactions.items())


def _tune_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
