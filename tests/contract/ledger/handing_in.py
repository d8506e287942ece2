"""Plans, members and claims for replicas that run without Kafka, under the keys of their run directory.

Transactions go through LedgerService. Records of claims, which come from Kafka otherwise, go in as a batch of one replica's
lane, signed with that lane's key and given to every replica as its peer would: over PeerService.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from claimledger.ledger.v1 import ledger_pb2
from claims.result import TRANSACTION_RESULT, TransactionResult
from claims.transaction import (
    ENROLL_MEMBER,
    PUBLISH_PLAN,
    SIGNED_TRANSACTION,
    CobMethod,
    EnrollMember,
    Enrollment,
    Kind,
    PartySignature,
    Prefix,
    PricedClaim,
    PublishPlan,
    SignedTransaction,
    transaction_message,
)
from ledger_commit.adapters.block_log import reference
from ledger_commit.consensus.messages import BATCH, Batch, batch_message
from runtime.network import organisation_directory
from runtime.pki import load_signing_key
from tests.contract.ledger.conftest import REPLICAS, Replicas
from tests.fixtures.ledger_world import DAY, ORGANISATION_KEY, PRICING_KEY, ZERO, ref, scored_entry

INCARNATION = 1
LANE = "meridian"
_KEY_FILES = {ORGANISATION_KEY: "organisation", PRICING_KEY: "pricing"}


@dataclass
class Clerk:
    """Hands things in at replicas of one network and waits for what becomes of them."""

    replicas: Replicas
    sequence: int = 0
    batches: int = 0

    @property
    def chain_id(self) -> bytes:
        return bytes.fromhex(self.replicas.network.chain_id)

    def key(self, organisation: str, key_id: int) -> Ed25519PrivateKey:
        name = _KEY_FILES.get(key_id, "scoring")
        return load_signing_key(organisation_directory(self.replicas.run, organisation) / f"{name}.ed25519")

    def prefix(self, kind: Kind, organisation: str) -> Prefix:
        self.sequence += 1
        return Prefix(self.chain_id, kind, organisation, ORGANISATION_KEY, self.sequence, 0)

    def signed(self, kind: Kind, body: bytes, *signers: str) -> bytes:
        message = transaction_message(body)
        signatures = tuple(
            PartySignature(o, ORGANISATION_KEY, self.key(o, ORGANISATION_KEY).sign(message)) for o in signers
        )
        return SIGNED_TRANSACTION.encode(SignedTransaction(kind, body, signatures))

    def plan(self, name: str, *payers: str) -> bytes:
        """A plan of these payers without limits, signed by all of them."""
        plan = PublishPlan(
            self.prefix(Kind.PUBLISH_PLAN, payers[0]), name, 2026, payers, (), CobMethod.STANDARD, ZERO, DAY - 200, DAY + 150,
        )  # fmt: skip
        return self.signed(Kind.PUBLISH_PLAN, PUBLISH_PLAN.encode(plan), *payers)

    def members(self, plan: str, payer: str, *members: str) -> bytes:
        enrolled = tuple(Enrollment(ref(m), ref(m), DAY - 100, DAY + 100) for m in members)
        body = EnrollMember(self.prefix(Kind.ENROLL_MEMBER, payer), plan, 2026, enrolled)
        return self.signed(Kind.ENROLL_MEMBER, ENROLL_MEMBER.encode(body), payer)

    async def submit(self, transaction: bytes, replica: str = "aurora", caller: str = "aurora") -> bytes:
        """The id that the replica answers."""
        async with self.replicas.calling(replica, caller) as stub:
            request = ledger_pb2.SubmitTransactionRequest(transaction=transaction)
            answer = await stub.SubmitTransaction(request, wait_for_ready=True, timeout=10)
        identity: bytes = answer.transaction_id
        return identity

    async def result(self, identity: bytes, replica: str = "aurora") -> TransactionResult:
        """What the contract made of it, as soon as the replica tells."""
        async with self.replicas.calling(replica, "aurora") as stub, asyncio.timeout(15):
            while not (
                told := await stub.GetTransaction(ledger_pb2.GetTransactionRequest(transaction_id=identity))
            ).result:
                await asyncio.sleep(0.02)
        return TRANSACTION_RESULT.decode(told.result)

    async def claims(self, *records: Sequence[PricedClaim]) -> None:
        """Hands records of claims in, each with claims to one payer, to every replica that runs."""
        entries = tuple(scored_entry(r, r[0].payer, keys=self.key, chain_id=self.chain_id) for r in records)
        self.batches += 1
        place = REPLICAS.index(LANE)
        unsigned = Batch(place, INCARNATION, self.batches, sum(map(len, records)), entries, bytes(64))
        message = batch_message(self.chain_id, reference(unsigned, BATCH.encode(unsigned)))
        lane = load_signing_key(organisation_directory(self.replicas.run, LANE) / "lane.ed25519")
        batch = replace(unsigned, signature=lane.sign(message))
        requests = [ledger_pb2.ExchangeRequest(batch=BATCH.encode(batch))]
        for replica in self.replicas.running:
            async with self.replicas.peering(replica, LANE, "replica") as stub:
                await stub.Exchange(iter(requests), wait_for_ready=True, timeout=10)


async def told(
    stub: Any, cursor: str, count: int, seconds: float = 10
) -> list[ledger_pb2.SubscribeSettlementsResponse]:
    """The next so many settlements behind a cursor."""
    stream = stub.SubscribeSettlements(ledger_pb2.SubscribeSettlementsRequest(cursor=cursor))
    async with asyncio.timeout(seconds):
        found = [await stream.read() for _ in range(count)]
    stream.cancel()
    return found
