"""From gRPC to the published settlement, with every sync and BLS, on one machine with Kafka and the generator.

A probe as fast as claims are taken gives a first guess; the rate that counts is one that an open loop offered while
settlements kept up: as many in the window as were due, but for 3 %. Every consumer starts the window at rest, and is at its end
no further behind than a second; else what is not counted would be paid for in another window.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.bootstrap import load_world
from cli.generator import Generator, PlannedClaim
from cli.loading import sessions_of
from cli.output import Output
from cli.overview import consumer_rows
from cli.processes import Processes
from tests.bench.loop import OpenLoop, Seen, quantile
from tests.bench.network import Usage, disk_bytes, publisher_of, session_of, usage_of, whole_network

WARM_UP_S: Final = 8.0
WINDOW_S: Final = 15.0
SETTLE_S: Final = 60.0
KEEPS_UP: Final = 0.97
STEPS: Final = 5
"""Of a claim's life, each a record to some reader: so many for each claim of a second is the lag that may grow in a window."""
REST_S: Final = 90.0
AT_REST: Final = 100
"""Records that all consumers together may be behind before a window."""
BACK_OFF: Final = 0.9
ATTEMPTS: Final = 5
FLOOD: Final = 4000.0
"""Claims a second, more than can be settled here."""
FILLED_AFTER_S: Final = 2.0
"""By then every stage has work."""
FIRST_RATE: Final = 200.0
"""For warming up what is started: pools, caches, groups."""
LOW_SHARE: Final = 0.2
"""Of the sustained rate, for latencies and the kill."""
KILL_AFTER_S: Final = 10.0
WATCH_AFTER_KILL_S: Final = 20.0


Beside = Callable[[], Awaitable[None]]


class NotSustainedError(Exception):
    """No rate was found with which settlements kept up."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Rates in claims a second, times in ms, CPU in µs a claim, memory in MB, disk in bytes a claim."""

    claims_per_s: float
    p50_ms: float
    p99_ms: float
    kill_gap_ms: float
    cpu_us: dict[str, float]
    rss_mb: dict[str, float]
    disk_bytes: float


@dataclass(frozen=True, slots=True)
class _Window:
    rate: float
    settled: int
    usage: Usage
    kept_up: bool


class EndToEnd:
    """One network under measurement."""

    def __init__(self, processes: Processes, out: Output) -> None:
        self._processes = processes
        self._out = out
        self._session = session_of(processes)
        self._plan: Iterator[PlannedClaim] = iter(Generator(load_world(processes.run), 3, planted=False))
        self._runs = 0
        self._settled = 0

    def _loop(self) -> OpenLoop:
        self._runs += 1
        network = self._session.network
        return OpenLoop(sessions_of(self._session, network.payers), self._plan, f"bench-{time.time_ns()}-{self._runs}")

    def measure(self, guess: float) -> Measured:
        """`guess` 0 probes for the first rate."""
        self._offer(FIRST_RATE, WARM_UP_S)
        place = self._processes.run / "data" / "replica-aurora"
        disk_before, settled_before = disk_bytes(place), self._settled
        window = self._sustained(guess or self._probe())
        disk = (disk_bytes(place) - disk_before) / max(1, self._settled - settled_before)
        low = self._latencies(window.rate * LOW_SHARE)
        gap = self._kill_gap(window.rate * LOW_SHARE)
        return Measured(
            claims_per_s=window.rate,
            p50_ms=quantile(low, 0.5),
            p99_ms=quantile(low, 0.99),
            kill_gap_ms=gap,
            cpu_us={name: s / window.settled * 1e6 for name, s in window.usage.cpu_s.items()},
            rss_mb=window.usage.rss_mb,
            disk_bytes=disk,
        )

    def _offer(self, rate: float, seconds: float, beside: Beside | None = None) -> OpenLoop:
        """One open loop to its end, with something else beside it, such as a look at the processes."""
        loop = self._loop()
        loop.prepare(int(rate * seconds))

        async def both() -> None:
            running = asyncio.ensure_future(loop.run(rate, seconds, SETTLE_S))
            if beside is not None:
                await beside()
            await running

        asyncio.run(both())
        self._settled += len(loop.seen.arrived)
        return loop

    def _probe(self) -> float:
        """What comes out while more is offered than can be."""
        seen = self._offer(FLOOD, WARM_UP_S).seen
        first, last = seen.sent[0] + FILLED_AFTER_S, seen.order[-1]
        rate = seen.settled_between(first, last) / (last - first)
        self._out.say(f"  flooded: {rate:.0f} claims a second come out")
        return rate

    def _sustained(self, guess: float) -> _Window:
        rate = guess
        for _ in range(ATTEMPTS):
            window = self._window(rate)
            if window.kept_up:
                return window
            rate *= BACK_OFF
        raise NotSustainedError(f"settlements did not keep up with {rate:.0f} claims a second")

    def _window(self, rate: float) -> _Window:
        """One open loop; what happens in its middle counts."""
        usages: list[Usage] = []
        lags: list[int] = []
        self._come_to_rest()

        async def watch() -> None:
            for pause in (WARM_UP_S, WINDOW_S):
                await asyncio.sleep(pause)
                usages.append(await asyncio.to_thread(usage_of, self._processes))
                lags.append(await asyncio.to_thread(self._lag))

        loop = self._offer(rate, WARM_UP_S + WINDOW_S, watch)
        seen = loop.seen
        first, last = _middle(seen)
        settled, opened = seen.settled_between(first, last), (seen.open_at(first), seen.open_at(last))
        due = seen.sent_before(last) - seen.sent_before(first)
        kept_up = settled >= due * KEEPS_UP and not loop.refused and lags[1] - lags[0] <= STEPS * rate
        self._out.say(
            f"  {rate:.0f}/s offered: {settled / WINDOW_S:.0f}/s settled, open {opened[0]} → {opened[1]}, "
            f"lag {lags[0]} → {lags[1]} records"
            f"{'' if kept_up else ', does not keep up'}"
        )
        before, after = usages
        spent = {name: after.cpu_s[name] - before.cpu_s.get(name, 0.0) for name in after.cpu_s}
        return _Window(settled / WINDOW_S, settled, Usage(spent, after.rss_mb), kept_up)

    def _lag(self) -> int:
        """Records that consumers have not dealt with, of all together."""
        rows = consumer_rows(self._processes, self._session.network.kafka)
        return sum(row["lag_records"] or 0 for row in rows)

    def _come_to_rest(self) -> None:
        """Raises NotSustainedError where consumers do not catch up with what was offered before."""
        until = time.monotonic() + REST_S
        while (lag := self._lag()) > AT_REST:
            if time.monotonic() > until:
                raise NotSustainedError(f"{lag} records were not dealt with {REST_S:.0f} s after the last claim")
            time.sleep(1.0)

    def _latencies(self, rate: float) -> list[float]:
        self._come_to_rest()
        seen = self._offer(rate, WARM_UP_S + WINDOW_S).seen
        window = _middle(seen)
        if missing := seen.missing(*window):
            raise NotSustainedError(f"{missing} claims at {rate:.0f} a second did not arrive within {SETTLE_S:.0f} s")
        found = seen.latencies_ms(*window)
        self._out.say(f"  {rate:.0f}/s: p50 {quantile(found, 0.5):.0f} ms, p99 {quantile(found, 0.99):.0f} ms")
        return found

    def _kill_gap(self, rate: float) -> float:
        """The publishing replica is killed under load; the longest time in which no settlement came."""
        victim = publisher_of(self._session)
        killed: list[float] = []

        async def kill() -> None:
            await asyncio.sleep(KILL_AFTER_S)
            killed.append(time.monotonic())
            await asyncio.to_thread(self._processes.stop, victim, kill=True)

        seen = self._offer(rate, KILL_AFTER_S + WATCH_AFTER_KILL_S, kill).seen
        self._processes.start(victim)
        self._processes.wait_ready([victim])
        gap = seen.longest_gap_ms(killed[0] - 1.0, killed[0] + WATCH_AFTER_KILL_S)
        self._out.say(f"  {victim} killed at {rate:.0f}/s: {gap:.0f} ms without a settlement")
        if lost := len(seen.due) - len(seen.arrived):
            raise NotSustainedError(f"{lost} claims had not settled {SETTLE_S:.0f} s after the kill")
        return gap


def _middle(seen: Seen) -> tuple[float, float]:
    """The window that counts, after the warm-up from the first claim on."""
    first = seen.sent[0] + WARM_UP_S
    return first, first + WINDOW_S


def measure_end_to_end(run: Path, out: Output, guess: float) -> Measured:
    """Starts a network, measures, stops it."""
    with whole_network(run, out) as processes:
        return EndToEnd(processes, out).measure(guess)
