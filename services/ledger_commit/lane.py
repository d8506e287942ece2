"""This replica's lane: entries packed into batches, signed, durable, sent once to every peer.

A batch closes at 1,000 claims, 1 MiB, or 10 ms after its first entry. Sequence numbers follow without gaps over
restarts, since a batch is in the block log before anyone hears of it.

Source: consensus.md §8, Payload.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger_commit.adapters.block_log import BlockLog, reference
from ledger_commit.consensus.messages import (
    BATCH,
    MAX_BATCH_BYTES,
    MAX_RECORDS_PER_BATCH,
    Batch,
    BatchRef,
    batch_message,
)

GATHER_S: Final = 0.01
MAX_CLAIMS: Final = 1000
MAX_OPEN_BATCHES: Final = 64
"""Batches sent and not yet committed; beyond that the lane takes nothing, and Kafka keeps what waits."""
HEAD_BYTES: Final = 128
Announce = Callable[[BatchRef, bytes], None]


@dataclass(slots=True)
class _Filling:
    """The batch being packed."""

    entries: list[bytes] = field(default_factory=list)
    claims: int = 0
    size: int = HEAD_BYTES
    durable: "list[asyncio.Future[None]]" = field(default_factory=list)
    waiting: "list[_Waiting]" = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Who waits for an entry to be ordered, and about how many claims it holds."""

    claims: int
    committed: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Open:
    """A batch that was announced and is in no committed block yet."""

    digest: bytes
    waiting: list[_Waiting]


class Lane:
    """`announce` is called with each durable batch, to tell the core and the peers.

    `still_open` are the batches of earlier runs that may yet be ordered. They count as open, or a replica that starts again
    and again would have more of them than its peers keep of it.
    """

    def __init__(
        self,
        log: BlockLog,
        key: Ed25519PrivateKey,
        chain_id: bytes,
        member: int,
        next_seq: int,
        announce: Announce,
        still_open: Iterable[BatchRef] = (),
    ) -> None:
        self._log = log
        self._key = key
        self._chain_id = chain_id
        self._member = member
        self._next_seq = next_seq
        self._announce = announce
        self._filling = _Filling()
        self._timer: asyncio.TimerHandle | None = None
        self._open = {ref.seq: _Open(ref.digest, []) for ref in still_open}
        self._room = asyncio.Event()
        if len(self._open) < MAX_OPEN_BATCHES:
            self._room.set()

    @property
    def waiting_bytes(self) -> int:
        return self._filling.size if self._filling.entries else 0

    @property
    def open_batches(self) -> int:
        return len(self._open)

    async def room(self) -> None:
        """Returns when the lane takes entries again."""
        await self._room.wait()

    def add(self, entry: bytes, claims: int, committed: Callable[[], None]) -> "asyncio.Future[None]":
        """Takes an entry. The future ends when it is durable here; `committed` is called when a block orders it.

        Raises ValueError for an entry that no batch can hold.
        """
        if len(entry) + 4 + HEAD_BYTES > MAX_BATCH_BYTES:
            raise ValueError(f"an entry of {len(entry)} bytes does not fit a batch of {MAX_BATCH_BYTES}")
        filling = self._filling
        full = filling.size + len(entry) + 4 > MAX_BATCH_BYTES or len(filling.entries) >= MAX_RECORDS_PER_BATCH
        if full or (filling.entries and filling.claims + claims > MAX_CLAIMS):
            self.flush()
            filling = self._filling
        filling.entries.append(entry)
        filling.claims += claims
        filling.size += len(entry) + 4
        loop = asyncio.get_running_loop()
        durable: asyncio.Future[None] = loop.create_future()
        filling.durable.append(durable)
        filling.waiting.append(_Waiting(claims, committed))
        if self._timer is None:
            self._timer = loop.call_later(GATHER_S, self.flush)
        return durable

    def flush(self) -> None:
        """Closes the batch, makes it durable and announces it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        filling, self._filling = self._filling, _Filling()
        if not filling.entries:
            return
        seq, self._next_seq = self._next_seq, self._next_seq + 1
        unsigned = Batch(self._member, 1, seq, filling.claims, tuple(filling.entries), bytes(64))
        ref = reference(unsigned, BATCH.encode(unsigned))
        batch = replace(unsigned, signature=self._key.sign(batch_message(self._chain_id, ref.digest)))
        encoded = BATCH.encode(batch)
        self._log.append_batch(batch, encoded, ref)
        self._log.sync()
        self._open[seq] = _Open(ref.digest, filling.waiting)
        if len(self._open) >= MAX_OPEN_BATCHES:
            self._room.clear()
        for durable in filling.durable:
            if not durable.done():
                durable.set_result(None)
        self._announce(ref, encoded)

    def on_commit(self, refs: tuple[BatchRef, ...]) -> None:
        """Batches of any lane were committed; tells those who wait for entries of this one.

        A log from a backup knows less than was announced from it: another batch may then have this one's place. What it
        holds was not ordered and is packed again, behind everything that was.
        """
        for ref in refs:
            if ref.member != self._member:
                continue
            self._next_seq = max(self._next_seq, ref.seq + 1)
            opened = self._open.pop(ref.seq, None)
            if opened is not None and opened.digest == ref.digest:
                for each in opened.waiting:
                    each.committed()
            elif opened is not None:
                self._pack_again(opened)
        if len(self._open) < MAX_OPEN_BATCHES:
            self._room.set()

    def _pack_again(self, opened: _Open) -> None:
        if not opened.waiting:
            return  # of an earlier run: who gave the entries gives them again
        encoded = self._log.batch_bytes(opened.digest)
        assert encoded is not None, "what was announced is in the log"
        for entry, each in zip(BATCH.decode(encoded).records, opened.waiting, strict=True):
            self.add(entry, each.claims, each.committed)
