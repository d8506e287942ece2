"""K7: what cannot be decoded goes to the topic's dead letters, the stream goes on, and after repair it comes back."""

import asyncio
import secrets
import time
from collections.abc import Iterable
from typing import Any

import pytest
from google.protobuf.message import DecodeError

from claimledger.events.v1 import events_pb2
from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from claims.status import Status
from cli.generator import Generator
from runtime.kafka import SealingProducer, make_producer
from runtime.stage import Out
from runtime.tenant_keys import service_keys
from runtime.topics import (
    FRAUD_STATE,
    PUBLISHER,
    RAW_STATUS,
    REJECTED,
    RETRY,
    SCORED,
    SETTLEMENTS,
    SUBMITTED,
    VALIDATED,
    VALIDATION_STATE,
    Service,
    Topic,
    named_topics,
)
from tests.e2e.loads import planned, run_load
from tests.e2e.running import Running, until

pytestmark = pytest.mark.e2e
WRITERS = {
    SUBMITTED: "meridian/intake",
    VALIDATED: "aurora/validation",
    REJECTED: "aurora/validation",
    SCORED: "aurora/fraud",
    RETRY: "aurora/fraud",
    RAW_STATUS: "meridian/intake",
    SETTLEMENTS: "meridian/replica",
}
"""Every topic whose records a service has to decode, and who may seal for it."""
JUNK = b"\xff\x07no record of this system"
WITHIN_S = 20


def sealing(network: Running, writer: str, producer: Any) -> SealingProducer:
    organisation, _, service = writer.partition("/")
    keys = service_keys(network.run, network.session().network, organisation, service)
    return SealingProducer(producer, keys, "poison")


async def poison(network: Running, topics: Iterable[Topic]) -> None:
    """Into each topic of aurora: a record that nobody sealed, and a sealed one that holds junk."""
    producer = make_producer(network.kafka.address, "poison")
    await producer.start()
    try:
        for topic in topics:
            name, party = network.topic(topic, "aurora"), [("party", b"submitter")]
            await producer.send_and_wait(name, JUNK, key=b"unsealed", partition=0, headers=party)
            sealed = Out(name, b"sealed", JUNK, topic.schema, "poison", partition=1, headers=tuple(party))
            await sealing(network, WRITERS[topic], producer).send_all([sealed], int(time.time() * 1000))
    finally:
        await producer.stop()


def letters(network: Running, topic: str = "") -> list[dict[str, Any]]:
    said = network.said_here("dlq", "list", "--topic", topic, "--json")
    assert said.code == 0, said.err
    return said.rows


def test_every_topic_that_a_service_decodes_is_poisoned_here(network: Running) -> None:
    """A topic that gets dead letters has a consumer; a new one must join the test."""
    with pytest.raises(DecodeError):
        events_pb2.SubmittedBatch.FromString(JUNK)
    rows = {t.row for t in named_topics(["aurora"], ["aurora"]) if t.row.dead_letters}
    assert rows == {*WRITERS, VALIDATION_STATE, FRAUD_STATE}, "state is read at a rebuilding: tests/contract"
    assert all(set(row.readers) - {Service.CLIENT} for row in rows)


def test_poison_in_every_topic_is_set_aside_and_the_stream_goes_on(network: Running) -> None:
    """Two letters a topic, listed and shown with reason and place; claims settle as if nothing had been there."""
    before = len(letters(network, "aurora"))
    asyncio.run(poison(network, WRITERS))
    report = run_load(network, f"poison-{secrets.token_hex(3)}", planned(network, 77, 40), 40)
    assert report.unaccounted == []
    assert report.outcomes[Status.SETTLED] > 20

    def all_there() -> bool:
        found = {(row["position"].rpartition(".dlq:")[0], row["type"]) for row in letters(network, "aurora")}
        due = {network.topic(topic, "aurora") for topic in WRITERS}
        kinds = {name: {kind for topic, kind in found if topic == name} for name in due}
        return all(len(some) >= 2 for some in kinds.values())

    until(all_there, WITHIN_S, "a poisoned record is in no dead-letter topic")
    # `claims.retry` is read whole by every replica, and a rebalance may bring a record twice: letters repeat, records do not.
    places = set()
    for row in letters(network, "aurora")[before:]:
        shown = network.said_here("dlq", "show", row["position"], "--json").rows[0]
        kind = shown["type"]
        assert row["position"].startswith(f"{shown['topic']}.dlq:")
        assert (kind == "no-key-id") == (shown["partition"] == 0), shown
        assert shown["reason"]
        assert shown["stage"]
        places.add((shown["topic"], shown["partition"], shown["offset"]))
    assert sorted((topic, partition) for topic, partition, _ in places) == sorted(
        (network.topic(topic, "aurora"), partition) for topic in WRITERS for partition in (0, 1)
    )


def test_what_cannot_be_repaired_comes_back_as_a_letter_and_is_marked(network: Running) -> None:
    asyncio.run(poison(network, [SUBMITTED]))
    name = network.topic(SUBMITTED, "aurora")
    open_ones = until(lambda: [r for r in letters(network, name) if not r["replayed"]], WITHIN_S, "no letter came")
    count = len(letters(network, name))
    said = network.said_here("dlq", "replay", open_ones[0]["position"])
    assert (said.code, "1 replayed" in said.out) == (0, True), said
    until(lambda: len(letters(network, name)) == count + 1, WITHIN_S, "the replayed record did not come back")
    again = next(row for row in letters(network, name) if row["position"] == open_ones[0]["position"])
    assert again["replayed"] is True
    said = network.said_here("dlq", "replay", open_ones[0]["position"])
    assert "0 replayed" in said.out, "a letter goes back once"
    said = network.said_here("dlq", "show", f"{name}.dlq:999999")
    assert (said.code, "dlq list" in said.err) == (1, True)


def test_a_claim_whose_key_was_missing_settles_after_repair_and_replay(network: Running) -> None:
    """Validation cannot open the topic's key of the day: its records are letters. The key comes back, they are replayed,
    and the claim, never sent again by intake, goes its way."""
    claim = next(p.claim for p in Generator(network.world, 5150, planted=False) if p.claim.header.payer == "borealis")
    name = network.topic(SUBMITTED, "borealis")
    network.processes.stop("validation")
    (key,) = (network.run / "keys" / "topics" / name).glob("*.json")
    away = key.rename(key.with_suffix(".away"))
    try:
        with network.session("borealis").intake() as channel:
            stub = intake_pb2_grpc.IntakeServiceStub(channel)
            request = intake_pb2.SubmitClaimRequest(client_key=secrets.token_hex(8), claim=claim)
            number = stub.SubmitClaim(request, timeout=10).accepted.control_number
            network.start("validation")
            found = until(
                lambda: [row for row in letters(network, name) if row["type"] == "unknown-key"], 40, "no letter came"
            )
    finally:
        away.rename(key)
    said = network.said_here("dlq", "replay", *(row["position"] for row in found))
    assert said.code == 0, said.err
    with network.session("borealis").intake() as channel:
        stub = intake_pb2_grpc.IntakeServiceStub(channel)

        def settled() -> Any:
            view = stub.GetClaim(intake_pb2.GetClaimRequest(control_number=number), timeout=10).claim
            return view if view.status == Status.SETTLED and view.verified else None

        view = until(settled, WITHIN_S, f"{number} did not settle")
    assert view.attempts == 1


def test_an_undecodable_cursor_does_not_stop_the_publisher(network: Running) -> None:
    """`ledger.publisher` has no dead letters: what is no cursor is passed over by whoever takes the role next."""

    async def spoil() -> None:
        producer = make_producer(network.kafka.address, "poison")
        await producer.start()
        try:
            await producer.send_and_wait(network.topic(PUBLISHER), JUNK, key=b"cursor", partition=0)
        finally:
            await producer.stop()

    def publisher() -> str | None:
        told = {name: network.status_of(name) for name in network.replicas}
        return next((name for name, status in told.items() if status and status.publisher), None)

    asyncio.run(spoil())
    held = until(publisher, WITHIN_S, "nobody publishes")
    network.processes.stop(held)
    taken = until(publisher, WITHIN_S, "nobody took over")
    network.start(held)
    assert taken != held
    report = run_load(network, f"cursor-{secrets.token_hex(3)}", planned(network, 78, 20), 40)
    assert report.unaccounted == []
    assert "undecodable_cursor" in network.log_of(taken)
