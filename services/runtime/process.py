"""A process from start to end: logging, metrics, signals, the loop, the drain.

`run_process("claim-intake", settings, main)` calls `await main(stop)`. The first SIGTERM or SIGINT sets `stop`; main
then finishes what it holds and returns. If that takes longer than `settings.drain_s`, main is cancelled; a second
signal cancels at once. An exception out of main is logged and makes the exit code 1, by which whoever runs the
process (`claimledger up`, systemd, Kubernetes, …) knows that it is to be started again.
"""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from runtime.log import configure_logging, get_logger
from runtime.metrics import serve_metrics
from runtime.settings import Settings

GC_THRESHOLDS: Final = (20_000, 50, 100)
_QUOTING: Final = (LookupError, TypeError, AttributeError, ArithmeticError, UnicodeError)
Main = Callable[[asyncio.Event], Coroutine[Any, Any, None]]


def run_process(name: str, settings: Settings, main: Main, *, allow_uvloop: bool = True) -> None:
    """Runs the process until a signal or an error; ends it with exit code 0 or 1."""
    configure_logging(name, settings.log_level, settings.log_format)
    collect_seldom()
    log = get_logger("process")
    try:
        serve_metrics(settings.metrics_port)
        with asyncio.Runner(loop_factory=_loop_factory(wanted=settings.uvloop and allow_uvloop)) as runner:
            runner.run(_with_signals(main, settings.drain_s))
    except Exception as error:
        log.exception("process_failed", error=_message_of(error), type=type(error).__name__)
        sys.exit(1)
    log.info("process_ended")


def _message_of(error: Exception) -> str:
    """What an error says; nothing where that is the value that a mistake of ours met, which may be part of a claim."""
    return "" if isinstance(error, _QUOTING) else str(error)


def collect_seldom() -> None:
    """Sets the collector of reference cycles to run less often than Python would.

    What is decoded and kept has no cycles and goes by reference counts. With Python's own thresholds the collector walked the
    ledger's whole state so often that it took a third of the time of settling a claim.
    """
    gc.set_threshold(*GC_THRESHOLDS)


def announce(name: str, **addresses: str | int) -> None:
    """Prints where the process answers and keeps its data, for the person who started it."""
    places = "  ".join(f"{key}={value}" for key, value in addresses.items())
    print(f"{name} started  pid={os.getpid()}  {places}", flush=True)


async def run_until(stop: asyncio.Event, *parts: Awaitable[None]) -> None:
    """Runs the parts until `stop` is set, then cancels what remains. A part that ends or fails ends all of them.

    Raises the failed part's exception after the others have ended.
    """
    tasks = [asyncio.ensure_future(part) for part in parts]
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        for task in (*tasks, stopping):
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(stopping, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result


async def run_together(*parts: Awaitable[None]) -> None:
    """Runs the parts until one of them ends or fails, then cancels the others. Raises the failed part's exception."""
    await run_until(asyncio.Event(), *parts)


async def _with_signals(main: Main, drain_s: float) -> None:
    stop = asyncio.Event()
    task = asyncio.ensure_future(main(stop))
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        await asyncio.wait([task], timeout=drain_s)
    stopping.cancel()
    if not task.done():
        get_logger("process").warning("drain_timed_out", seconds=drain_s)
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled():
        task.result()


def _loop_factory(*, wanted: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is wanted and installed, else the standard loop."""
    if not wanted or sys.platform == "win32":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
