"""What makes a demo fail, and what its last line says then; the way of all parts together is an e2e test."""

import datetime
import json
import socket
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import typer

from claims.identifiers import day_of
from claims.status import Status
from cli import demo, network_commands
from cli.__main__ import app
from cli.demo import SURE_FRAUDS, Accounted, account
from cli.generator import Generator
from cli.loading import Followed, Report
from cli.output import Output
from cli.world import make_world
from tests.fixtures.ports import neighbouring_ports
from tests.unit.cli.conftest import Say
from tests.unit.verifier.proof_world import honest_server

SUMS = "3 claims accepted, 1 settled, 0 denied, 1 rejected, {pending} pending review, {verified} proofs verified"

ALL = "1 of 3 claims have no end, 0 of 1 proofs hold, 0 of 2 alerts came"


def report_of(*ends: Status) -> Report:
    """A load whose claims have come to these statuses."""
    report = Report()
    for number, end in enumerate(ends):
        name = f"claim-{number}"
        report.claims[name] = Followed(name, "aurora", "", 0, repeated=False, steps=[(end, 1, "")])
    return report


def concluded(accounted: Accounted, capsys: pytest.CaptureFixture[str], *, as_json: bool = False) -> tuple[int, str]:
    """The exit code and the line that a demo with this sum ends with."""
    code = 0
    try:
        network_commands.conclude(Output(as_json=as_json), accounted)
    except typer.Exit as end:
        code = end.exit_code
    return code, capsys.readouterr().out


def test_a_demo_of_which_nothing_is_missing_ends_with_0_and_its_sums(capsys: pytest.CaptureFixture[str]) -> None:
    accounted = account(report_of(Status.SETTLED, Status.REJECTED, Status.PENDED), (2, 2), (1, 1))
    assert accounted.complete
    assert concluded(accounted, capsys) == (0, f"demo: {SUMS.format(pending=1, verified=2)}, 0 lost\n")
    code, told = concluded(accounted, capsys, as_json=True)
    assert (code, json.loads(told)["accepted"]) == (0, 3)


@pytest.mark.parametrize(
    ("last", "proofs", "alerts", "line"),
    [
        (Status.SCORED, (1, 1), (1, 1), f"{SUMS.format(pending=0, verified=1)}, 1 lost: FAILED, 1 of 3 claims have no end"),
        (Status.REVERSED, (1, 1), (1, 1), f"{SUMS.format(pending=0, verified=1)}, 0 lost: FAILED, 1 of 3 claims have no end"),
        (Status.PENDED, (1, 2), (1, 1), f"{SUMS.format(pending=1, verified=1)}, 0 lost: FAILED, 1 of 2 proofs hold"),
        (Status.PENDED, (2, 2), (0, 1), f"{SUMS.format(pending=1, verified=2)}, 0 lost: FAILED, 0 of 1 alerts came"),
        (Status.ORDERED, (0, 1), (0, 2), f"{SUMS.format(pending=0, verified=0)}, 1 lost: FAILED, {ALL}"),
    ],
    ids=["lost", "end without a place", "bad proof", "no alert", "all"],
)  # fmt: skip
def test_a_demo_that_misses_something_ends_with_1_and_its_last_line_says_what(
    capsys: pytest.CaptureFixture[str], last: Status, proofs: tuple[int, int], alerts: tuple[int, int], line: str
) -> None:
    accounted = account(report_of(Status.SETTLED, Status.REJECTED, last), proofs, alerts)
    assert concluded(accounted, capsys) == (1, f"demo: {line}\n")
    assert concluded(accounted, capsys, as_json=True)[0] == 1


def test_only_a_proof_that_the_one_file_verifies_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The stand-alone program runs here. A flipped bit is told and not counted; a program that dies counts nothing."""
    server = honest_server()
    good = server.proof(3).SerializeToString()
    flipped = bytearray(good)
    flipped[good.index(b"mercy")] ^= 1
    (tmp_path / "genesis.bin").write_bytes(server.genesis_bytes)
    files = [tmp_path / name for name in ("good.proof", "flipped.proof", "again.proof")]
    for path, content in zip(files, (good, bytes(flipped), good), strict=True):
        path.write_bytes(content)
    assert demo.verified_by_file(Output(), tmp_path, files) == 2
    assert f"refused: {files[1]}: " in capsys.readouterr().err


def test_a_verifier_that_does_not_run_has_verified_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says one line, or none, whatever number of proofs it was given."""
    silent = tmp_path / "silent.py"
    silent.write_text("import os; os._exit(9)\n")
    monkeypatch.setattr(demo, "STANDALONE", silent)
    assert demo.verified_by_file(Output(), tmp_path, [tmp_path / "a", tmp_path / "b"]) == 0


def test_the_default_demo_plants_frauds_that_are_sure_to_raise_an_alert() -> None:
    """So a default demo without an alert fails: some are due. Each of these rules reaches the usual threshold alone."""
    command: Any = typer.main.get_command(app)
    default = {option.name: option.default for option in command.commands["demo"].params}
    today = day_of(datetime.datetime.now(datetime.UTC).date())
    world = make_world(default["seed"], today, network_commands.DEMO_FAMILIES)
    planted = [each.planted for each in islice(Generator(world, default["seed"]), default["claims"])]
    assert sum(case in SURE_FRAUDS for case in planted) >= 1


# Ports


@pytest.fixture
def busy() -> Iterator[int]:
    """A port that somebody listens on, with as many before it as a network takes."""
    port = neighbouring_ports(network_commands.NETWORK_PORTS + 2) + network_commands.NETWORK_PORTS
    with socket.socket() as rival:
        rival.bind(("127.0.0.1", port))
        rival.listen()
        yield port


@pytest.mark.parametrize("offset", [0, network_commands.NETWORK_PORTS, network_commands.NETWORK_PORTS + 1])
@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_demo_begins_where_it_is_told_and_names_a_busy_port_with_what_moves_it(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: int, offset: int, by: str
) -> None:
    """The network's first port, Kafka's, its controller's; before anything is made or started."""
    first, option = busy - offset, []
    if by == "option":
        option = ["--base-port", first]
    else:
        monkeypatch.setenv("CLAIMLEDGER_DEMO_BASE_PORT", str(first))
    said = say("demo", "--run", tmp_path / "run", *option, "--json")
    assert (said.code, said.out) == (1, "")
    assert said.error == (
        f"port {busy} is in use by another process: free it, or name other ports than {first} to {first + 61} "
        "by --base-port or CLAIMLEDGER_DEMO_BASE_PORT"
    )
    assert not (tmp_path / "run").exists()


def test_with_a_kafka_of_its_own_a_demo_takes_two_ports_behind_the_networks_and_else_none(tmp_path: Path) -> None:
    broker = network_commands.demo_broker(tmp_path, 23_000, "")
    assert broker is not None
    assert (broker.port, broker.controller_port) == (23_060, 23_061)
    assert network_commands.demo_broker(tmp_path, 23_000, "127.0.0.1:9092") is None


def test_the_first_up_names_a_busy_port_of_kafka_and_the_variable_moves_it(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: int
) -> None:
    """No network is made that would name the busy port for ever."""
    monkeypatch.setenv("CLAIMLEDGER_KAFKA_PORT", str(busy))
    said = say("up", "--run", tmp_path / "run", "--json")
    assert (said.code, said.out) == (1, "")
    assert said.error == f"port {busy} is in use by another process: free it, or set CLAIMLEDGER_KAFKA_PORT"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("was_started", [False, True])
def test_a_later_up_does_not_advise_a_variable_that_would_not_help(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: int, was_started: bool
) -> None:
    """The network names its Kafka's port, and all its clients read it there."""
    monkeypatch.setenv("CLAIMLEDGER_KAFKA_PORT", str(busy))
    assert say("certs", "--run", tmp_path / "run", "--families", 3).code == 0
    if was_started:
        (tmp_path / "run" / "kafka").mkdir()
        monkeypatch.delenv("CLAIMLEDGER_KAFKA_PORT")
    said = say("up", "--run", tmp_path / "run", "--json")
    assert (said.code, said.out) == (1, "")
    assert f"port {busy} is in use by another process: free it, or make another network by --run" in said.error
