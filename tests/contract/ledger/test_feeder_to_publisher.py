"""Four replicas with a broker: what comes over Kafka is ordered, executed and published, though one of them drops claims."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from aiokafka import TopicPartition

from claimledger.events.v1 import events_pb2
from claimledger.ledger.v1 import ledger_pb2
from claims.result import CLAIM_RESULT
from claims.transaction import PricedClaim
from ledger_commit import cursor, feeder
from runtime.dlq import read_to_end
from runtime.kafka import SealingProducer, create_topics, make_consumer, make_producer
from runtime.network import GENESIS_FILE, Network, save_network
from runtime.stage import Out
from runtime.tenant_keys import service_keys
from runtime.topics import RETRY, SCORED, SETTLEMENTS, Topic
from tests.contract.ledger.conftest import REPLICAS, Replicas
from tests.contract.ledger.feeding import acknowledged
from tests.contract.ledger.handing_in import Clerk, told
from tests.contract.ledger.publishing import PATIENCE_S, PAYERS, members
from tests.fixtures.kafka import now_ms
from tests.fixtures.ledger_world import claim, line, scored_entry
from verify_settlement import Verifier

pytestmark = pytest.mark.kafka
DROPPING = "cygnus"
PAYEE = "riverside"
PARTITIONS = 2
CLAIMS = 12


@dataclass
class Way:
    """From claims.scored to the settlements of their payee."""

    replicas: Replicas
    clerk: Clerk
    kafka: str

    @property
    def network(self) -> Network:
        return self.replicas.network

    @property
    def group(self) -> str:
        return self.network.in_kafka(feeder.GROUP)

    async def send(self, topic: Topic, claims: Sequence[PricedClaim]) -> None:
        """A record for each claim, as its payer's scoring would send it, to its payer's partitions in turn."""
        for payer in PAYERS:
            keys = service_keys(self.replicas.run, self.replicas.network, payer, "fraud")
            outs = []
            for number, each in enumerate(c for c in claims if c.payer == payer):
                entry = scored_entry([each], payer, keys=self.clerk.key, chain_id=self.clerk.chain_id)
                value = events_pb2.ScoredRecord(scored_record=entry[1:]).SerializeToString()
                outs.append(
                    Out(
                        self.network.topic(topic, payer).name, b"key", value, topic.schema, "event", number % PARTITIONS
                    )
                )
            async with SealingProducer(make_producer(self.kafka, "test"), keys, "test") as producer:
                await producer.send_all(outs, now_ms())

    async def until_members(self) -> None:
        """Returns when all replicas have their partitions."""
        async with asyncio.timeout(PATIENCE_S):
            while await members(self.kafka, self.group) != len(REPLICAS):
                await asyncio.sleep(0.1)

    async def until_acknowledged(self, topic: Topic, count: int) -> None:
        """Returns when the group has acknowledged so many records of all payers."""
        names = {self.network.topic(topic, payer).name for payer in PAYERS}
        async with asyncio.timeout(PATIENCE_S):
            while (
                sum(o for place, o in (await acknowledged(self.kafka, self.group)).items() if place.topic in names)
                < count
            ):
                await asyncio.sleep(0.1)

    async def published(self) -> list[ledger_pb2.SettlementProof]:
        """The committed settlements of the payee."""
        keys = service_keys(self.replicas.run, self.replicas.network, PAYEE, "client")
        topic = self.network.topic(SETTLEMENTS, PAYEE)
        consumer = make_consumer(self.kafka, group=None, client_id="test", read_committed=True)
        await consumer.start()
        try:
            return [
                ledger_pb2.SettlementProof.FromString(keys.open(r.topic, r.key, SETTLEMENTS.schema, r.value, r.headers))
                async for r in read_to_end(consumer, [TopicPartition(topic.name, p) for p in range(PARTITIONS)])
            ]
        finally:
            await consumer.stop()

    async def until_told(self, height: int) -> list[ledger_pb2.GetStatusResponse]:
        """The status of every replica, once each tells that publishing has come to this height."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                statuses = [await self.replicas.status(replica) for replica in REPLICAS]
                if all(status.published_height >= height for status in statuses):
                    return statuses
                await asyncio.sleep(0.05)

    async def until_published(self, results: int) -> list[ledger_pb2.SettlementProof]:
        async with asyncio.timeout(PATIENCE_S):
            while len(found := await self.published()) < results:
                await asyncio.sleep(0.1)
        return found


@pytest.fixture
async def way(replicas: Replicas, kafka_address: str, monkeypatch: pytest.MonkeyPatch) -> Way:
    """All four run; one of them acknowledges what Kafka gives it and drops it."""
    network = replicas.network = replace(replicas.network, topic_prefix=f"t{secrets.token_hex(4)}")
    save_network(network, replicas.run)
    monkeypatch.setattr(feeder, "COMMIT_INTERVAL_S", 0.1)
    monkeypatch.setattr(feeder, "RETRY_TURN_S", 0.3)
    monkeypatch.setattr(cursor, "LOOK_S", 0.1)
    await create_topics(kafka_address, network.topics(), PARTITIONS)
    using: dict[str, Any] = {"kafka": kafka_address, "replica_feed": True, "replica_publish": True}
    replicas.start(*(r for r in REPLICAS if r != DROPPING), **using)
    replicas.start(DROPPING, **using, replica_drop_claims=True)
    return Way(replicas, Clerk(replicas), kafka_address)


async def test_every_claim_is_settled_and_published_once_though_a_replica_drops_its_share(way: Way) -> None:
    """Dropped claims come again over retry, with all the others; every replica tells how far publishing has come."""
    for transaction in (way.clerk.plan("gold", *PAYERS), way.clerk.members("gold", PAYERS[0], "ada")):
        assert not (await way.clerk.result(await way.clerk.submit(transaction))).refusal
    claims = [
        claim(f"{payer}-{number}", [line()], submitter=payer, payer=payer, payee=PAYEE)
        for number in range(CLAIMS // len(PAYERS))
        for payer in PAYERS
    ]
    await way.until_members()
    await way.send(SCORED, claims)
    await way.until_acknowledged(SCORED, CLAIMS)
    kept = (await way.replicas.status("aurora")).results_size - 2
    assert 0 < kept < CLAIMS
    await way.send(RETRY, claims)
    for replica in REPLICAS:
        assert (await way.replicas.executed(replica, CLAIMS + 2)).results_size == CLAIMS + 2
    found = await way.until_published(CLAIMS)
    verifier = Verifier((way.replicas.run / GENESIS_FILE).read_bytes(), way.clerk.chain_id)
    results = [verifier.verify(proof.SerializeToString()).result for proof in found]
    assert Counter(result["claim_ref"] for result in results) == {c.claim_ref.hex(): 1 for c in claims}
    assert {result["outcome"] for result in results} == {"SETTLED"}
    for replica in REPLICAS:
        async with way.replicas.calling(replica, PAYEE) as stub:
            streamed = await told(stub, "", CLAIMS)
        assert [s.proof.result for s in streamed] == [p.result for p in sorted(found, key=lambda p: p.leaf_index)]
    last = max(CLAIM_RESULT.decode(proof.result).height for proof in found)
    statuses = await way.until_told(last)
    assert [s.publisher for s in statuses].count(True) == 1
    assert all(s.published_height <= s.committed_height for s in statuses)
