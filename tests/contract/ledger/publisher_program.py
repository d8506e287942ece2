"""A publisher to be killed: `python publisher_program.py '<json>'`.

It publishes until a transaction's records are all confirmed and its commit is next, writes `sent`, and waits there.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ledger_commit import publisher
from runtime import kafka
from tests.contract.ledger.publishing import Publishing, keys_in, network_of
from tests.fixtures.executed import history


async def main(plan: dict[str, Any]) -> None:
    confirmations = 0

    async def confirmed(futures: Any) -> None:
        nonlocal confirmations
        await kafka.confirmed(futures)
        confirmations += 1
        if confirmations == plan["transactions"]:
            print("sent", flush=True)
            await asyncio.Event().wait()

    patch, network = pytest.MonkeyPatch(), network_of(plan["prefix"])
    patch.setattr(publisher, "confirmed", confirmed)
    for name, value in plan["constants"].items():
        patch.setattr(publisher, name, value)
    directory = Path(plan["directory"])
    publishing = Publishing(plan["kafka"], directory / "killed", network, keys_in(directory))
    executor = await publishing.executor(*history(plan["rounds"]))
    await publishing.publisher(executor).run()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
