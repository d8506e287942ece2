"""Structured logs: an event's name and key-values, as JSON lines or for a console.

Only the shell logs. Identifiers, never claim contents: values that are bytes longer than an identifier or whole
containers are cut, so that a careless call cannot write a claim into a log. Of an error, types and places are
written and no messages: those of Python quote the value at hand, and those of a database its parameters.
"""

import contextlib
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Final, TextIO, cast

import structlog

LONGEST_TEXT: Final = 300
LONGEST_IDENTIFIER: Final = 32
"""Bytes; a digest."""


QUIET_S: Final = 5.0
MOST_MESSAGES: Final = 256


class Sparing(logging.Filter):
    """Lets a library say the same thing once in QUIET_S: while a broker is away, clients say so 200 times a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._next: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key, now = (record.name, str(record.msg)), self._clock()
        if now < self._next.get(key, 0.0):
            return False
        if len(self._next) >= MOST_MESSAGES:
            self._next.clear()
        self._next[key] = now + QUIET_S
        return True


class _Lossy:
    """A file that loses what cannot be written, as on a full disk: no process ends for its log."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._file.flush()


def configure_logging(service: str, level: str = "info", style: str = "json") -> None:
    """Sends every log line of this process to stderr. Call once, in `__main__`."""
    numeric = getattr(logging, level.upper())
    renderer: Any = structlog.dev.ConsoleRenderer() if style == "console" else structlog.processors.JSONRenderer()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _traced,
        _bounded,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Lossy(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_first_line, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(Sparing())
    logging.basicConfig(handlers=[handler], level=max(numeric, logging.WARNING), force=True)


def get_logger(name: str) -> Any:
    """A logger whose lines carry the part's name: `log.info("claims_accepted", count=7)`."""
    return structlog.get_logger().bind(part=name)


def trace_of(error: BaseException) -> str:
    """Where an error was raised and what raised it before, the outermost error first, without messages."""
    return "\ncaused by ".join(_traces(error))


def _traces(error: BaseException) -> Iterator[str]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        places = "".join(traceback.format_list(traceback.extract_tb(found.__traceback__)))
        yield f"{type(found).__module__}.{type(found).__qualname__}\n{places}".rstrip()
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _traced(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """In place of `exc_info`, which is an error, its triple, or true for the one that is being handled."""
    given = event.pop("exc_info", None)
    if given:
        error = (
            given if isinstance(given, BaseException) else (given if isinstance(given, tuple) else sys.exc_info())[1]
        )
        if error is not None:
            event["exception"] = trace_of(error)
    return event


def _first_line(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Of a library's message: asyncio's go on with what the failed task held."""
    event["event"] = str(event["event"]).partition("\n")[0]
    return event


def _bounded(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, bytes):
            event[key] = value.hex() if len(value) <= LONGEST_IDENTIFIER else f"{len(value)} bytes"
        elif isinstance(value, str) and len(value) > LONGEST_TEXT and key != "exception":
            event[key] = value[:LONGEST_TEXT] + "…"
        elif isinstance(value, dict | list | tuple | set):
            event[key] = f"{type(value).__name__} of {len(value)}"
    return event
