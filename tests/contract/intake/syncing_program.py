"""Accepts batches of claims and notes each answer among the syncs: `python syncing_program.py <database> <notes>`."""

import asyncio
import contextlib
import sys
from pathlib import Path

from claim_intake.group_commit import GroupCommit
from claim_intake.store.database import Database
from tests.contract.intake.candidates import candidate

SIZES = (1, 500, 1, 200)


async def main(url: str, notes: Path) -> None:
    database = Database(url)
    await database.migrate()
    writer = GroupCommit(database, lambda _: None, lambda: 1_000, outbox_limit=10_000, lease_ms=1, overdue_ms=1)
    writing = asyncio.create_task(writer.run())
    await writer.submit([candidate()])  # the first commit makes the log's file and syncs that too
    for size in SIZES:
        batch = [candidate() for _ in range(size)]
        with notes.open("a") as out:
            print("submitted", size, file=out, flush=True)
            decisions = await writer.submit(batch)
            print("answered", len(decisions), file=out, flush=True)
    writing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writing
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
