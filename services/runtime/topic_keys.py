"""Encryption of Kafka record values under a topic's key of the day.

A day's key is 32 random bytes, made by the first process that writes to the topic on that day (UTC) and wrapped by HPKE
to every service that writes or reads the topic. The wraps are one public file, `<keys>/<topic>/<day>.json`, put in place
by an atomic link, so that of several creators one wins and the others take its key.

A sealed value is nonce (12 bytes) ‖ AES-256-GCM ciphertext with tag; the header `key-id` names the key as
`<day>.<first 8 hex digits of SHA-256 of the key>`. The additional data binds topic, record key and schema, each behind
its length, so that a value cannot be moved to another topic, key or meaning.
Source: architecture.md, Who runs what; security.md, Envelope.
"""

import datetime
import hashlib
import json
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from runtime.durable import sync_directory
from runtime.network import Network

KEY_ID: Final = "key-id"
NONCES_AT_ONCE: Final = 256
CACHED_KEYS: Final = 512
NONCE_BYTES: Final = 12
KEY_IS_AWAY: Final = frozenset({"unknown-key", "not-a-recipient", "bad-wrap"})
"""Kinds of SealedValueError that speak of this service's keys and not of the record."""
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
Headers = Sequence[tuple[str, bytes]]


class SealedValueError(ValueError):
    """A record value that cannot be opened. `kind` is a stable word for dead-letter headers and metrics."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class _DayKey:
    id: str
    cipher: AESGCM


def recipients_of(network: Network) -> Callable[[str], Mapping[str, str]]:
    """From a topic's name (or its dead-letter topic's) to who may open it: `<organisation>/<service>` → X25519, hex.

    Raises KeyError for a name that the table does not give.
    """
    table: dict[str, Mapping[str, str]] = {}
    for topic in network.topics():
        wraps = {f"{e.organisation}/{e.service}": e.hpke_public for e in network.recipients(topic)}
        table[topic.name] = table[topic.dead_letter_name] = wraps
    return table.__getitem__


class _Nonces:
    """Random nonces, drawn from the system many at a time: a call for each would cost as much as the sealing."""

    def __init__(self) -> None:
        self._drawn = b""
        self._used = 0

    def draw(self) -> bytes:
        """The next NONCE_BYTES that nobody has had."""
        if self._used == len(self._drawn):
            self._drawn, self._used = secrets.token_bytes(NONCE_BYTES * NONCES_AT_ONCE), 0
        start = self._used
        self._used += NONCE_BYTES
        return self._drawn[start : self._used]


class Sealer:
    """Seals values of one topic and schema under one day's key; each record carries `header`."""

    def __init__(self, day_key: _DayKey, nonces: _Nonces, topic: str, schema: str) -> None:
        self.header = (KEY_ID, day_key.id.encode())
        self._encrypt = day_key.cipher.encrypt
        self._draw = nonces.draw
        self._topic, self._schema = _behind_length(topic), _behind_length(schema)

    def seal(self, key: bytes | None, value: bytes) -> bytes:
        """Nonce, ciphertext and tag."""
        nonce = self._draw()
        return nonce + self._encrypt(nonce, value, _bound(self._topic, key or b"", self._schema))


class TopicKeys:
    """Seals and opens record values for one service. Keys are read when first needed; at most 512 are held.

    `me` is `<organisation>/<service>`; `recipients` gives a topic's wraps (see `recipients_of`); `clock` gives seconds.
    """

    def __init__(
        self,
        directory: Path,
        me: str,
        private: X25519PrivateKey,
        recipients: Callable[[str], Mapping[str, str]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._me = me
        self._private = private
        self._recipients = recipients
        self._clock = clock
        self._held: OrderedDict[tuple[str, str], _DayKey] = OrderedDict()
        self._nonces = _Nonces()

    def sealer(self, topic: str, schema: str) -> "Sealer":
        """For values of one topic and schema that are sealed now; the day's key is looked up once."""
        today = _day_name(int(self._clock()) // 86_400)
        day_key = self._held.get((topic, today)) or self._remember(topic, today, self._read_or_make(topic, today))
        return Sealer(day_key, self._nonces, topic, schema)

    def seal(self, topic: str, key: bytes | None, schema: str, value: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
        """The encrypted value and the header that names its key."""
        sealer = self.sealer(topic, schema)
        return sealer.seal(key, value), [sealer.header]

    def open(self, topic: str, key: bytes | None, schema: str, value: bytes, headers: Headers) -> bytes:
        """The value in clear. Raises SealedValueError where header, key or ciphertext is wrong or missing."""
        key_id = _key_id(headers)
        day = key_id.partition(".")[0]
        if not _is_day(day):
            raise SealedValueError("no-key-id", f"the header {KEY_ID} is missing or names no day")
        day_key = self._held.get((topic, day)) or self._remember(topic, day, self._read(topic, day))
        if day_key.id != key_id:
            raise SealedValueError("unknown-key", f"key {key_id} of {topic} is not the day's key")
        if len(value) < NONCE_BYTES + 16:
            raise SealedValueError("short-value", f"{len(value)} bytes hold no nonce and tag")
        try:
            return day_key.cipher.decrypt(value[:NONCE_BYTES], value[NONCE_BYTES:], additional_data(topic, key, schema))
        except InvalidTag as error:
            raise SealedValueError("bad-tag", f"the value does not open as {schema} of {topic}") from error

    def _remember(self, topic: str, day: str, key: bytes) -> _DayKey:
        found = _DayKey(f"{day}.{hashlib.sha256(key).hexdigest()[:8]}", AESGCM(key))
        self._held[topic, day] = found
        if len(self._held) > CACHED_KEYS:
            self._held.popitem(last=False)
        return found

    def _path(self, topic: str, day: str) -> Path:
        return self._directory / topic / f"{day}.json"

    def _read(self, topic: str, day: str) -> bytes:
        """The day's key from its file."""
        path = self._path(topic, day)
        try:
            wrapped = json.loads(path.read_text())["wraps"][self._me]
            return _SUITE.decrypt(bytes.fromhex(wrapped), self._private, _context(topic, day))
        except FileNotFoundError as error:
            raise SealedValueError("unknown-key", f"no key of {topic} for {day} at {path}") from error
        except KeyError as error:
            raise SealedValueError("not-a-recipient", f"{self._me} may not open {topic} of {day}") from error
        except (ValueError, InvalidTag) as error:
            raise SealedValueError("bad-wrap", f"{path} does not open for {self._me}") from error

    def _read_or_make(self, topic: str, day: str) -> bytes:
        if not self._path(topic, day).exists():
            self._make(topic, day)
        return self._read(topic, day)

    def _make(self, topic: str, day: str) -> None:
        """Makes the day's key unless another process was first."""
        key = secrets.token_bytes(32)
        wraps = {
            name: _SUITE.encrypt(
                key, X25519PublicKey.from_public_bytes(bytes.fromhex(public)), _context(topic, day)
            ).hex()
            for name, public in self._recipients(topic).items()
        }
        path = self._path(topic, day)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.{secrets.token_hex(4)}.tmp")
        with temporary.open("w") as file:
            json.dump({"topic": topic, "day": day, "wraps": wraps}, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass  # another process was first: its key is the day's
        finally:
            temporary.unlink()
        sync_directory(path.parent)


@lru_cache(maxsize=8)
def _day_name(day: int) -> str:
    """The calendar day, UTC, that is `day` days after 1970-01-01."""
    return datetime.date.fromordinal(datetime.date(1970, 1, 1).toordinal() + day).isoformat()


def additional_data(topic: str, key: bytes | None, schema: str) -> bytes:
    """topic ‖ key ‖ schema, each behind its length in 4 bytes; no key is the empty key."""
    return _bound(_behind_length(topic), key or b"", _behind_length(schema))


def _bound(topic: bytes, key: bytes, schema: bytes) -> bytes:
    """The same of topic and schema that are already behind their lengths."""
    return b"".join((topic, len(key).to_bytes(4, "big"), key, schema))


@lru_cache(maxsize=512)
def _behind_length(text: str) -> bytes:
    """Names of topics and schemas come again with every record."""
    encoded = text.encode()
    return len(encoded).to_bytes(4, "big") + encoded


def _context(topic: str, day: str) -> bytes:
    return f"claimledger/v1/topic-key {topic} {day}".encode()


def _key_id(headers: Headers) -> str:
    """Of the value; empty where no header names it."""
    for name, value in headers:
        if name == KEY_ID and value:  # Kafka's may be null
            return value.decode("ascii", "replace")
    return ""


@lru_cache(maxsize=64)
def _is_day(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
