"""Proven results in order, from memory where they are recent and from the projection where they are not."""

import asyncio
from collections.abc import Callable
from typing import Final

from claimledger.ledger.v1 import ledger_pb2
from claims.result import CLAIM_RESULT, ClaimResult
from ledger_commit.ledger import Ledger
from ledger_commit.publications import Proven
from ledger_commit.store import LedgerBlock, Projection

CLAIM_RESULT_VERSION: Final = 1
BLOCK_TIMES: Final = 4096


def block_message(row: LedgerBlock) -> ledger_pb2.Block:
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
    )


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
        self, first: int, count: int, wanted: Callable[[ClaimResult], bool] = lambda _: True
    ) -> tuple[list[Proven], int]:
        """The wanted ones of the claims' results from a leaf on, and the next leaf to go on from."""
        bodies = await self.bodies(first, count)
        claims = [
            (leaf, body, CLAIM_RESULT.decode(body))
            for leaf, body in enumerate(bodies, start=first)
            if body[0] == CLAIM_RESULT_VERSION
        ]
        times = await self._times({result.height for _, _, result in claims})
        items: list[Proven] = []
        for leaf, body, result in claims:
            if result.height not in times:
                return items, leaf  # executed this moment in the worker thread, and not yet told of on the loop
            if wanted(result):
                proof = self._ledger.prove(leaf, body)
                assert proof is not None, "leaves below the proven size have an anchor"
                items.append(Proven(leaf, result, proof.SerializeToString(), times[result.height]))
        return items, first + len(bodies)

    async def _times(self, heights: set[int]) -> dict[int, int]:
        late = {height: time_ms for height in heights if (time_ms := self._time_of(height)) is not None}
        older = heights - late.keys()
        return late | await self._projection.times(older) if older else late
