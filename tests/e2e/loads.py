"""Loads whose claims are known afterwards, and their recount."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from cli.generator import Generator, PlannedClaim
from cli.loading import Load, Report, sessions_of
from cli.world import PAYERS
from tests.e2e.published import Published, equal_tips, read_published
from tests.e2e.recount import Recount, Submitted, recount
from tests.e2e.running import Running, until

AT_ONCE: Final = 200
ENDED_WITHIN_S: Final = 150.0
"""After the last claim was due. A broker that recovers on a busy machine may be away for a minute."""
REST_WITHIN_S: Final = 20.0
ON_THE_WAY: Final = {"RECEIVED", "VALIDATED", "SCORED", "ORDERED"}


@dataclass(frozen=True)
class Loaded:
    """A network after its first load, when everything is known that was ever submitted to it."""

    running: Running
    report: Report
    accepted: dict[str, Submitted]
    published: Published
    found: Recount


def load_whole(running: Running, seed: int, count: int, rate: float) -> Loaded:
    """The first load of a network, and its recount."""
    plan = planned(running, seed, count)
    report = run_load(running, "first", plan, rate)
    accepted = submitted_again(running, "first", plan)
    found, published = recounted(running, accepted, {})
    return Loaded(running, report, accepted, published, found)


def planned(running: Running, seed: int, count: int) -> list[PlannedClaim]:
    """The first claims of this seed, planted cases among them."""
    return list(islice(Generator(running.world, seed), count))


def run_load(running: Running, key: str, plan: Sequence[PlannedClaim], rate: float) -> Report:
    """Submits the plan at this rate and follows every claim to its end."""
    load = Load(sessions_of(running.session(), PAYERS), key)
    limit_s = len(plan) / rate + ENDED_WITHIN_S
    return asyncio.run(asyncio.wait_for(load.run(iter(plan), len(plan), rate), limit_s))


def submitted_again(running: Running, key: str, plan: Sequence[PlannedClaim]) -> dict[str, Submitted]:
    """Control number → claim, by submitting everything once more under the same keys.

    Each answer must be the first one, whatever has crashed in between: nothing is accepted anew.
    """
    by_submitter: dict[str, list[tuple[str, PlannedClaim]]] = defaultdict(list)
    for number, each in enumerate(plan, 1):
        by_submitter[each.submitter].append((f"{key}-{number}", each))
    found: dict[str, Submitted] = {}
    for submitter, claims in by_submitter.items():
        answers = _answers(running, submitter, claims)
        assert len(answers) == len(claims)
        for (name, each), answer in zip(claims, answers, strict=True):
            if answer.HasField("error"):
                assert each.planted == "malformed", f"{name}: {answer.error}"
                continue
            assert answer.accepted.repeated_submission, f"{name} was not known any more"
            found[answer.accepted.control_number] = Submitted(submitter, each.claim)
    return found


def _answers(
    running: Running, submitter: str, claims: Sequence[tuple[str, PlannedClaim]]
) -> list[intake_pb2.ClaimAnswer]:
    def batches() -> Iterator[intake_pb2.SubmitClaimsRequest]:
        for sequence, start in enumerate(range(0, len(claims), AT_ONCE), 1):
            batch = [
                intake_pb2.SubmitClaimRequest(client_key=name, claim=each.claim)
                for name, each in claims[start : start + AT_ONCE]
            ]
            yield intake_pb2.SubmitClaimsRequest(sequence=sequence, claims=batch)

    with running.session(submitter).intake() as channel:
        stub = intake_pb2_grpc.IntakeServiceStub(channel)
        return [answer for response in stub.SubmitClaims(batches(), timeout=30) for answer in response.answers]


def recounted(
    running: Running, accepted: Mapping[str, Submitted], roots: Mapping[int, set[tuple[str, str]]]
) -> tuple[Recount, Published]:
    """The recount once replicas and topics have come to rest; if they do not, of what is there."""
    until(lambda: equal_tips(running), REST_WITHIN_S, "replicas have executed to different heights")
    deadline = time.monotonic() + REST_WITHIN_S
    published = asyncio.run(read_published(running))
    while not _at_rest(accepted, published) and time.monotonic() < deadline:
        time.sleep(0.5)
        published = asyncio.run(read_published(running))
    return recount(running.run, running.world, accepted, published, roots), published


def _at_rest(accepted: Mapping[str, Submitted], published: Published) -> bool:
    """Topics trail the events that a submitter tracks by a transaction."""
    ways = [published.steps[submitted.submitter].get(number, []) for number, submitted in accepted.items()]
    return all(way and way[-1].status not in ON_THE_WAY for way in ways)
