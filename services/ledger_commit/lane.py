"""This replica's lane: entries packed into batches, signed, durable, sent once to every peer.

A batch closes at 1,000 claims, 1 MiB, or 10 ms after its first entry. Sequence numbers follow without gaps over
restarts, since a batch is in the block log before anyone hears of it.

It takes nothing while it is not known which of its places are free: before the replica has heard its peers, and for as long as
the replica lacks a record that can be trusted. A statement of the operator then opens another incarnation of it, whose places
are all free.

Source: consensus.md §8, Payload.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from claims.transaction import FIRST_LANE
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
        incarnation: int = FIRST_LANE.incarnation,
    ) -> None:
        self._log = log
        self._key = key
        self._chain_id = chain_id
        self._member = member
        self._incarnation = incarnation
        self._next_seq = next_seq
        self._announce = announce
        self._filling = _Filling()
        self._timer: asyncio.TimerHandle | None = None
        self._open = {ref.seq: _Open(ref.digest, []) for ref in still_open}
        self._closing = asyncio.Event()
        self._room = asyncio.Event()
        self._give_room()

    @property
    def waiting_bytes(self) -> int:
        return self._filling.size if self._filling.entries else 0

    @property
    def incarnation(self) -> int:
        return self._incarnation

    @property
    def open_batches(self) -> int:
        return len(self._open)

    def close(self) -> None:
        """Until `reopen`. What was added before still goes out, and into the next incarnation where no block orders it."""
        self._closing.set()
        self._room.clear()

    async def closed(self) -> None:
        """Returns when it is closed: who feeds it leaves what waits to others."""
        await self._closing.wait()

    def reopen(self, incarnation: int, next_seq: int) -> None:
        """Takes entries again; in another incarnation from its first free place on.

        What the closed one holds and no block has ordered goes into the new one, whoever gave it: nobody will order the old
        batch, or else the contract absorbs the repeat.
        """
        self._closing.clear()
        left: list[_Open] = []
        if incarnation != self._incarnation:
            left, self._open = list(self._open.values()), {}
            self._incarnation, self._next_seq = incarnation, next_seq
        self._give_room()
        for opened in left:
            self._pack_again(opened)

    def _give_room(self) -> None:
        if len(self._open) < MAX_OPEN_BATCHES and not self._closing.is_set():
            self._room.set()

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
        unsigned = Batch(self._member, self._incarnation, seq, filling.claims, tuple(filling.entries), bytes(64))
        ref = reference(unsigned, BATCH.encode(unsigned))
        batch = replace(unsigned, signature=self._key.sign(batch_message(self._chain_id, ref)))
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
            if ref.lane != (self._member, self._incarnation):
                continue
            self._next_seq = max(self._next_seq, ref.seq + 1)
            opened = self._open.pop(ref.seq, None)
            if opened is not None and opened.digest == ref.digest:
                for each in opened.waiting:
                    each.committed()
            elif opened is not None and opened.waiting:  # those of an earlier run are given again by who gave them
                self._pack_again(opened)
        self._give_room()

    def _pack_again(self, opened: _Open) -> None:
        encoded = self._log.batch_bytes(opened.digest)
        assert encoded is not None, "what was announced is in the log"
        batch = BATCH.decode(encoded)
        about = -(-batch.count // len(batch.records))
        waiting = opened.waiting or [_Waiting(about, lambda: None)] * len(batch.records)
        for entry, each in zip(batch.records, waiting, strict=True):
            self.add(entry, each.claims, each.committed)
