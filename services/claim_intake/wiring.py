"""What both processes of intake are built from: network, keys, database, secrets."""

import contextlib
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from claim_intake.settings import IntakeSettings
from claim_intake.store.database import Database
from runtime.network import Network, load_network, organisation_directory
from runtime.pki import KeyFileError, load_hpke_key, read_private, write_private
from runtime.topic_keys import TopicKeys, recipients_of

SECRET_BYTES = 32


class AlreadyRunningError(RuntimeError):
    """Another process of this kind works on the same data."""


@dataclass(frozen=True, slots=True)
class Ground:
    """The common ground of `serve` and `project`. `private` opens topic keys and wrapping keys."""

    settings: IntakeSettings
    network: Network
    organisation: str
    kafka: str
    private: X25519PrivateKey
    topic_keys: TopicKeys
    database: Database

    @property
    def directory(self) -> Path:
        return organisation_directory(self.settings.run, self.organisation)


async def prepare(settings: IntakeSettings) -> Ground:
    """Reads the network and keys, and opens the database with its newest tables."""
    network = load_network(settings.run)
    organisation = settings.organisation(network)
    private = load_hpke_key(organisation_directory(settings.run, organisation) / "intake.hpke")
    keys = TopicKeys(settings.run / "keys" / "topics", f"{organisation}/intake", private, recipients_of(network))
    settings.data.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_url)
    await database.migrate()
    return Ground(settings, network, organisation, settings.kafka or network.kafka, private, keys, database)


def only_one(data: Path, name: str) -> IO[str]:
    """Holds the place of the one process of this kind on these data, until the file is closed or the process ends.

    Raises AlreadyRunningError.
    """
    file = (data / f"{name}.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise AlreadyRunningError(f"another `claim_intake {name}` works on {data}") from None
    return file


def idempotency_secret(directory: Path) -> bytes:
    """The secret under which keys and body digests are kept; made at the first start. Losing it forgets every key."""
    path = directory / "intake.idempotency"
    with contextlib.suppress(FileExistsError):  # the usual case
        write_private(path, os.urandom(SECRET_BYTES).hex().encode())
    secret = bytes.fromhex(read_private(path).decode("ascii"))
    if len(secret) != SECRET_BYTES:
        raise KeyFileError(f"{path} holds {len(secret)} bytes, {SECRET_BYTES} are wanted")
    return secret


def now_ms() -> int:
    """Milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000
