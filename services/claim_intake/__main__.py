"""`python -m claim_intake serve` (IntakeService and relay) or `python -m claim_intake project` (projector and keeper)."""

import asyncio
import sys

from claim_intake.serving import serve
from claim_intake.settings import IntakeSettings
from claim_intake.wiring import prepare
from runtime.process import run_process

_PARTS = {"serve": serve}


def main(arguments: list[str]) -> None:
    if len(arguments) != 1 or arguments[0] not in _PARTS:
        sys.exit(f"usage: python -m claim_intake {'|'.join(_PARTS)}")
    part = _PARTS[arguments[0]]
    settings = IntakeSettings()

    async def run(stop: asyncio.Event) -> None:
        await part(await prepare(settings), stop)

    run_process(f"claim-intake-{arguments[0]}", settings, run)


if __name__ == "__main__":
    main(sys.argv[1:])
