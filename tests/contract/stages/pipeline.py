"""The two stages and the tag service as their own processes on a broker of the test's own, with what goes in and comes out."""

import asyncio
import hashlib
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from claim_intake.wire import claim_of
from claimledger.events.v1 import events_pb2
from claims.claim import ACCEPTED_CLAIM, CLAIM, AcceptedClaim, Claim
from claims.transaction import RECORD, SCORED_RECORD, PricedClaim
from cli.generator import Generator
from cli.world import PAYERS, World
from duplicate_tags.__main__ import load_key
from duplicate_tags.service import evaluate
from fraud_scoring.__main__ import build as build_scoring
from fraud_scoring.features import Score
from fraud_scoring.settings import FraudSettings
from fraud_scoring.state_log import StateLog
from runtime.dlq import read_to_end
from runtime.kafka import SealingProducer, make_consumer, make_producer
from runtime.network import Network, organisation_directory
from runtime.stage import Incoming, Out
from runtime.tenant_keys import TenantKeys, service_keys
from runtime.topic_keys import TopicKeys
from runtime.topics import ALERTS, RAW_STATUS, REJECTED, RETRY, SCORED, SCORES, SUBMITTED, VALIDATED, Topic, bucket_of
from tests.fixtures.kafka import now_ms
from validation.__main__ import build as build_validation
from validation.history import Histories
from validation.settings import ValidationSettings

ROOT = Path(__file__).resolve().parents[3]
INTAKE = "meridian"
UNKNOWN = b"Canaryunknown-"
BESIDE_RECORD, BESIDE_CLAIM = (bytes((0xC2, 0x3E, len(UNKNOWN) + 1)) + UNKNOWN + end for end in (b"R", b"C"))
"""Field 1000 of a later version, as it stands on the wire, in a record and in each of its claims."""


@dataclass(frozen=True)
class Sent:
    """A claim as intake would send it."""

    claim: Claim
    accepted: AcceptedClaim
    encoded: bytes
    attempt: int = 1

    @property
    def payer(self) -> str:
        return self.claim.header.payer

    @property
    def bucket_key(self) -> bytes:
        return self.payer.encode() + self.claim.parties.patient.member_id.encode()


def claims_of(world: World, seed: int, count: int, change: Callable[[Any, int], None]) -> list[Sent]:
    """Claims of the world, planted cases among them, but those that intake refuses."""
    made: list[Sent] = []
    for number, planned in enumerate(Generator(world, seed)):
        change(planned.claim, number)
        claim = claim_of(planned.claim)
        if isinstance(claim, Claim):
            made.append(accepted(claim, planned.submitter, world.today, f"{seed}/{number}"))
        if len(made) == count:
            break
    return made


def accepted(claim: Claim, submitter: str, day: int, name: str) -> Sent:
    drawn = hashlib.sha256(name.encode()).digest()
    value = AcceptedClaim(drawn[:16], 1, submitter, day, drawn, drawn, CLAIM.encode(claim))
    return Sent(claim, value, ACCEPTED_CLAIM.encode(value))


@dataclass
class Pipeline:
    """Workers of one run directory; `runner` is `faust` or `kafka`."""

    run: Path
    kafka: str
    network: Network
    runner: str
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    order: dict[tuple[str, int], list[list[Sent]]] = field(default_factory=lambda: defaultdict(list))
    """What was sent to each partition of claims.submitted, record by record."""

    def start(self, module: str) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join(str(ROOT / part) for part in ("services", "proto/python"))
        around = {
            **os.environ, "PYTHONPATH": path, "CLAIMLEDGER_RUN": str(self.run), "KAFKA_BOOTSTRAP_SERVERS": self.kafka,
            "CLAIMLEDGER_VALIDATION_RUNNER": self.runner, "CLAIMLEDGER_FRAUD_RUNNER": self.runner,
        }  # fmt: skip
        with (self.run / f"{module}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module], env=around, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    async def ended(self, *processes: "subprocess.Popen[bytes]") -> list[int]:
        return [await asyncio.wait_for(asyncio.to_thread(process.wait), 40) for process in processes]

    def keys(self, service: str) -> TenantKeys:
        return TenantKeys(self.run, self.network, service, PAYERS)

    @property
    def intake_keys(self) -> TopicKeys:
        return service_keys(self.run, self.network, INTAKE, "intake")

    async def send(self, claims: Sequence[Sent], size: int) -> None:
        """Records of `size` claims at most, each with fields that this version does not know."""
        outs = []
        for (payer, bucket), some in self._by_partition(claims).items():
            for start in range(0, len(some), size):
                piece = some[start : start + size]
                self.order[payer, bucket].append(piece)
                outs.append(self.submitted(payer, bucket, b"".join(map(_wire, piece)) + BESIDE_RECORD))
        await self.send_outs(outs)

    def _by_partition(self, claims: Iterable[Sent]) -> dict[tuple[str, int], list[Sent]]:
        groups: dict[tuple[str, int], list[Sent]] = defaultdict(list)
        for claim in claims:
            groups[claim.payer, bucket_of(claim.bucket_key, self.network.buckets)].append(claim)
        return groups

    def submitted(self, payer: str, bucket: int, value: bytes) -> Out:
        name = hashlib.sha256(value).hexdigest()[:32]
        return Out(SUBMITTED.name(payer), bucket.to_bytes(4, "big"), value, SUBMITTED.schema, name, partition=bucket)

    async def send_outs(self, outs: Sequence[Out]) -> None:
        async with SealingProducer(make_producer(self.kafka, "test"), self.intake_keys, "test") as producer:
            for out in outs:
                await producer.send_all([out], now_ms())

    async def read(self, topic: Topic, service: str = "fraud") -> list[Incoming]:
        """All records of a topic of every payer, in clear, in the order of each partition."""
        keys: Any = self.intake_keys if service == "intake" else self.keys(service)
        found = []
        consumer = make_consumer(self.kafka, group=None, client_id="test")
        await consumer.start()
        try:
            for payer in PAYERS:
                name = topic.name(payer)
                partitions = [TopicPartition(name, p) for p in range(self.network.buckets)]
                async for raw in read_to_end(consumer, partitions):
                    value = keys.open(name, raw.key, topic.schema, raw.value, raw.headers)
                    found.append(Incoming(name, raw.partition, raw.offset, raw.key, value, tuple(raw.headers)))
        finally:
            await consumer.stop()
        return found

    async def priced(self, topic: Topic) -> list[PricedClaim]:
        """The claims in the records of claims.scored or claims.retry."""
        return [
            claim
            for record in await self.read(topic)
            for claim in RECORD.decode(
                SCORED_RECORD.decode(events_pb2.ScoredRecord.FromString(record.value).scored_record).record
            ).claims
        ]

    async def until_scored(self, wanted: set[bytes], topic: Topic = SCORED, timeout_s: float = 60) -> None:
        async with asyncio.timeout(timeout_s):
            while not wanted <= {claim.claim_ref for claim in await self.priced(topic)}:
                await asyncio.sleep(0.3)

    async def until_some(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(await self.priced(SCORED)) < count:
                await asyncio.sleep(0.05)

    async def expected(self) -> dict[bytes, PricedClaim]:
        """The priced claims of a validation that nobody disturbs, with the tag service's key."""
        key = load_key(organisation_directory(self.run, INTAKE) / "tags.hmac")
        stage, _, _ = build_validation(ValidationSettings(run=self.run), self.network)

        async def tags(elements: Sequence[bytes]) -> Sequence[bytes]:
            return [evaluate(key, element) for element in elements]

        stage._tags = tags
        priced: dict[bytes, PricedClaim] = {}
        for (payer, bucket), records in self.order.items():
            history = Histories()
            for offset, piece in enumerate(records):
                record = Incoming(SUBMITTED.name(payer), bucket, offset, None, b"".join(map(_wire, piece)))
                (message,) = await stage.prepare([stage.decode(record)])
                for out in stage.apply(history, record, message):
                    if out.topic == VALIDATED.name(payer):
                        body = events_pb2.ValidatedRecord.FromString(out.value or b"").record
                        priced |= {claim.claim_ref: claim for claim in RECORD.decode(body).claims}
        return priced

    async def expected_scores(self) -> dict[bytes, int]:
        """Scores, in ten-thousandths, of one undisturbed reading of what claims.validated holds."""
        stage, _ = build_scoring(FraudSettings(run=self.run), self.network)
        logs: dict[tuple[str, int], StateLog] = defaultdict(StateLog)
        scores: dict[bytes, Score] = {}
        for record in await self.read(VALIDATED):
            log, message = logs[record.topic, record.partition], stage.decode(record)
            stage.apply(log, record, message)
            for claim in message.record.claims:
                given = log.state.score_of(claim.claim_ref, claim.version)
                assert given is not None
                scores[claim.claim_ref] = given
        return {ref: score.score_bp for ref, score in scores.items()}

    async def told_scores(self) -> dict[bytes, Counter[int]]:
        """Every score that was published for a claim, and how often."""
        from claimledger.fraud.v1 import fraud_pb2

        found: dict[bytes, Counter[int]] = defaultdict(Counter)
        for record in await self.read(SCORES):
            told = fraud_pb2.FraudScore.FromString(record.value)
            found[told.claim_ref][round(told.score * 10_000)] += 1
        return found

    async def clear_of_ledger(self) -> bytes:
        """All that claims.scored and claims.retry hold, keys and headers too."""
        return _all_of([*await self.read(SCORED), *await self.read(RETRY)])

    async def clear_of_others(self) -> bytes:
        """The same of what validation and scoring tell to anybody but each other."""
        told = [await self.read(topic) for topic in (SCORES, ALERTS)]
        told += [await self.read(topic, "intake") for topic in (REJECTED, RAW_STATUS)]
        return _all_of([record for records in told for record in records])


def _all_of(records: Iterable[Incoming]) -> bytes:
    return b"".join((r.key or b"") + r.value + b"".join(value for _, value in r.headers) for r in records)


def _wire(sent: Sent) -> bytes:
    """A claim as a field of SubmittedBatch, a field that nobody knows inside."""
    known = events_pb2.SubmittedClaim(accepted=sent.encoded, attempt=sent.attempt, accepted_time_ms=1)
    inner = known.SerializeToString() + BESIDE_CLAIM
    length, count = bytearray(), len(inner)
    while count > 0x7F:
        length.append(count & 0x7F | 0x80)
        count >>= 7
    length.append(count)
    return b"\x0a" + bytes(length) + inner
