"""No broker at start, a full outbox, two who start at once, a broker lost later, and an end that leaves nothing.

One network lives through it all; what it accepted at any time has ended at the end.
"""

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from claims.status import Status
from cli.generator import PlannedClaim
from cli.loading import Report
from cli.processes import ProcessError
from runtime.broker import BrokerError
from tests.e2e.loads import planned, recounted, run_load, submitted_again
from tests.e2e.running import Running, made_network, until

pytestmark = pytest.mark.e2e
FAMILIES: Final = 30
OUTBOX: Final = 60
AWAY_S: Final = 5.0
ENVIRONMENT = {"CLAIMLEDGER_INTAKE_OUTBOX_LIMIT": str(OUTBOX)}


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A network of which nothing runs yet."""
    with made_network(tmp_path_factory.mktemp("apart") / "run", FAMILIES, ENVIRONMENT) as running:
        yield running


class Loading(threading.Thread):
    """A load that goes on beside the test."""

    def __init__(self, running: Running, key: str, plan: list[PlannedClaim]) -> None:
        super().__init__()
        self._running, self._key, self._plan = running, key, plan
        self.report: Report | None = None

    def run(self) -> None:
        self.report = run_load(self._running, self._key, self._plan, 60)

    def ended(self) -> Report:
        self.join()
        assert self.report is not None, "the load has failed"
        return self.report


def refused_for_now(running: Running, claim: Any) -> float:
    """0 where intake takes the claim, else after how many seconds it wants it again."""
    request = intake_pb2.SubmitClaimRequest(client_key=secrets.token_hex(8), claim=claim)
    with running.session().intake() as channel:
        call = intake_pb2_grpc.IntakeServiceStub(channel).SubmitClaim.future(request, timeout=10)
        if call.code() is grpc.StatusCode.OK:
            return 0.0
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in rpc_status.from_call(call).details)
    return float(info.retry_delay.ToMilliseconds()) / 1000


def pids(running: Running) -> dict[str, int]:
    found = {name: running.processes.process(name) for name in running.processes.names}
    return {name: process.pid for name, process in found.items() if process is not None}


@pytest.mark.slow
def test_nothing_accepted_is_lost_whenever_the_broker_is_away(apart: Running) -> None:
    """Services wait for the broker at start and later; the full outbox says when to come back; nobody has to restart
    anything."""
    for name in apart.processes.names:
        apart.processes.start(name)
    apart.processes.wait_ready(apart.processes.names)
    apart.found()
    first = planned(apart, 41, 2 * OUTBOX)
    loading = Loading(apart, "absent", first)
    loading.start()
    probe = next(each.claim for each in first if each.planted == "" and each.submitter == "aurora")
    retry_s = until(lambda: refused_for_now(apart, probe), 20, "the outbox never fills")
    assert 0 < retry_s <= 60
    said = apart.claimledger("status")
    assert (said.code, "no broker answers" in said.out) == (3, True), said
    started = pids(apart)
    assert set(started) == set(apart.processes.names), "nobody ends for want of a broker"

    with ThreadPoolExecutor(2) as both:
        ups = [both.submit(apart.claimledger, "up") for _ in range(2)]
    assert [(up.result().code, up.result().err[-500:]) for up in ups if up.result().code] == []
    assert pids(apart) == started, "`up` leaves what runs as it is, also when two say it at once"
    report = loading.ended()
    assert report.unaccounted == []
    assert report.sent == len(report.claims) + len(report.refused)
    assert report.outcomes[Status.SETTLED] > OUTBOX

    again = Loading(apart, "lost", planned(apart, 42, OUTBOX))
    again.start()
    time.sleep(0.5)
    assert apart.kafka.stop()
    time.sleep(AWAY_S)
    apart.kafka.start()
    report = again.ended()
    assert report.unaccounted == []
    assert pids(apart) == started, "services waited and went on"

    accepted = submitted_again(apart, "absent", first) | submitted_again(apart, "lost", planned(apart, 42, OUTBOX))
    found, published = recounted(apart, accepted, {})
    probes = {number for number in published.steps["aurora"] if number not in accepted}
    faults = [fault for fault in found.faults if not any(number in fault for number in probes)]
    assert faults == []


def test_down_leaves_nothing_running_and_a_second_one_is_harmless(apart: Running) -> None:
    assert apart.leftovers() != []
    said = apart.claimledger("down")
    assert said.code == 0, said
    assert apart.leftovers() == []
    assert pids(apart) == {}
    said = apart.claimledger("down")
    assert (said.code, "nothing runs" in said.out) == (0, True), said
    said = apart.claimledger("status")
    assert (said.code, "Traceback" in said.err) == (3, False), said


@contextmanager
def occupied(port: int) -> Iterator[None]:
    """Somebody else listens there."""
    with socket.socket() as busy:
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        busy.bind(("127.0.0.1", port))
        busy.listen()
        yield


@pytest.mark.parametrize("name", ["tags", "replica-aurora"])
@pytest.mark.parametrize("which", ["grpc", "metrics"])
def test_a_busy_port_is_named_and_not_taken_over(apart: Running, name: str, which: str) -> None:
    """Of a service, for calls or for metrics."""
    address = apart.processes.addresses[name]
    port = int(address.rpartition(":")[2]) if which == "grpc" else apart.processes.metrics_port(name)
    with occupied(port):
        with pytest.raises(ProcessError) as caught:
            apart.start(name)
        assert f"127.0.0.1:{port}" in str(caught.value)
        assert name in str(caught.value)
    assert apart.processes.process(name) is None


@pytest.mark.parametrize("variable", ["CLAIMLEDGER_KAFKA_PORT", "CLAIMLEDGER_KAFKA_CONTROLLER_PORT"])
def test_the_brokers_busy_port_is_named_with_its_setting(apart: Running, variable: str) -> None:
    port = apart.kafka.port if variable == "CLAIMLEDGER_KAFKA_PORT" else apart.kafka.controller_port
    with occupied(port):
        with pytest.raises(BrokerError) as caught:
            apart.kafka.start()
        assert str(port) in str(caught.value)
        assert variable in str(caught.value)
        said = apart.claimledger("up")
        assert (said.code, str(port) in said.err, "Traceback" in said.err) == (1, True, False)
    assert apart.leftovers() == []
