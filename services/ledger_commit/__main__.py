"""`python -m ledger_commit`: one replica of the ledger."""

import asyncio

from ledger_commit.app import run_replica
from ledger_commit.settings import ReplicaSettings
from runtime.process import run_process


def main() -> None:
    settings = ReplicaSettings()

    async def run(stop: asyncio.Event) -> None:
        await run_replica(settings, stop)

    run_process(f"replica-{settings.replica_organisation}", settings, run)


if __name__ == "__main__":
    main()
