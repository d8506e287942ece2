"""The demonstration: a few hundred claims from intake to verified proofs, one claim's way told, nothing lost.

It fails, and its last line says why, where a claim has no end, a proof is missing or does not hold, or a fraud that was
planted raised no alert.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from claims.status import Status
from cli.bootstrap import load_world
from cli.claim_commands import alert_line, settlement_line
from cli.events import alerts, settlements
from cli.generator import Generator, PlannedClaim
from cli.loading import Followed, Load, Report, sessions_of
from cli.outcomes import outcome_table
from cli.output import Output, when
from cli.processes import ROOT
from cli.session import Session, open_session
from cli.world import PAYERS
from runtime.network import GENESIS_FILE

RATE: Final = 60.0
STANDALONE: Final = ROOT / "services" / "verify_settlement.py"
PROOFS_AT_ONCE: Final = 200
ARRIVE_WITHIN_S: Final = 20.0
ON_LEDGER: Final = (Status.SETTLED, Status.DENIED, Status.PENDED, Status.REFUSED)
SURE_FRAUDS: Final = ("excluded provider", "impossible day")
"""Planted cases that reach the usual alert threshold by one rule alone, whatever was scored before them."""


@dataclass(frozen=True, slots=True)
class Accounted:
    """Where every accepted claim is, how many proofs hold, and how many alerts came."""

    accepted: int
    settled: int
    denied: int
    rejected: int
    pending: int
    verified: int
    lost: int
    proofs_due: int
    alerts: int
    alerts_due: int

    @property
    def line(self) -> str:
        told = (
            f"demo: {self.accepted} claims accepted, {self.settled} settled, {self.denied} denied, "
            f"{self.rejected} rejected, {self.pending} pending review, {self.verified} proofs verified, {self.lost} lost"
        )
        return told if self.complete else f"{told}: FAILED, {', '.join(self.faults)}"

    @property
    def complete(self) -> bool:
        return not self.faults

    @property
    def faults(self) -> list[str]:
        """What is missing, for people."""
        homeless = self.accepted - self.settled - self.denied - self.rejected - self.pending
        found = [f"{homeless} of {self.accepted} claims have no end"] if self.lost or homeless else []
        if self.verified != self.proofs_due:
            found.append(f"{self.verified} of {self.proofs_due} proofs hold")
        if self.alerts != self.alerts_due:
            found.append(f"{self.alerts} of {self.alerts_due} alerts came")
        return found


def run_demo(run: Path, out: Output, count: int, seed: int) -> Accounted:
    """Loads, tells, verifies. The network is up already."""
    session = open_session(run, PAYERS[0])
    sessions = sessions_of(session, PAYERS)
    report = _load(out, sessions, iter(Generator(load_world(run), seed)), count)
    _tell_one(out, report)
    out.table("what became of the claims", outcome_table(report))
    alerts = tell_alerts(out, sessions, report)
    return account(report, _verify(out, run, sessions, report), alerts)


def account(report: Report, proofs: tuple[int, int], alerts: tuple[int, int]) -> Accounted:
    """The sum of a load. Of proofs and alerts: how many there are, and how many are due."""
    outcomes = report.outcomes
    return Accounted(
        accepted=len(report.claims),
        settled=outcomes[Status.SETTLED],
        denied=outcomes[Status.DENIED],
        rejected=outcomes[Status.REJECTED] + outcomes[Status.REFUSED],
        pending=outcomes[Status.PENDED],
        verified=proofs[0],
        lost=len(report.unaccounted),
        proofs_due=proofs[1],
        alerts=alerts[0],
        alerts_due=alerts[1],
    )


def _load(out: Output, sessions: dict[str, Session], plan: Iterator[PlannedClaim], count: int) -> Report:
    with out.progress() as bars:
        bar = bars.add_task("claims ended", total=count)

        def progress(_: int, __: int, ended: int) -> None:
            bars.update(bar, completed=ended + len(driver.report.refused))

        driver = Load(sessions, "demo", progress)
        return asyncio.run(driver.run(plan, count, RATE))


def _tell_one(out: Output, report: Report) -> None:
    """The way of one settled claim, in the middle of the load, step by step with times."""
    if not report.settled:
        return
    claim = report.settled[len(report.settled) // 2]
    out.say(f"the way of {claim.control_number}, submitted by {claim.submitter}:")
    out.say(f"  {when(claim.sent_ms)}            sent to intake over gRPC")
    for status, time_ms, detail in sorted(claim.steps, key=lambda step: step[1]):
        out.say(f"  {when(time_ms)}  {time_ms - claim.sent_ms:+6d} ms  {status.name:<10} {detail}")


def tell_alerts(out: Output, sessions: dict[str, Session], report: Report) -> tuple[int, int]:
    """One alert as an analyst's stream shows it; and how many of the sure frauds raised one: (came, due)."""
    sure = [claim for claim in report.claims.values() if claim.planted in SURE_FRAUDS]
    due = len(sure) + sum(planted in SURE_FRAUDS for planted, _ in report.refused)
    if not due:
        out.say("no fraud that is sure to raise an alert was planted among so few claims")
        return 0, 0
    found = asyncio.run(_find_alerts(sessions, sure))
    shown = next((claim for claim in sure if claim.control_number in found), None)
    if shown:
        out.say(f"an alert of {shown.submitter}, planted as {shown.planted!r}:")
        out.say(f"  {alert_line(found[shown.control_number])}")
    return len(found), due


async def _find_alerts(sessions: dict[str, Session], due: list[Followed]) -> dict[str, dict[str, Any]]:
    """The alerts of these claims that come in time, from the streams of their payers, by control number."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for claim in due:
        wanted[claim.submitter].add(claim.control_number)
    found: dict[str, dict[str, Any]] = {}

    async def of(session: Session, numbers: set[str]) -> None:
        async for alert in alerts(session, session.network.kafka):
            if alert["control_number"] in numbers:
                found[alert["control_number"]] = alert
            if numbers <= found.keys():
                return

    reading = asyncio.gather(*(of(sessions[payer], numbers) for payer, numbers in wanted.items()))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(reading, ARRIVE_WITHIN_S)
    return found


def _verify(out: Output, run: Path, sessions: dict[str, Session], report: Report) -> tuple[int, int]:
    """Writes the proof of every result to a file and runs the stand-alone verifier over them; (verified, due)."""
    due = {c.control_number for c in report.claims.values() if c.status in ON_LEDGER}
    found = asyncio.run(_collect(sessions, due))
    place = run / "proofs"
    place.mkdir(exist_ok=True)
    files = []
    for number, settlement in found.items():
        path = place / f"{number}.proof"
        path.write_bytes(bytes.fromhex(settlement["proof"]))
        files.append(path)
    verified = 0
    with out.progress() as bars:
        bar = bars.add_task("proofs verified offline", total=len(due))
        for start in range(0, len(files), PROOFS_AT_ONCE):
            verified += verified_by_file(out, run, files[start : start + PROOFS_AT_ONCE])
            bars.update(bar, completed=verified)
    out.say(f"proofs in {place}")
    example = next((s for s in found.values() if s["outcome"] == "SETTLED"), None)
    if example:
        out.say(f"  {settlement_line(example)}")
    return verified, len(due)


def verified_by_file(out: Output, run: Path, files: list[Path]) -> int:
    """How many of these hold, by the one file alone, without an import path to the project."""
    command = [sys.executable, "-I", str(STANDALONE), *map(str, files), "--genesis", str(run / GENESIS_FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stderr.splitlines():
        out.error(line)
    return done.stdout.splitlines().count("{")  # it prints a document for each that holds, and may end before the last


async def _collect(sessions: dict[str, Session], due: set[str]) -> dict[str, dict[str, Any]]:
    """The latest result of each of these claims, from the payers' streams."""
    found: dict[str, dict[str, Any]] = {}

    async def of(session: Session) -> None:
        async for settlement in settlements(session):
            if settlement["control_number"] in due:
                found[settlement["control_number"]] = settlement
            if len(found) == len(due):
                return

    tasks = [asyncio.ensure_future(of(session)) for session in sessions.values()]
    done, waiting = await asyncio.wait(tasks, timeout=ARRIVE_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for task in done:
        task.result()
    return found
