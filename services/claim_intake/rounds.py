"""One round of the projector: reported steps in, a transaction out.

Claims are kept in memory while they move, since five reports come for each within seconds; what is not in memory is
read from the database. A round changes memory only after its transaction has been committed.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from claim_intake.projection import Drop, Outcome, advance, close_gap
from claim_intake.store.database import Database
from claim_intake.store.projecting import (
    ClaimKey,
    KnownClaim,
    Partition,
    Round,
    last_event_id,
    load_claims,
    long_held,
    save_offsets,
    write_round,
)
from claims.quick import quick
from claims.status import StatusEvent

MAX_CLAIMS_IN_MEMORY: Final = 50_000
MAX_EVENTS_IN_MEMORY: Final = 60_000
MAX_GAPS_AT_ONCE: Final = 500
READER: Final = "projector"
UNKNOWN_CLAIM: Final = "unknown_claim"
FOREIGN_PAYER: Final = "foreign_payer"
_status_event, _known_claim = quick(StatusEvent), quick(KnownClaim)


@dataclass(frozen=True, slots=True)
class Reported:
    """A step as it was read: `payer` is the one whose topic it came from."""

    payer: str
    event: StatusEvent


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round did: events written, and why others were not."""

    applied: int
    held: int
    dropped: dict[str, int]


class Rounds:
    """The projector's memory and its writes; one instance writes at a time."""

    def __init__(self, database: Database, clock_ms: Callable[[], int]) -> None:
        self._database = database
        self._clock_ms = clock_ms
        self._memory: OrderedDict[ClaimKey, KnownClaim] = OrderedDict()
        self._recent: deque[tuple[int, StatusEvent]] = deque(maxlen=MAX_EVENTS_IN_MEMORY)
        """The newest events as they were committed, by id."""
        self.last_event_id = 0

    async def start(self) -> None:
        """Reads where the numbering of events continues."""
        async with self._database.reading() as connection:
            self.last_event_id = await last_event_id(connection)

    async def take(self, reported: Sequence[Reported], offsets: Mapping[Partition, int]) -> RoundResult:
        """Orders what was read and writes it together with the offsets behind it."""
        by_claim: dict[ClaimKey, list[Reported]] = {}
        for item in reported:
            by_claim.setdefault((item.event.claim_ref, item.event.version), []).append(item)
        known = await self._known(by_claim)
        dropped: dict[str, int] = {}
        work: list[tuple[ClaimKey, KnownClaim, Outcome]] = []
        for key, items in by_claim.items():
            claim = known.get(key)
            events = _attributed(claim, items, dropped)
            if claim is not None and events:
                work.append((key, claim, advance(claim.progress, (*claim.held, *events))))
        return await self._write(work, offsets, dropped)

    def recent_after(self, after_id: int, limit: int) -> list[tuple[int, StatusEvent]] | None:
        """The next committed events in order, or None where the first of them is no longer in memory."""
        if after_id >= self.last_event_id:
            return []
        skipped = after_id + 1 - (self._recent[0][0] if self._recent else self.last_event_id + 1)
        if skipped < 0:
            return None
        return list(islice(self._recent, skipped, skipped + limit))

    async def close_gaps(self, older_than_ms: int) -> RoundResult:
        """Gives claims whose next step has not come for too long the steps that later ones imply."""
        async with self._database.reading() as connection:
            keys = await long_held(connection, self._clock_ms() - older_than_ms, MAX_GAPS_AT_ONCE)
        known = await self._known(dict.fromkeys(keys))
        work = [(key, claim, close_gap(claim.progress, claim.held)) for key, claim in known.items() if claim.held]
        return await self._write([(key, replace(claim, held_ms=0), outcome) for key, claim, outcome in work], {}, {})

    async def _known(self, keys: Mapping[ClaimKey, object]) -> dict[ClaimKey, KnownClaim]:
        known = {key: claim for key in keys if (claim := self._memory.get(key)) is not None}
        missing = [key for key in keys if key not in known]
        if missing:
            async with self._database.reading() as connection:
                known.update(await load_claims(connection, missing))
        return known

    async def _write(
        self,
        work: Sequence[tuple[ClaimKey, KnownClaim, Outcome]],
        offsets: Mapping[Partition, int],
        dropped: dict[str, int],
    ) -> RoundResult:
        now_ms = self._clock_ms()
        applied = [(claim.claim_id, event) for _, claim, outcome in work for event in outcome.applied]
        changed = {key: _after(claim, outcome, now_ms) for key, claim, outcome in work}
        held = [(c.claim_id, event, c.held_ms) for c in changed.values() for event in c.held]
        released = [claim.claim_id for _, claim, _ in work if claim.held]
        for _, _, outcome in work:
            for _, reason in outcome.dropped:
                _count(dropped, reason)
        if not (changed or offsets):
            return RoundResult(0, 0, dropped)
        async with self._database.writing() as connection:
            await write_round(connection, Round(applied, changed, held, released), self.last_event_id + 1)
            await save_offsets(connection, READER, offsets)
        self._recent.extend((number, event) for number, (_, event) in enumerate(applied, self.last_event_id + 1))
        self.last_event_id += len(applied)
        self._remember(changed)
        return RoundResult(len(applied), len(held), dropped)

    def _remember(self, changed: Mapping[ClaimKey, KnownClaim]) -> None:
        for key, claim in changed.items():
            self._memory[key] = claim
            self._memory.move_to_end(key)
        while len(self._memory) > MAX_CLAIMS_IN_MEMORY:
            self._memory.popitem(last=False)


def _attributed(claim: KnownClaim | None, items: Sequence[Reported], dropped: dict[str, int]) -> list[StatusEvent]:
    """The steps with the parties that intake knows; a step of another payer's claim is nobody's to report."""
    if claim is None:
        dropped[UNKNOWN_CLAIM] = dropped.get(UNKNOWN_CLAIM, 0) + len(items)
        return []
    own = [item.event for item in items if item.payer == claim.payer]
    if len(own) < len(items):
        dropped[FOREIGN_PAYER] = dropped.get(FOREIGN_PAYER, 0) + len(items) - len(own)
    payee = claim.payee or next((event.payee for event in own if event.payee), "")
    return [_with_parties(event, claim, payee if event.step else "") for event in own]


def _with_parties(e: StatusEvent, claim: KnownClaim, payee: str) -> StatusEvent:
    if (e.submitter, e.payer, e.payee) == (claim.submitter, claim.payer, payee):
        return e
    return _status_event(
        e.claim_ref, e.version, e.status, e.step, e.time_ms, claim.submitter, claim.payer, payee, e.detail
    )


def _after(claim: KnownClaim, outcome: Outcome, now_ms: int) -> KnownClaim:
    payee = next((event.payee for event in reversed(outcome.applied) if event.payee), claim.payee)
    held_ms = (claim.held_ms or now_ms) if outcome.held else 0
    return _known_claim(claim.claim_id, claim.submitter, claim.payer, payee, outcome.progress, outcome.held, held_ms)


def _count(dropped: dict[str, int], reason: Drop) -> None:
    dropped[reason.value] = dropped.get(reason.value, 0) + 1
