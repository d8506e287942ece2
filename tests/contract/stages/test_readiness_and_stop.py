"""Validation as `claimledger up` and `down` see it: when it is ready, and how it ends while the tag service is away."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import processes as cli_processes
from cli.bootstrap import load_world, make_certs
from cli.gauges import PARTITIONS, read_gauges
from cli.overview import lag_rows
from cli.processes import ProcessError, Processes
from runtime.kafka import create_topics
from runtime.topics import named_topics
from tests.contract.stages.pipeline import Pipeline, claims_of
from tests.fixtures.kafka import local_kafka
from tests.fixtures.ports import neighbouring_ports

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
NAME = "validation"
FAMILIES, BUCKETS = 12, 2
DRAIN_S = 1.0
"""How long a stage may finish what it holds."""
ENDS_WITHIN_S = DRAIN_S + 8.0
"""A process needs some seconds more to end on a busy machine; one that waits for tags never does."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A broker that has claims for validation, and a network of which nothing runs: no tag service either."""
    run = tmp_path_factory.mktemp("stop") / "run"
    broker = local_kafka(run.parent / "kafka", [])
    network = make_certs(run, 7, FAMILIES, neighbouring_ports(60), broker.address, BUCKETS)
    made = Pipeline(run, broker.address, network, "")

    async def fill() -> None:
        organisations = [organisation.id for organisation in network.organisations]
        await create_topics(broker.address, named_topics(network.payers, organisations), BUCKETS)
        await made.send(claims_of(load_world(run), 3, 30, lambda claim, number: None), 10)

    asyncio.run(fill())
    yield made
    broker.stop(kill=True)


@pytest.fixture
def processes(pipeline: Pipeline) -> Iterator[Processes]:
    made = Processes(pipeline.run, None, {"CLAIMLEDGER_DRAIN_S": str(DRAIN_S)})
    made.log(NAME).unlink(missing_ok=True)
    yield made
    made.stop(NAME, kill=True)


async def behind(pipeline: Pipeline) -> int:
    """What `claimledger status` says of the group that has all of the claims before it."""
    rows = await lag_rows(pipeline.kafka, pipeline.network)
    return next(row["lag_records"] for row in rows or [] if row["group"] == NAME)


@pytest.mark.parametrize("runner", ["kafka", "faust"])
async def test_a_stage_is_ready_when_it_has_its_partitions_and_ends_in_time_without_tags(
    pipeline: Pipeline, processes: Processes, runner: str
) -> None:
    """With claims in hand that it cannot tag, SIGTERM ends it in its time. It has acknowledged none of them, and status says so."""
    processes.start(NAME, CLAIMLEDGER_VALIDATION_RUNNER=runner)
    await asyncio.to_thread(processes.wait_reading, [NAME])
    told = read_gauges(processes.metrics_port(NAME))
    assert told[PARTITIONS, NAME] == len(pipeline.network.payers) * BUCKETS
    async with asyncio.timeout(20):
        while "tag_service_away" not in processes.log(NAME).read_text():
            await asyncio.sleep(0.05)
    began = time.monotonic()
    assert await asyncio.to_thread(processes.stop, NAME)
    assert time.monotonic() - began < ENDS_WITHIN_S
    assert await behind(pipeline) == sum(len(pieces) for pieces in pipeline.order.values())


def test_a_stage_that_reads_nothing_is_named_after_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs and waits for a broker; `up` says so instead of waiting with it. One that has ended is named too."""
    monkeypatch.setattr(cli_processes, "READY_WITHIN_S", 0.5)
    run = tmp_path / "run"
    make_certs(run, 7, FAMILIES, neighbouring_ports(60), "127.0.0.1:1", BUCKETS)
    processes = Processes(run, None)
    try:
        processes.start(NAME)
        processes.wait_ready([NAME])
        with pytest.raises(ProcessError, match=r"validation reads nothing after 0\.5 s"):
            processes.wait_reading([NAME])
    finally:
        processes.stop(NAME, kill=True)
    with pytest.raises(ProcessError, match="validation has ended"):
        processes.wait_reading([NAME])
