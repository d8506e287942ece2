"""`python -m claim_intake serve` (IntakeService and relay) or `python -m claim_intake project` (projector and keeper)."""

import asyncio
import sys

from claim_intake.projecting import project
from claim_intake.serving import serve
from claim_intake.settings import IntakeSettings
from claim_intake.verifying import load_verifier
from claim_intake.wiring import prepare
from runtime.process import run_process

PARTS = ("serve", "project")


def main(arguments: list[str]) -> None:
    if len(arguments) != 1 or arguments[0] not in PARTS:
        sys.exit(f"usage: python -m claim_intake {'|'.join(PARTS)}")
    part = arguments[0]
    settings = IntakeSettings()

    async def run(stop: asyncio.Event) -> None:
        ground = await prepare(settings)
        if part == "serve":
            await serve(ground, stop)
        else:
            await project(ground, stop, load_verifier(settings.run))

    run_process(f"claim-intake-{part}", settings, run)


if __name__ == "__main__":
    main(sys.argv[1:])
