"""An open loop from gRPC to the published settlement: claims are due by the clock, and their time runs from then."""

import asyncio
import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from aiokafka import TopicPartition

from claimledger.intake.v1 import intake_pb2
from claims.identifiers import claim_ref_of
from cli.generator import PlannedClaim
from cli.session import Session
from cli.submitting import MOST_IN_BATCH, Submitter, cancelled
from runtime.kafka import make_consumer
from runtime.topics import SETTLEMENTS

TICK_S: Final = 0.05
POLL_RECORDS: Final = 2000


@dataclass(slots=True)
class Seen:
    """When each claim was due and when its settlement was read, on the monotonic clock, by claim_ref."""

    due: dict[bytes, float] = field(default_factory=dict)
    arrived: dict[bytes, float] = field(default_factory=dict)
    order: list[float] = field(default_factory=list)
    """All arrivals, ascending."""
    sent: list[float] = field(default_factory=list)
    """All due times, ascending."""

    def settled_between(self, first: float, last: float) -> int:
        return bisect_left(self.order, last) - bisect_left(self.order, first)

    def sent_before(self, moment: float) -> int:
        return bisect_left(self.sent, moment)

    def open_at(self, moment: float) -> int:
        """Claims due and not settled at that moment."""
        return self.sent_before(moment) - bisect_left(self.order, moment)

    def latencies_ms(self, first: float, last: float) -> list[float]:
        """Of claims due in that time, ascending; what has not arrived is left out (see `missing`)."""
        found = (
            self.arrived[ref] - due for ref, due in self.due.items() if first <= due < last and ref in self.arrived
        )
        return sorted(seconds * 1000 for seconds in found)

    def missing(self, first: float, last: float) -> int:
        return sum(first <= due < last and ref not in self.arrived for ref, due in self.due.items())

    def longest_gap_ms(self, first: float, last: float) -> float:
        """The longest time without any arrival between the two moments."""
        inside = self.order[bisect_left(self.order, first) : bisect_left(self.order, last)]
        moments = [first, *inside, last]
        return max(b - a for a, b in pairwise(moments)) * 1000


class OpenLoop:
    """One loop over a network: `run` offers claims of `plan` at a rate for a time."""

    def __init__(self, sessions: dict[str, Session], plan: Iterator[PlannedClaim], key: str) -> None:
        self.seen = Seen()
        self._sessions = sessions
        self._plan = plan
        self._key = key
        self._number = 0
        self._due: dict[str, float] = {}
        self._ready: deque[tuple[str, intake_pb2.SubmitClaimRequest]] = deque()
        self.refused = 0

    def prepare(self, count: int) -> None:
        """Makes claims ahead of time, so that making them costs nothing while measuring."""
        self._ready.extend(self._next() for _ in range(count))

    async def run(self, rate: float, seconds: float, settle_s: float) -> None:
        """Offers for that long, then waits for what is open, at most `settle_s`."""
        submitters = {name: Submitter(session, self._answered) for name, session in self._sessions.items()}
        following = asyncio.ensure_future(self._follow())
        submitting = asyncio.gather(*(submitter.run() for submitter in submitters.values()))
        try:
            await self._offer(submitters, rate, seconds)
            for submitter in submitters.values():
                await submitter.close()
            await submitting
            until = time.monotonic() + settle_s
            while len(self.seen.arrived) < len(self.seen.due) and time.monotonic() < until:
                await asyncio.sleep(TICK_S)
        finally:
            submitting.cancel()
            await cancelled(following)

    async def _offer(self, submitters: dict[str, Submitter], rate: float, seconds: float) -> None:
        began = time.monotonic()
        offered = 0
        while (now := time.monotonic()) < began + seconds:
            batches: dict[str, list[intake_pb2.SubmitClaimRequest]] = defaultdict(list)
            while offered < (now - began) * rate:
                submitter, request = self._ready.popleft() if self._ready else self._next()
                due = self._due[request.client_key] = began + offered / rate
                self.seen.sent.append(due)
                batches[submitter].append(request)
                offered += 1
            for name, batch in batches.items():
                for start in range(0, len(batch), MOST_IN_BATCH):
                    await submitters[name].put(batch[start : start + MOST_IN_BATCH])
            await asyncio.sleep(TICK_S)

    def _next(self) -> tuple[str, intake_pb2.SubmitClaimRequest]:
        """The next claim with its submitter."""
        planned = next(self._plan)
        self._number += 1
        request = intake_pb2.SubmitClaimRequest(client_key=f"{self._key}-{self._number}", claim=planned.claim)
        return planned.submitter, request

    def _answered(self, request: intake_pb2.SubmitClaimRequest, answer: intake_pb2.ClaimAnswer) -> None:
        due = self._due.pop(request.client_key)
        if answer.HasField("error"):
            self.refused += 1
        else:
            self.seen.due[claim_ref_of(answer.accepted.control_number)] = due

    async def _follow(self) -> None:
        """Reads the payers' settlements from their ends on, as they are committed."""
        network = next(iter(self._sessions.values())).network
        consumer = make_consumer(network.kafka, group=None, client_id="bench", read_committed=True)
        await consumer.start()
        try:
            topics = [SETTLEMENTS.name(payer) for payer in network.payers]
            partitions = [TopicPartition(topic, p) for topic in topics for p in range(network.buckets)]
            consumer.assign(partitions)
            await consumer.seek_to_end(*partitions)
            while True:
                polled = await consumer.getmany(timeout_ms=20, max_records=POLL_RECORDS)
                now = time.monotonic()
                for records in polled.values():
                    for record in records:
                        self._arrive(record, now)
        finally:
            await consumer.stop()

    def _arrive(self, record: Any, now: float) -> None:
        """A claim's first settlement counts; its payer's copy alone is read."""
        if record.key not in self.seen.arrived:
            self.seen.arrived[record.key] = now
            self.seen.order.append(now)


def quantile(ascending: Sequence[float], share: float) -> float:
    """The nearest-rank quantile. Raises IndexError for no values."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]
