"""A development network from nothing: certificates, keys, genesis, reference files; then plans and members on the ledger.

Everything comes from the invented world, whose seed, day and size are kept in `world.json`, so that later commands
speak of the same people.
"""

import datetime
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc

from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from claims.identifiers import day_of
from claims.result import TRANSACTION_RESULT, TransactionResult
from claims.transaction import (
    ENROLL_MEMBER,
    PUBLISH_PLAN,
    SIGNED_TRANSACTION,
    EnrollMember,
    Enrollment,
    Kind,
    PartySignature,
    Prefix,
    PublishPlan,
    RefusalReason,
    SignedTransaction,
    transaction_message,
)
from cli.world import ORGANISATIONS, World, make_world
from runtime.development import ORGANISATION_KEY_ID, Ports, make_network
from runtime.network import Network, organisation_directory, save_network
from runtime.pki import load_signing_key
from runtime.reference_file import save_reference

WORLD_FILE: Final = "world.json"
PREFIX_WORD: Final = "claimledger"
PREFIX_DIGITS: Final = 12
"""Hex digits of the chain id: enough that the networks on one Kafka differ."""
MEMBERS_AT_ONCE: Final = 500
ORDERED_WITHIN_S: Final = 30.0
AGAIN_WITHIN_S: Final = 5.0
"""For so long another outcome is waited for where a transaction was refused before: a refusal for the same reason leaves no
result (ADR 0025)."""
POLL_S: Final = 0.05
RETRY_S: Final = 0.2
CALL_TIMEOUT_S: Final = 5.0
_AWAY: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


class BootstrapError(Exception):
    """Why the network could not be made or prepared, and what to do."""


def make_certs(
    run: Path, seed: int, families: int, base_port: int, kafka: str, buckets: int, topic_prefix: str | None = ""
) -> Network:
    """Writes a whole development network under `run`. Raises BootstrapError where there is one already.

    Without a topic prefix (None) one is made of the chain id, which no other network has.
    """
    today = day_of(datetime.datetime.now(datetime.UTC).date())
    world = make_world(seed, today, families)
    replicas = sum(role in {"insurer", "regulator"} for role in ORGANISATIONS.values())
    try:
        network = make_network(
            run, ORGANISATIONS, Ports.from_base(base_port, replicas), kafka, buckets=buckets,
            npi_organisations={p.npi: p.organisation for p in world.providers}, time_ms=time.time_ns() // 1_000_000,
        )  # fmt: skip
    except FileExistsError as error:
        raise BootstrapError(f"{run} holds a network already: remove it, or set CLAIMLEDGER_RUN") from error
    prefix = f"{PREFIX_WORD}-{network.chain_id[:PREFIX_DIGITS]}" if topic_prefix is None else topic_prefix
    network = replace(network, topic_prefix=prefix)
    save_network(network, run)
    for payer, reference in world.references.items():
        save_reference(reference, organisation_directory(run, payer) / "reference.json")
    (run / WORLD_FILE).write_text(json.dumps({"seed": seed, "today": today, "families": families}) + "\n")
    return network


def load_world(run: Path) -> World:
    """The world of this run directory. Raises BootstrapError where there is none."""
    try:
        told = json.loads((run / WORLD_FILE).read_text())
    except FileNotFoundError as error:
        raise BootstrapError(f"{run / WORLD_FILE} is missing: run `claimledger certs`") from error
    return make_world(told["seed"], told["today"], told["families"])


def founding_transactions(run: Path, network: Network, world: World) -> Iterator[SignedTransaction]:
    """Publication of each plan, signed by all its payers, and the enrolment of its members, signed by the first."""
    chain_id = bytes.fromhex(network.chain_id)
    sequences = dict.fromkeys(ORGANISATIONS, 0)

    def prefix(kind: Kind, organisation: str) -> Prefix:
        sequences[organisation] += 1
        return Prefix(chain_id, kind, organisation, ORGANISATION_KEY_ID, sequences[organisation], 0)

    for plan in world.plans.values():
        first = plan.payers[0]
        rules = hashlib.sha256(repr(plan).encode()).digest()
        published = PublishPlan(
            prefix(Kind.PUBLISH_PLAN, first), plan.plan, plan.year, plan.payers, plan.accumulators, plan.cob_method,
            rules, plan.first_day, plan.last_day,
        )  # fmt: skip
        yield sign_transaction(run, Kind.PUBLISH_PLAN, PUBLISH_PLAN.encode(published), plan.payers)
        people = [person for person in world.people if person.plan == plan.plan]
        for start in range(0, len(people), MEMBERS_AT_ONCE):
            members = tuple(
                Enrollment(person.member_ref, person.family_ref, plan.first_day, person.last_day)
                for person in people[start : start + MEMBERS_AT_ONCE]
            )
            body = EnrollMember(prefix(Kind.ENROLL_MEMBER, first), plan.plan, plan.year, members)
            yield sign_transaction(run, Kind.ENROLL_MEMBER, ENROLL_MEMBER.encode(body), (first,))


def sign_transaction(run: Path, kind: Kind, body: bytes, organisations: Sequence[str]) -> SignedTransaction:
    """The transaction under the organisation keys in this run directory."""
    message = transaction_message(body)
    signatures = []
    for organisation in organisations:
        key = load_signing_key(organisation_directory(run, organisation) / "organisation.ed25519")
        signatures.append(PartySignature(organisation, ORGANISATION_KEY_ID, key.sign(message)))
    return SignedTransaction(kind, body, tuple(signatures))


def order(
    channel: grpc.Channel,
    transactions: Sequence[SignedTransaction],
    done: Callable[[int], None] = lambda _: None,
    within_s: float = ORDERED_WITHIN_S,
) -> None:
    """Hands the transactions in, in this order, and returns when all have taken effect; those that had are left out.

    One that was refused before is tried again, and told again where nothing has changed. `done` is told how many of them are
    through. Raises BootstrapError where one is refused or late.
    """
    stub = ledger_pb2_grpc.LedgerServiceStub(channel)
    deadline = time.monotonic() + within_s
    before = [(t, _result_of(stub, t, deadline)) for t in transactions]
    waiting = [(t, old) for t, old in before if old is None or old.refusal]
    for transaction, _ in waiting:
        request = ledger_pb2.SubmitTransactionRequest(transaction=SIGNED_TRANSACTION.encode(transaction))
        _patient(stub.SubmitTransaction, request, deadline)
    for count, (transaction, old) in enumerate(waiting):
        result = _executed(stub, transaction, old, deadline)
        if result is None:
            name = transaction.kind.name
            raise BootstrapError(f"{name} was not executed within {within_s:.0f} s: see `claimledger status`")
        if result.refusal:
            raise BootstrapError(refusal_text(transaction.kind, RefusalReason(result.refusal)))
        done(count + 1 + len(transactions) - len(waiting))


_REMEDIES: Final = {
    RefusalReason.NOT_PENDED: "the claim does not wait for a decision; `claimledger track` shows where it is",
    RefusalReason.NOT_AUTHORISED: "another organisation has to sign this; say which with --org",
    RefusalReason.UNKNOWN_CLAIM: "only the payer of a claim decides about it; say which organisation with --org",
    RefusalReason.WRONG_INCARNATION: "another statement was first: run `claimledger replica rejoin` again",
    RefusalReason.ROUND_NOT_REACHED: "the statement names a round that nobody is in: run `claimledger replica rejoin` again",
    RefusalReason.BAD_SIGNATURE: "the organisation's key is not the one that the ledger knows",
}


def refusal_text(kind: Kind, reason: RefusalReason) -> str:
    """A refusal for people, with what to do where that is known."""
    remedy = _REMEDIES.get(reason)
    return f"the ledger refused {kind.name}: {reason.name}{f' ({remedy})' if remedy else ''}"


def _executed(
    stub: ledger_pb2_grpc.LedgerServiceStub,
    transaction: SignedTransaction,
    old: TransactionResult | None,
    deadline: float,
) -> TransactionResult | None:
    """The next result, or after a while the old one, where it was refused before; None where there is none in time."""
    patience = deadline if old is None else min(deadline, time.monotonic() + AGAIN_WITHIN_S)
    while (result := _result_of(stub, transaction, deadline)) == old:
        if time.monotonic() > patience:
            return old
        time.sleep(POLL_S)
    return result


def _result_of(
    stub: ledger_pb2_grpc.LedgerServiceStub, transaction: SignedTransaction, deadline: float
) -> TransactionResult | None:
    identity = hashlib.sha256(transaction.body).digest()
    told = _patient(stub.GetTransaction, ledger_pb2.GetTransactionRequest(transaction_id=identity), deadline)
    return TRANSACTION_RESULT.decode(told.result) if told.result else None


def _patient(call: Callable[..., Any], request: Any, deadline: float) -> Any:
    """The answer; while the replica is starting or its lane is full, asks again until the deadline."""
    while True:
        try:
            return call(request, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() not in _AWAY or time.monotonic() > deadline:
                raise
        time.sleep(RETRY_S)
