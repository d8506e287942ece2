"""Intake's serving process, which kills itself at one point of the relay's work: `python dying_intake.py <point>`.

Nothing of it is changed but that, and that records are small, so that a flush has several.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from claim_intake import batching, group_commit
from claim_intake.__main__ import main
from runtime.kafka import SealingProducer
from runtime.topics import SUBMITTED

send_all = SealingProducer.send_all


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def die_before_the_send(*_: Any) -> None:
    """After a time in which a mark that came too early would have been committed."""
    await asyncio.sleep(2 * group_commit.IDLE_FINISH_SECONDS)
    die()


async def die_in_the_middle_of_a_flush(producer: Any, outs: Any, time_ms: int) -> None:
    """The broker has confirmed one of the records, and never saw the others."""
    await send_all(producer, [out for out in outs if out.schema == SUBMITTED.schema][:1], time_ms)
    die()


async def die_before_the_mark(producer: Any, outs: Any, time_ms: int) -> None:
    await send_all(producer, outs, time_ms)
    die()


POINTS: dict[str, Callable[..., Any]] = {
    "before the send": die_before_the_send,
    "in the middle of a flush": die_in_the_middle_of_a_flush,
    "before the mark": die_before_the_mark,
}

if __name__ == "__main__":
    patch = pytest.MonkeyPatch()
    patch.setattr(batching, "MAX_CLAIMS", 2)
    patch.setattr(SealingProducer, "send_all", POINTS[sys.argv[1]])
    main(["serve"])
