"""What the core misses, fetched from peers: blocks by id, committed blocks by height, batches.

Who is asked, and in which order, is the core's choice. Here is what one question may take: how many peers at once, how long one
of them may stay silent before another is asked too, and how much may be on its way. The core judges every answer; what it
does not get it asks for again.

Source: consensus.md §8, Sync and Payload.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final, Protocol

from claimledger.ledger.v1 import ledger_pb2
from claims.encoding import DecodeError
from ledger_commit.consensus.events import BlocksFetched, Event, FetchBatches, FetchBlocks, FetchRange
from ledger_commit.consensus.messages import PROPOSAL, QUORUM_CERT, BatchRef, Proposal, QuorumCert, block_id
from ledger_commit.peers import Peer, Peers
from runtime.log import get_logger
from runtime.metrics import LEDGER_BAD_MESSAGES

ASKED_AT_ONCE: Final = 2
"""Peers that one question is put to at the same time: one that is silent or lies delays nothing while the other is honest. For
a range that is at most two answers of 256 blocks of 16 KiB, 8 MiB together; blocks name their payload and do not hold it."""
PATIENCE_S: Final = 0.5
"""After so long without an answer the next peer is asked too. A range is asked of two from the beginning."""
SHORT_RANGE_S: Final = 0.25
"""How much longer the other peer may take after a range that is sound and shorter than what was asked for: that may be all there
is, or a peer that gives a block a time."""
FETCHES_AT_ONCE: Final = 8
"""Questions for blocks by id, and as many for payload. A range has a place of its own: anybody can claim a height, and the peers that
are asked for it may answer nothing until the time is up."""
FETCHED_BATCHES: Final = 64
"""Batches asked for in one request; a peer gives no more."""


class Driver(Protocol):
    """What fetching needs of the driver."""

    @property
    def peers(self) -> Peers: ...

    @property
    def committed_height(self) -> int: ...

    def submit(self, event: Event) -> None: ...

    def receive_batch(self, encoded: bytes, asked_for: Collection[bytes]) -> None: ...

    def has_batch(self, digest: bytes) -> bool: ...

    def tell_of_batch(self, digest: bytes) -> None:
        """To the core, once more: a batch that is on the disk."""


class Fetching:
    """Questions on their way. Everything here runs on the driver's loop."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._blocks: set[asyncio.Task[None]] = set()
        self._batches: dict[int, asyncio.Task[None]] = {}
        """By who proposed the block that names them: whoever names payload that nobody has, and is silent when asked for it, holds up
        one question, and in the next round of its own no other."""
        self._range: asyncio.Task[None] | None = None
        self._range_from = 0
        self._next_range: FetchRange | None = None
        self._closed = False
        self._log = get_logger("fetching")

    def start(self, wanted: FetchBlocks | FetchRange | FetchBatches) -> None:
        """In the background. What has no place now the core will ask for again."""
        match wanted:
            case _ if self._closed:
                return
            case FetchRange():
                self._start_range(wanted)
            case FetchBlocks():
                self._start_blocks(wanted)
            case FetchBatches():
                self._start_batches(wanted)

    def _start_blocks(self, wanted: FetchBlocks) -> None:
        if len(self._blocks) < FETCHES_AT_ONCE:
            task = asyncio.ensure_future(self.blocks(wanted))
            self._blocks.add(task)
            task.add_done_callback(self._blocks.discard)

    def _start_batches(self, wanted: FetchBatches) -> None:
        if len(self._batches) < FETCHES_AT_ONCE and wanted.hint not in self._batches:
            self._batches[wanted.hint] = task = asyncio.ensure_future(self.batches(wanted))
            task.add_done_callback(lambda _: self._batches.pop(wanted.hint))

    def _start_range(self, wanted: FetchRange) -> None:
        """One at a time. While it runs, what follows it waits for its end: a range that came whole leads to the next."""
        if self._range is None or self._range.done():
            self._next_range = wanted
            self._range = asyncio.ensure_future(self._ranges())
        elif wanted.from_height > self._range_from:
            self._next_range = wanted

    async def _ranges(self) -> None:
        while (wanted := self._next_range) is not None:
            self._next_range, self._range_from = None, wanted.from_height
            await self.range(wanted)

    def close(self) -> None:
        """Ends what is on its way; nothing starts any more."""
        self._closed = True
        for task in (*self._blocks, *self._batches.values(), *filter(None, (self._range,))):
            task.cancel()

    # Blocks.

    async def blocks(self, wanted: FetchBlocks) -> None:
        """Done with the first answer that leads up to the wanted block."""
        request = ledger_pb2.FetchBlocksRequest(ids=[wanted.id], ancestors=wanted.ancestors)

        async def ask(peer: Peer) -> bool:
            # The wanted block comes first, so that whatever breaks off still leads up to it.
            blocks = self._decoded(peer, await peer.blocks(request))[::-1]
            if not blocks or block_id(blocks[-1].header) != wanted.id:
                return False
            self._driver.submit(BlocksFetched(peer.index, blocks))
            return True

        await ask_in_turn(self._driver.peers.named(wanted.members), ask, PATIENCE_S)

    async def range(self, wanted: FetchRange) -> None:
        """Done with the first answer that commits something here, and is either whole or the best that came in a while."""
        request = ledger_pb2.FetchBlocksRequest(from_height=wanted.from_height, to_height=wanted.to_height)

        async def ask(peer: Peer) -> bool:
            found = await peer.blocks(request)
            blocks, qc = self._decoded(peer, found), _certificate(found)
            if not blocks or qc is None:
                return False
            before = self._driver.committed_height
            self._driver.submit(BlocksFetched(peer.index, blocks, qc))
            if self._driver.committed_height == before:
                return False
            if blocks[-1].header.height < wanted.to_height:
                await asyncio.sleep(SHORT_RANGE_S)
            return True

        await ask_in_turn(self._driver.peers.named(wanted.members), ask, 0)

    def _decoded(self, peer: Peer, found: Iterable[ledger_pb2.FetchBlocksResponse]) -> tuple[Proposal, ...]:
        try:
            return tuple(PROPOSAL.decode(response.block) for response in found)
        except DecodeError as error:
            LEDGER_BAD_MESSAGES.labels("undecodable").inc()
            self._log.warning("undecodable_block", peer=peer.organisation, reason=str(error))
            return ()

    # Batches.

    async def batches(self, wanted: FetchBatches) -> None:
        """Done when none of them is missing. What is on the disk and not known to the core is told to it."""
        for ref in wanted.refs:
            # Beyond what it keeps of one member until a block names it.
            if self._driver.has_batch(ref.digest):
                self._driver.tell_of_batch(ref.digest)

        async def ask(peer: Peer) -> bool:
            missing = self._missing(wanted.refs)[:FETCHED_BATCHES]
            asked_for = {ref.digest for ref in missing}
            for encoded in await peer.batches(missing) if missing else ():
                self._driver.receive_batch(encoded, asked_for)
            return not self._missing(wanted.refs)

        await ask_in_turn(self._driver.peers.first(wanted.hint), ask, PATIENCE_S)

    def _missing(self, refs: Iterable[BatchRef]) -> list[BatchRef]:
        return [ref for ref in refs if not self._driver.has_batch(ref.digest)]


def _certificate(found: list[ledger_pb2.FetchBlocksResponse]) -> QuorumCert | None:
    """The one beside the last block of a range, if it is one."""
    try:
        return QUORUM_CERT.decode(found[-1].commit_qc) if found and found[-1].commit_qc else None
    except DecodeError:
        LEDGER_BAD_MESSAGES.labels("undecodable").inc()
        return None


async def ask_in_turn(peers: Iterable[Peer], ask: Callable[[Peer], Awaitable[bool]], patience_s: float) -> None:
    """Until one was of use. The next peer is asked when one was of none, or after a while without an answer."""
    waiting = deque(peers)
    asked: set[asyncio.Task[bool]] = set()
    try:
        while waiting or asked:
            if waiting:
                asked.add(asyncio.ensure_future(ask(waiting.popleft())))
            in_time = patience_s if waiting and len(asked) < ASKED_AT_ONCE else None
            done, asked = await asyncio.wait(asked, timeout=in_time, return_when=asyncio.FIRST_COMPLETED)
            if any(task.result() for task in done):
                return
    finally:
        for task in asked:
            task.cancel()
