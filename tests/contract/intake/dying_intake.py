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

accept, finish, send_all = group_commit.accept, group_commit.finish, SealingProducer.send_all


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def die_before_the_commit(*arguments: Any) -> Any:
    """The claims and their outbox rows are written and not committed."""
    await accept(*arguments)
    die()


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


async def die_within_the_mark(connection: Any, sent: Any) -> None:
    """The rows are deleted, and the deletion is not committed."""
    await finish(connection, sent)
    if sent:
        die()


POINTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "before the commit": (group_commit, "accept", die_before_the_commit),
    "before the send": (SealingProducer, "send_all", die_before_the_send),
    "in the middle of a flush": (SealingProducer, "send_all", die_in_the_middle_of_a_flush),
    "before the mark": (SealingProducer, "send_all", die_before_the_mark),
    "within the mark": (group_commit, "finish", die_within_the_mark),
}

if __name__ == "__main__":
    patch = pytest.MonkeyPatch()
    patch.setattr(batching, "MAX_CLAIMS", 2)
    patch.setattr(*POINTS[sys.argv[1]])
    main(["serve"])
