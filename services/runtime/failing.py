"""Whose failure an exception is: the record's, which is then set aside, or that of what the stage stands on.

Broker, tag service, files, keys and memory are no part of a record: while they are away the stage waits or ends, and
the record comes again. Everything else that a stage raises at a record is taken for the record's own failure.
Source: ADR 0022.
"""

import traceback
from pathlib import Path
from typing import Final

import grpc
from aiokafka.errors import KafkaError

FRAMES_TOLD: Final = 3
"""Of the calls that led to an exception, the innermost."""


class StateUnreadableError(Exception):
    """The state of a partition cannot be rebuilt, and going on without it would change results. Says what to do.

    The parts are there for the log, which tells no error's text.
    """

    def __init__(self, place: str, why: str, remedy: str) -> None:
        super().__init__(f"the state cannot be read at {place} ({why}): {remedy}")
        self.place = place
        self.why = why
        self.remedy = remedy


class StageBrokenError(Exception):
    """So many records failed in a row that the stage must be at fault and not the records."""


SURROUNDINGS: Final = (
    OSError, MemoryError, KafkaError, grpc.RpcError, StateUnreadableError, StageBrokenError,
)  # fmt: skip
"""What is no record's failure. A TimeoutError and a ConnectionError are OSErrors."""


class KeepsFailingError(Exception):
    """A record that failed as often as it is tried. Tells the type and the place of the last failure, not its text,
    which may hold what a claim says."""

    kind = "failing"

    def __init__(self, times: int, error: Exception) -> None:
        super().__init__(f"failed {times} times, the last time with {type(error).__name__} at {place_of(error)}")


def place_of(error: BaseException) -> str:
    """Where it was raised: file, line and function of the innermost calls, the outer first."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_TOLD:]
    return " > ".join(f"{'/'.join(Path(f.filename).parts[-2:])}:{f.lineno} in {f.name}" for f in frames)
