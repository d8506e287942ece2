"""Validation and fraud scoring as they run: killed, restarted, rebalanced, on both runners and a real broker."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from claims.transaction import Disposition
from cli.bootstrap import load_world, make_certs
from cli.world import SERVICES, World
from runtime.broker import LocalKafka
from runtime.dlq import list_dead_letters
from runtime.kafka import create_topics
from runtime.topics import RETRY, SCORED, SUBMITTED, VALIDATED, named_topics
from tests.contract.stages.pipeline import BESIDE_CLAIM, BESIDE_RECORD, UNKNOWN, Pipeline, accepted, claims_of
from tests.fixtures.ports import neighbouring_ports

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
COUNT, SIZE = 400, 8


@pytest.fixture(params=["kafka", "faust"])
def pipeline(request: Any, own_kafka: LocalKafka, tmp_path: Path) -> Iterator[Pipeline]:
    run = tmp_path / "run"
    network = make_certs(run, 7, 60, neighbouring_ports(60), own_kafka.address, 2)
    made = Pipeline(run, own_kafka.address, network, request.param)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def plant(claim: Any, number: int) -> None:
    """Names and numbers of a person that occur nowhere else."""
    claim.parties.patient.family_name = f"Canaryfamily{number}"
    claim.parties.patient.given_name = f"Canarygiven{number}"
    claim.header.patient_control_number = f"CANARYPCN{number}"


async def test_killed_restarted_and_rebalanced_stages_give_what_undisturbed_ones_give(pipeline: Pipeline) -> None:
    """Prices, duplicates and scores; what cannot be decoded goes aside; unknown fields get as far as scoring; no token leaks."""
    world = load_world(pipeline.run)
    organisations = [organisation.id for organisation in pipeline.network.organisations]
    await create_topics(pipeline.kafka, named_topics(pipeline.network.payers, organisations), pipeline.network.buckets)
    claims = claims_of(world, 3, COUNT, plant)
    await pipeline.send(claims[:100], SIZE)
    await pipeline.send_outs([pipeline.submitted("aurora", 0, b"\xff\xff\xff")])
    await pipeline.send(claims[100:], SIZE)
    pipeline.start("duplicate_tags")

    workers = [pipeline.start("validation"), pipeline.start("fraud_scoring")]
    await pipeline.until_some(20)
    for worker in workers:
        worker.kill()
    await pipeline.ended(*workers)

    firsts = [pipeline.start("validation"), pipeline.start("fraud_scoring")]
    expected = await pipeline.expected()
    await pipeline.until_scored(set(expected))
    for module in ("validation", "fraud_scoring"):
        pipeline.start(module)  # and so a rebalance
    more = claims_of(world, 4, 60, plant)
    await pipeline.send(more, SIZE)
    for worker in firsts:
        worker.send_signal(signal.SIGTERM)
    assert await pipeline.ended(*firsts) == [0, 0]

    # The ones that are left answer from the history that the others wrote.
    paid = [s for s in claims if s.accepted.claim_ref in expected and expected[s.accepted.claim_ref].disposition == 1]
    again = [accepted(s.claim, s.accepted.submitter, world.today, f"again/{n}") for n, s in enumerate(paid[:40])]
    await pipeline.send(again, SIZE)
    await pipeline.send([replace(s, attempt=2) for s in paid[:40]], SIZE)
    expected = await pipeline.expected()
    retried = {s.accepted.claim_ref for s in paid[:40]}
    await pipeline.until_scored(set(expected))
    await pipeline.until_scored(retried, RETRY)

    assert all(expected[s.accepted.claim_ref].lines[0].denial_carc == "18" for s in again)
    found = [*await pipeline.priced(SCORED), *await pipeline.priced(RETRY)]
    assert all(claim == expected[claim.claim_ref] for claim in found)
    assert {claim.claim_ref for claim in found} == set(expected)
    assert Disposition.DENY not in {c.disposition for c in found if c.claim_ref in retried}
    scores = await pipeline.expected_scores()
    told = await pipeline.told_scores()
    assert {ref: list(given) for ref, given in told.items()} == {ref: [score] for ref, score in scores.items()}
    assert max(scores.values()) >= 8_000
    letters = await list_dead_letters(pipeline.kafka, pipeline.keys("validation"), [SUBMITTED.name("aurora")])
    assert {(letter.type, letter.partition) for letter in letters} == {("undecodable", 0)}
    await no_token_leaves(pipeline, world)


async def no_token_leaves(pipeline: Pipeline, world: World) -> None:
    """L1: names, numbers and codes are in what goes in, and none of them is in what the ledger gets."""
    before = b"".join(s.accepted.claim for pieces in pipeline.order.values() for piece in pieces for s in piece)
    validated = b"".join(record.value for record in await pipeline.read(VALIDATED))
    tokens = [b"Canaryfamily", b"Canarygiven", b"CANARYPCN"]
    codes = [service.procedure.encode() for service in SERVICES]
    npis = [provider.npi.encode() for provider in world.usual]
    cards = [card.encode() for person in world.insured for card in person.cards.values()]
    stable = [person.stable_id.encode() for person in world.people]
    assert all(token in before for token in [*tokens, *codes])
    assert all(code in validated for code in codes), "scoring is told the codes, and they end there"
    clear = await pipeline.clear_of_ledger()
    assert BESIDE_RECORD in validated
    assert BESIDE_CLAIM in validated
    assert UNKNOWN not in clear + await pipeline.clear_of_others()
    assert [token for token in [*tokens, *codes, *npis, *cards, *stable] if token in clear] == []
