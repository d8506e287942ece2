"""What commands print and how they end, with nothing running: help, errors that say what to do, offline proofs."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli import session
from cli.__main__ import app
from runtime.network import load_network
from runtime.pki import load_signing_key
from tests.unit.cli.conftest import UNREACHABLE, Say
from tests.unit.verifier.proof_world import genesis_of, honest_server

REFERENCE = "A" * 26


def commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Every command and group by its path."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


PATHS = list(commands(typer.main.get_command(app)))


def test_every_command_of_the_readme_is_there() -> None:
    names = {" ".join(path) for path in PATHS}
    wanted = {
        "submit", "invent", "track", "tail", "proof", "verify", "load", "certs", "up", "down", "status", "demo",
        "review list", "review release", "review deny", "dlq list", "dlq show", "dlq replay",
        "replica rejoin",
    }  # fmt: skip
    assert names - {"", "review", "dlq", "replica"} == wanted


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_renders_and_says_what_the_command_and_each_option_is_for(path: tuple[str, ...]) -> None:
    found = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
    assert (found.exit_code, "Usage:" in found.output) == (0, True)
    command: Any = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    assert command.help
    undescribed = [p.name for p in command.params if p.param_type_name == "option" and not p.help]
    assert undescribed == []


@pytest.mark.parametrize("arguments", [("frobnicate",), ("load", "--claims", "0"), ("tail", "weather"), ("track",)])
def test_wrong_usage_ends_with_2_and_names_the_fault(say: Say, arguments: tuple[str, ...]) -> None:
    said = say(*arguments)
    assert said.code == 2
    assert "Usage:" in said.err


# Without a network, with a damaged one, with one that does not answer.

NEED_A_NETWORK = [
    ("status",), ("track", REFERENCE), ("tail", "status"), ("proof", REFERENCE), ("load",), ("review", "list"),
    ("review", "release", REFERENCE), ("review", "deny", REFERENCE, "--carc", "16"), ("dlq", "list"),
    ("dlq", "show", "p.aurora.claims.scored.dlq:1"), ("dlq", "replay", "all"), ("invent",),
    ("replica", "rejoin", "aurora", "--yes"),
]  # fmt: skip


@pytest.mark.parametrize("arguments", NEED_A_NETWORK, ids=" ".join)
def test_without_a_run_directory_the_message_says_how_to_name_one(say: Say, arguments: tuple[str, ...]) -> None:
    said = say(*arguments)
    assert (said.code, said.out) == (1, "")
    assert ".run/" in said.err
    assert "--run" in said.err or "claimledger certs" in said.err


def test_down_where_nothing_runs_is_no_error(say: Say) -> None:
    said = say("down", "--run", "nowhere")
    assert (said.code, said.out) == (0, "nothing runs in nowhere\n")
    assert say("down", "--run", "nowhere", "--json").rows == [{"run": "nowhere", "stopped": 0}]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"name": 1}'])
def test_a_damaged_network_is_named_with_what_to_do(say: Say, tmp_path: Path, content: str) -> None:
    (tmp_path / "network.json").write_text(content)
    said = say("status", "--run", tmp_path, "--json")
    assert (said.code, said.out) == (1, "")
    assert f"{tmp_path}/network.json is damaged" in said.error
    assert "restore it" in said.error


@pytest.mark.parametrize("arguments", [("status",), ("track", REFERENCE), ("tail", "alerts"), ("review", "list")])
def test_an_unknown_organisation_is_told_the_known_ones(say: Say, network: Path, arguments: tuple[str, ...]) -> None:
    said = say(*arguments, "--run", network, "--org", "nobody")
    assert said.code == 1
    assert "aurora, borealis, cygnus, meridian, riverside, lakeside" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("load",),
        ("track", REFERENCE),
        ("tail", "status"),
        ("tail", "settlements"),
        ("proof", REFERENCE),
        ("review", "list"),
        ("review", "release", REFERENCE),
        ("replica", "rejoin", "aurora", "--yes"),
        ("dlq", "list"),
        ("dlq", "replay", "all"),
        ("tail", "alerts"),
    ],
    ids=" ".join,
)
def test_where_nobody_answers_the_message_says_how_to_look_and_start(
    say: Say, network: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(session, "KAFKA_WITHIN_S", 0.05)
    monkeypatch.setattr("cli.events.REACHED_WITHIN_S", 0.05)
    said = say(*arguments, "--run", network, "--json")
    assert (said.code, said.out) == (1, "")
    assert "claimledger status" in said.error


def test_status_of_a_network_that_does_not_run_says_so_and_ends_with_3(say: Say, network: Path) -> None:
    said = say("status", "--run", network, "--json")
    assert said.code == 3
    processes = {row["process"]: row for row in said.rows if "process" in row}
    replicas = {row["replica"]: row["state"] for row in said.rows if "replica" in row}
    assert {row["running"] for row in processes.values()} == {False}
    assert {"intake", "projector", "validation", "fraud", "tags", "replica-aurora"} <= set(processes)
    assert set(replicas.values()) == {"no answer (UNAVAILABLE)"}
    text = say("status", "--run", network).out
    assert "no broker answers" in text
    assert "no answer (UNAVAILABLE)" in text


# Arguments that only the command itself can judge.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dlq", "show", "p.aurora.claims.scored"), "is no position: <topic>.dlq:<offset>, see `claimledger dlq list`"),
        (("dlq", "show", "x.dlq:first"), "is no position"),
        (("dlq", "replay", "x:1"), "is no position"),
        (("dlq", "replay", "all", "x"), "is no position"),
        (("tail", "alerts", "--org", "riverside"), "alerts are a payer's; riverside is none: use --org aurora|borealis|cygnus"),
        (("tail", "alerts", "--cursor", "1"), "--cursor is for status and settlements"),
        (("invent", "--org", "meridian"), "use --org aurora|borealis|cygnus"),
        (("review", "deny", REFERENCE, "--carc", "no code"), "--carc no code: 1 to 5 letters and digits"),
        (("review", "deny", REFERENCE, "--carc", "16", "--reason", "whim"), "one of fraud_suspicion, duplicate, edit, medical_necessity"),
        (("replica", "rejoin", "riverside", "--yes"), "riverside runs no replica: aurora, borealis, cygnus, meridian do"),
        (("demo",), "holds a network that no demo made"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_wrong_argument_is_told_the_right_ones(
    say: Say, network: Path, arguments: tuple[str, ...], message: str
) -> None:
    """Before anything is asked of a service: nothing of this network runs."""
    said = say(*arguments, "--run", network)
    assert (said.code, said.out) == (1, "")
    assert message in said.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("claim.x12", b"ISA*00*          *", "X12 837 is not read yet"),
        ("claim.json", b'{"resourceType": "Claim"}', "FHIR is not read yet"),
        ("claim.json", b"", "no JSON"),
        ("claim.json", b"[1]", "a claim is a JSON object, this is a number"),
        ("claim.json", b"[]", "holds no claim"),
        ("claim.json", b'{"header": {"plan": "a", "plan": "b"}}', "'plan' is given twice"),
        ("claim.json", b'{"header": {"status": 3}}', "status"),
        ("claim.pb", b"\xff\xff", "no serialised claimledger.claims.v1.Claim"),
    ],
)
def test_a_file_that_holds_no_claims_is_named_with_the_reason(
    say: Say, network: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    said = say("submit", tmp_path / name, "--run", network, "--json")
    assert (said.code, said.out) == (1, "")
    assert f"{tmp_path}/{name}" in said.error
    assert message in said.error


def test_a_file_that_is_not_there_is_wrong_usage(say: Say, network: Path) -> None:
    for command in ("submit", "verify"):
        said = say(command, "absent.file", "--run", network)
        assert said.code == 2
        assert "absent.file" in said.err


# certs


def test_certs_makes_a_network_once(say: Say, tmp_path: Path) -> None:
    """Certificates, private keys that only their owner reads, genesis and the invented world."""
    made = say("certs", "--run", tmp_path / "run", "--families", "3", "--kafka", UNREACHABLE, "--json")
    (row,) = made.rows
    network = load_network(tmp_path / "run")
    assert (made.code, row["chain_id"], row["kafka"]) == (0, network.chain_id, UNREACHABLE)
    place = tmp_path / "run" / "orgs" / "aurora"
    assert load_signing_key(place / "pricing.ed25519")
    keys = [path for path in (tmp_path / "run").rglob("*") if path.suffix in {".key", ".ed25519", ".hpke"}]
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert json.loads((tmp_path / "run" / "world.json").read_text())["families"] == 3
    before = {path: path.read_bytes() for path in keys}
    again = say("certs", "--run", tmp_path / "run", "--families", "3", "--kafka", UNREACHABLE, "--json")
    assert (again.code, again.out) == (1, "")
    assert "holds a network already: remove it, or set CLAIMLEDGER_RUN" in again.error
    assert {path: path.read_bytes() for path in keys} == before


# invent


def test_invent_prints_what_submit_reads_and_the_same_seed_prints_the_same(
    say: Say, network: Path, tmp_path: Path
) -> None:
    first = say("invent", "--claims", 5, "--seed", 3, "--planted", "--run", network, "--org", "cygnus")
    again = say("invent", "--claims", 5, "--seed", 3, "--planted", "--run", network, "--org", "cygnus")
    other = say("invent", "--claims", 5, "--seed", 4, "--planted", "--run", network, "--org", "cygnus")
    assert first.out == again.out != other.out
    assert [row["header"]["payer"] for row in first.rows] == ["cygnus"] * 5
    (tmp_path / "claims.json").write_text(first.out)
    said = say("submit", tmp_path / "claims.json", "--run", network)
    assert "nobody answers" in said.err, "it was read, and then nothing ran to take it"


# verify


@pytest.fixture
def proofs(tmp_path: Path) -> Path:
    """good.proof with genesis.bin beside it, the same with one bit flipped, and the proof of another network."""
    server = honest_server()
    good = server.proof(3).SerializeToString()
    (tmp_path / "genesis.bin").write_bytes(server.genesis_bytes)
    (tmp_path / "good.proof").write_bytes(good)
    flipped = bytearray(good)
    flipped[good.index(b"mercy")] ^= 1
    (tmp_path / "flipped.proof").write_bytes(bytes(flipped))
    names = ("acme", "bluestar", "civic", "another")
    foreign = honest_server(genesis=genesis_of(names)).proof(3).SerializeToString()
    (tmp_path / "foreign.proof").write_bytes(foreign)
    (tmp_path / "empty.proof").write_bytes(b"")
    return tmp_path


def test_a_good_proof_holds_and_says_who_paid_what(say: Say, proofs: Path) -> None:
    said = say("verify", proofs / "good.proof", "--genesis", proofs / "genesis.bin")
    assert said.code == 0
    assert "holds. SETTLED, paid 75.00 by acme to mercy" in said.out
    assert "signed by acme, bluestar, regulator" in said.out
    (row,) = say("verify", proofs / "good.proof", "--genesis", proofs / "genesis.bin", "--json").rows
    assert (row["verified"], row["result"]["paid_cents"], row["leaf_index"]) == (True, 7_500, 3)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("flipped.proof", "refused"),
        ("foreign.proof", "it is of another chain than the genesis"),
        ("empty.proof", "refused"),
        ("genesis.bin", "refused"),
    ],
)
def test_what_does_not_hold_is_refused_with_the_reason(say: Say, proofs: Path, name: str, why: str) -> None:
    said = say("verify", proofs / name, "--genesis", proofs / "genesis.bin", "--json")
    assert (said.code, said.out) == (1, "")
    assert said.error.startswith(f"{proofs / name}: refused: ")
    assert why in said.error


def test_of_several_proofs_each_is_told_and_one_bad_one_ends_with_1(say: Say, proofs: Path) -> None:
    names = ("flipped.proof", "good.proof", "foreign.proof")
    said = say("verify", *(proofs / name for name in names), "--genesis", proofs / "genesis.bin", "--json")
    assert said.code == 1
    assert [row["file"] for row in said.rows] == [str(proofs / "good.proof")]
    assert len(said.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("pinned", "message"),
    [("zz", "64 hex digits are wanted"), ("00" * 32, "genesis: "), ("00", "genesis: ")],
)
def test_another_genesis_than_the_pinned_one_is_refused(say: Say, proofs: Path, pinned: str, message: str) -> None:
    genesis = proofs / "genesis.bin"
    said = say("verify", proofs / "good.proof", "--genesis", genesis, "--genesis-hash", pinned, "--json")
    assert (said.code, said.out) == (1, "")
    assert message in said.error


def test_verify_without_a_genesis_says_which_file_is_missing(say: Say, proofs: Path) -> None:
    said = say("verify", proofs / "good.proof", "--run", "nowhere", "--json")
    assert said.code == 1
    assert "nowhere/genesis.bin: No such file or directory" in said.error
    assert "--run" in said.error
