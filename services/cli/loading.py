"""Load: invented claims at a rate, followed until each has ended or visibly waits for a person.

An open loop: claims are due by the clock, whatever the answers do. Each organisation submits its own over its own
stream and follows its own events.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from claimledger.intake.v1 import intake_pb2
from claims.status import TERMINAL, Status
from cli.events import tracked
from cli.generator import PlannedClaim
from cli.session import Session
from cli.submitting import MOST_IN_BATCH, Submitter, cancelled

NOT_ACCEPTED: Final = "not accepted"
"""How `outcome_rows` calls what intake refused."""
TICK_S: Final = 0.05
PATIENCE_S: Final = 60.0
"""So long without any step, and what has not ended counts as unaccounted for."""


@dataclass(slots=True)
class Followed:
    """One accepted claim and the steps it has made: (status, time in ms, detail)."""

    control_number: str
    submitter: str
    planted: str
    sent_ms: int
    repeated: bool
    steps: list[tuple[Status, int, str]] = field(default_factory=list)

    @property
    def status(self) -> Status:
        return self.steps[-1][0] if self.steps else Status.RECEIVED

    @property
    def has_ended(self) -> bool:
        """Terminal, or waiting for a person where everyone sees it."""
        return self.status in TERMINAL or self.status is Status.PENDED


@dataclass(slots=True)
class Report:
    """What became of a load. `refused` are (planted, error) of claims that intake did not accept."""

    claims: dict[str, Followed] = field(default_factory=dict)
    refused: list[tuple[str, intake_pb2.ClaimError]] = field(default_factory=list)
    sent: int = 0
    seconds_sending: float = 0.0

    @property
    def outcomes(self) -> Counter[Status]:
        return Counter(claim.status for claim in self.claims.values())

    @property
    def unaccounted(self) -> list[Followed]:
        return [claim for claim in self.claims.values() if not claim.has_ended]

    @property
    def settled(self) -> list[Followed]:
        return [claim for claim in self.claims.values() if claim.status is Status.SETTLED]


Progress = Callable[[int, int, int], None]
"""Told: sent, answered, ended."""


class Load:
    """One run over the sessions of the submitters that the plan names. `key` begins every idempotency key."""

    def __init__(self, sessions: Mapping[str, Session], key: str, progress: Progress = lambda *_: None) -> None:
        self.report = Report()
        self._key = key
        self._progress = progress
        self._sessions = sessions
        self._submitters = {name: Submitter(session, self._answered) for name, session in sessions.items()}
        self._planned: dict[str, tuple[PlannedClaim, int]] = {}
        self._early: dict[str, list[tuple[Status, int, str]]] = defaultdict(list)
        """Steps that arrived before their claim's answer."""
        self._ended = 0
        self._answers = 0
        self._last_step = time.monotonic()

    async def run(self, plan: Iterator[PlannedClaim], count: int, rate: float, *, follow: bool = True) -> Report:
        """Submits `count` claims of the plan at `rate` a second (0: as fast as they are answered), then waits for their end.

        Returns when all have ended or nothing has moved for PATIENCE_S.
        """
        trackers = [asyncio.ensure_future(self._track(s)) for s in self._sessions.values()] if follow else []
        try:
            began = time.monotonic()
            submitting = asyncio.gather(*(submitter.run() for submitter in self._submitters.values()))
            await self._feed(plan, count, rate)
            await submitting
            self.report.seconds_sending = time.monotonic() - began
            self._last_step = time.monotonic()
            while follow and self._ended < len(self.report.claims) and self._is_moving(trackers):
                await asyncio.sleep(TICK_S)
                self._tell()
        finally:
            for tracker in trackers:
                await cancelled(tracker)
        return self.report

    def _is_moving(self, trackers: Sequence["asyncio.Future[None]"]) -> bool:
        for tracker in trackers:
            if tracker.done():
                tracker.result()
        return time.monotonic() - self._last_step < PATIENCE_S

    async def _feed(self, plan: Iterator[PlannedClaim], count: int, rate: float) -> None:
        began = time.monotonic()
        while self.report.sent < count:
            due = count if not rate else min(count, int((time.monotonic() - began) * rate) + 1)
            due = min(due, self.report.sent + MOST_IN_BATCH)
            batches: dict[str, list[intake_pb2.SubmitClaimRequest]] = defaultdict(list)
            for _ in range(due - self.report.sent):
                planned = next(plan)
                batches[planned.submitter].append(self._request(planned))
            for name, batch in batches.items():
                await self._submitters[name].put(batch)
            self._tell()
            await asyncio.sleep(TICK_S if rate else 0)
        for submitter in self._submitters.values():
            await submitter.close()

    def _request(self, planned: PlannedClaim) -> intake_pb2.SubmitClaimRequest:
        self.report.sent += 1
        key = f"{self._key}-{self.report.sent}"
        self._planned[key] = planned, time.time_ns() // 1_000_000
        return intake_pb2.SubmitClaimRequest(client_key=key, claim=planned.claim)

    def _answered(self, request: intake_pb2.SubmitClaimRequest, answer: intake_pb2.ClaimAnswer) -> None:
        planned, sent_ms = self._planned.pop(request.client_key)
        self._answers += 1
        if answer.HasField("error"):
            self.report.refused.append((planned.planted, answer.error))
            return
        accepted = answer.accepted
        number = accepted.control_number
        claim = Followed(number, planned.submitter, planned.planted, sent_ms, accepted.repeated_submission)
        self.report.claims[number] = claim
        for step in self._early.pop(number, ()):
            self._step(claim, step)

    async def _track(self, session: Session) -> None:
        """Follows the organisation's events; after a lost connection goes on where it was."""
        async with session.intake_channel() as channel:
            async for event in tracked(channel):
                self._on_event(event)

    def _on_event(self, event: intake_pb2.TrackClaimsResponse) -> None:
        step = Status(event.status), event.time_ms, event.detail
        claim = self.report.claims.get(event.control_number)
        if claim is not None:
            self._step(claim, step)
        elif self._planned:
            self._early[event.control_number].append(step)

    def _step(self, claim: Followed, step: tuple[Status, int, str]) -> None:
        had_ended = claim.has_ended
        claim.steps.append(step)
        self._ended += claim.has_ended - had_ended
        self._last_step = time.monotonic()

    def _tell(self) -> None:
        self._progress(self.report.sent, self._answers, self._ended)


def sessions_of(first: Session, organisations: Sequence[str]) -> dict[str, Session]:
    """The same network seen by each of these organisations."""
    return {name: Session(first.run, name, first.network) for name in organisations}


def outcome_rows(report: Report) -> list[tuple[str, dict[str, Any]]]:
    """For each planted case and for plain claims (""): how many ended how."""
    by_case: dict[str, Counter[str]] = defaultdict(Counter)
    for claim in report.claims.values():
        by_case[claim.planted][claim.status.name] += 1
    for planted, _ in report.refused:
        by_case[planted][NOT_ACCEPTED] += 1
    return sorted((case, dict(counts)) for case, counts in by_case.items())
