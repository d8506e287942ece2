"""Proven results in order, from memory where they are recent and from the projection where they are not."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from claimledger.ledger.v1 import ledger_pb2
from claims.result import CLAIM_RESULT, ClaimResult
from ledger_commit.consensus.evidence import EvidenceKind
from ledger_commit.ledger import Ledger
from ledger_commit.publications import Proven
from ledger_commit.store import LedgerBlock, LedgerEvidence, Projection
from runtime.turns import Turns

CLAIM_RESULT_VERSION: Final = 1
BLOCK_TIMES: Final = 4096
SLICE_S: Final = 0.002
"""For so long reading results holds the loop; then all else has a turn, consensus before all."""
_KIND: Final = {kind: ledger_pb2.EvidenceKind.Value(f"EVIDENCE_KIND_{kind.name}") for kind in EvidenceKind}


def block_message(row: LedgerBlock, evidence: Sequence[LedgerEvidence] = ()) -> ledger_pb2.Block:
    """A block as LedgerService and `ledger.blocks` show it."""
    return ledger_pb2.Block(
        height=row.height,
        round=row.round,
        proposer=row.proposer,
        id=row.id,
        header=row.header,
        commit_qc=row.commit_qc,
        batches=row.batches,
        entries=row.entries,
        time_ms=row.time_ms,
        results=row.results,
        evidence=[evidence_message(each.organisation, EvidenceKind(each.kind), each.piece) for each in evidence],
    )


def evidence_message(organisation: str, kind: EvidenceKind, piece: bytes = b"") -> ledger_pb2.Evidence:
    return ledger_pb2.Evidence(organisation=organisation, kind=_KIND[kind], piece=piece)


async def block_messages(projection: Projection, rows: Sequence[LedgerBlock]) -> list[ledger_pb2.Block]:
    """With their evidence, which few blocks have."""
    evidence = await projection.evidence(rows)
    return [block_message(row, evidence.get(row.height, ())) for row in rows]


class ProvenResults:
    """Reads results by leaf. `wake` is called when more of them can be proven.

    `time_of` gives the times of late blocks; those of older ones are in the projection.
    """

    def __init__(self, ledger: Ledger, projection: Projection, time_of: Callable[[int], int | None]) -> None:
        self._ledger = ledger
        self._projection = projection
        self._time_of = time_of
        self._more = asyncio.Event()

    def wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()

    async def wait(self, timeout_s: float) -> None:
        """Returns when `wake` was called, or after the time."""
        waiting = self._more.wait()
        try:
            await asyncio.wait_for(waiting, timeout_s)
        except TimeoutError:
            return

    @property
    def size(self) -> int:
        """Leaves below this one can be proven."""
        return self._ledger.proven_size

    async def bodies(self, first: int, count: int) -> list[bytes]:
        """Canonical results from a leaf on, at most as far as they can be proven."""
        last = min(first + count, self.size)
        recent = [self._ledger.recent(leaf) for leaf in range(first, last)]
        found = [body for body in recent if body is not None]
        if len(found) == len(recent):
            return found
        return [bytes(row.body) for row in await self._projection.results(first, last - first)]

    async def proven(
        self,
        first: int,
        count: int,
        wanted: Callable[[ClaimResult], bool] = lambda _: True,
        most_bytes: int | None = None,
    ) -> tuple[list[Proven], int]:
        """The wanted ones of the claims' results from a leaf on, and the next leaf to go on from.

        They end behind the one with which their proofs come to `most_bytes`. The loop is held for SLICE_S at a time.
        """
        bodies = await self.bodies(first, count)
        turns = Turns(SLICE_S)
        claims = await _claims_of(bodies, first, turns)
        times = await self._times({result.height for _, _, result in claims})
        items: list[Proven] = []
        size = 0
        for leaf, body, result in claims:
            if result.height not in times:
                return items, leaf  # executed this moment in the worker thread, and not yet told of on the loop
            await turns.give()
            if not wanted(result):
                continue
            items.append(self._proven(leaf, body, result, times[result.height]))
            size += len(items[-1].proof)
            if most_bytes is not None and size >= most_bytes:
                return items, leaf + 1
        return items, first + len(bodies)

    def _proven(self, leaf: int, body: bytes, result: ClaimResult, ordered_ms: int) -> Proven:
        proof = self._ledger.prove(leaf, body)
        assert proof is not None, "leaves below the proven size have an anchor"
        return Proven(leaf, result, proof.SerializeToString(), ordered_ms)

    async def _times(self, heights: set[int]) -> dict[int, int]:
        late = {height: time_ms for height in heights if (time_ms := self._time_of(height)) is not None}
        older = heights - late.keys()
        return late | await self._projection.times(older) if older else late


async def _claims_of(bodies: list[bytes], first: int, turns: Turns) -> list[tuple[int, bytes, ClaimResult]]:
    """Leaf, body and value of those that are results of claims."""
    claims = []
    for leaf, body in enumerate(bodies, start=first):
        if body[0] == CLAIM_RESULT_VERSION:
            claims.append((leaf, body, CLAIM_RESULT.decode(body)))
            await turns.give()
    return claims
