"""What one member can make another keep: batches that no block names, and messages while it waits for its peers."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from claimledger.ledger.v1 import ledger_pb2
from claims.transaction import OpenLane
from ledger_commit.adapters.block_log import reference
from ledger_commit.consensus import payload
from ledger_commit.consensus.events import FetchBatches
from ledger_commit.consensus.messages import BATCH, MAX_BATCH_BYTES, Batch, BatchRef, SyncInfo, batch_message
from ledger_commit.lane import MAX_OPEN_BATCHES
from ledger_commit.node import DEAF_MS, Node
from ledger_commit.peer_service import EXCHANGES_OF_ONE, QUESTIONS_OF_ONE, PeerServicer
from ledger_commit.wire import to_request
from runtime.errors import ResourceExhaustedError
from runtime.metrics import LEDGER_BAD_MESSAGES
from tests.fixtures.consensus import chain
from tests.unit.ledger.machines import CHAIN_ID, LANES, Machine
from tests.unit.ledger.test_durability import made
from tests.unit.ledger.test_last_seen import certificate, vote

FLOODER = 3
LIMIT = 8


def signed(
    seq: int, *, member: int = FLOODER, incarnation: int = 1, record: bytes = b"entry"
) -> tuple[BatchRef, bytes]:
    """A batch under the member's own key, and how a block would name it."""
    unsigned = Batch(member, incarnation, seq, 1, (record,), bytes(64))
    ref = reference(unsigned, BATCH.encode(unsigned))
    return ref, BATCH.encode(replace(unsigned, signature=LANES[member].sign(batch_message(CHAIN_ID, ref))))


def refused(reason: str) -> float:
    return float(LEDGER_BAD_MESSAGES.labels(reason)._value.get())


def begin(node: Node) -> None:
    """As `run` does once enough peers have answered."""
    node._started = True
    node._carry_out(node.replica.start([], node._now()))
    node._pump()


@pytest.fixture(params=["waiting for peers", "at work"])
async def machine(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Machine]:
    """The bound on a member's batches is small, so that a flood is short."""
    monkeypatch.setattr(payload, "MEMBER_LIMIT", LIMIT)
    one, other = made(tmp_path)[:2]
    other.start([])
    one.start([other])
    if request.param == "at work":
        begin(one.node)
    yield one
    if one.node._timer is not None:
        one.node._timer.cancel()


def held(machine: Machine) -> set[bytes]:
    """Digests in the log, whose file is as long as it says."""
    log = machine.node.disk.log
    assert machine.files[1].size() == log.size
    return set(log.refs)


UNASKED: dict[str, Callable[[], tuple[BatchRef, bytes]]] = {
    "batch_of_no_lane": lambda: signed(1, incarnation=2),
    "batch_of_a_committed_place": lambda: signed(4),
    "batch_too_large": lambda: signed(5, record=bytes(MAX_BATCH_BYTES)),
    "batch_of_a_taken_place": lambda: signed(7, record=b"third"),
}


@pytest.mark.parametrize("reason", UNASKED)
def test_a_batch_that_no_block_can_need_is_not_written(machine: Machine, reason: str) -> None:
    """The log is never cut: what is in it is on the disk, in memory, and read at each start for good."""
    node = machine.node
    node.replica.payload.drop_committed((signed(4)[0],))
    for rival in (b"first", b"second"):
        node.receive_batch(signed(7, record=rival)[1])
    before, size, counted = held(machine), node.disk.log.size, refused(reason)
    assert len(before) == 2
    ref, encoded = UNASKED[reason]()
    node.receive_batch(encoded)
    assert (held(machine), node.disk.log.size) == (before, size)
    assert node.replica.payload.missing((ref,)) == (ref,)
    assert refused(reason) == counted + 1


def test_a_lane_that_a_statement_closed_grows_no_more_and_the_next_has_bounds_of_its_own(machine: Machine) -> None:
    """Nor can the member begin the one after it by itself."""
    node = machine.node
    for seq in range(1, LIMIT + 1):
        node.receive_batch(signed(seq)[1])
    node.replica.payload.open_lanes({FLOODER: OpenLane(2, 5)})
    before = held(machine)
    for ref, encoded in (signed(LIMIT + 1), signed(1, incarnation=3)):
        node.receive_batch(encoded)
        assert ref.digest not in held(machine)
    for seq in range(1, 2 * LIMIT):
        node.receive_batch(signed(seq, incarnation=2)[1])
    assert len(held(machine) - before) == LIMIT


def test_the_largest_batch_is_taken(machine: Machine) -> None:
    around = len(signed(5, record=b"")[1])
    ref, encoded = signed(5, record=bytes(MAX_BATCH_BYTES - around))
    assert len(encoded) == MAX_BATCH_BYTES
    machine.node.receive_batch(encoded)
    assert held(machine) == {ref.digest}


def test_a_batch_above_the_bound_is_not_written_though_it_was_asked_for(machine: Machine) -> None:
    """No block that anybody votes for names one."""
    ref, encoded = signed(5, record=bytes(MAX_BATCH_BYTES))
    machine.node.receive_batch(encoded, {ref.digest})
    assert held(machine) == set()


async def test_what_a_replica_announced_before_it_started_again_is_still_open_in_its_lane(tmp_path: Path) -> None:
    """Its peers keep so much of it, and no more."""
    machine = Machine(0, tmp_path / "0")
    machine.start([])
    for entry in (b"first", b"second"):
        machine.node.lane.add(entry, 1, lambda: None)
        machine.node.lane.flush()
    assert machine.node.lane.open_batches == 2
    machine.start([])
    assert machine.node.lane.open_batches == 2


def test_a_member_fills_no_more_of_the_log_than_its_bound(machine: Machine) -> None:
    """Nor after a start from that log; the other members' batches are taken all the same."""
    counted = refused("too_many_batches")
    for number in range(3 * LIMIT):
        machine.node.receive_batch(signed(10**6 + number)[1])
    assert len(held(machine)) == LIMIT
    assert refused("too_many_batches") == counted + 2 * LIMIT
    machine.node.disk.log.sync()
    machine.start([])
    for number in range(3 * LIMIT, 4 * LIMIT):
        machine.node.receive_batch(signed(10**6 + number)[1])
    assert len(held(machine)) == LIMIT
    ref, encoded = signed(1, member=2)
    machine.node.receive_batch(encoded)
    assert ref.digest in held(machine)


def test_a_member_fills_no_more_bytes_than_its_bound(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(signed(1)[1])
    monkeypatch.setattr(payload, "MEMBER_BYTES", 2 * size)
    counted = refused("too_many_batch_bytes")
    for seq in (1, 2, 3):
        machine.node.receive_batch(signed(seq)[1])
    assert held(machine) == {signed(1)[0].digest, signed(2)[0].digest}
    assert refused("too_many_batch_bytes") == counted + 1
    machine.node.replica.payload.drop_committed((signed(1)[0],))
    machine.node.receive_batch(signed(3)[1])
    assert signed(3)[0].digest in held(machine), "what is ordered makes room"


def test_what_an_honest_member_has_open_is_within_its_bound() -> None:
    assert 2 * MAX_OPEN_BATCHES <= payload.MEMBER_LIMIT
    assert 2 * MAX_OPEN_BATCHES * MAX_BATCH_BYTES <= payload.MEMBER_BYTES


async def test_a_batch_that_a_block_names_is_fetched_whatever_else_its_member_sent(machine: Machine) -> None:
    """Of a committed place too: a replica that comes late executes what others ordered."""
    node = machine.node
    (peer,) = machine.node.peers
    for number in range(LIMIT):
        node.receive_batch(signed(10**6 + number)[1])
    node.replica.payload.drop_committed((signed(1)[0],))
    unwanted = signed(9)
    for seq in (1, 2, 9):
        peer._to.node.receive_batch(signed(seq)[1])
    refs = (signed(1)[0], signed(2)[0])
    await node.fetching.batches(FetchBatches(refs, 1))
    assert {ref.digest for ref in refs} <= held(machine)
    assert unwanted[0].digest not in held(machine)


class Call:
    """An RPC of a member, as the service sees it."""

    def __init__(self, member: int) -> None:
        self.member = member
        self._then: list[Callable[[object], None]] = []

    def add_done_callback(self, then: Callable[[object], None]) -> None:
        self._then.append(then)

    def end(self) -> None:
        for then in self._then:
            then(self)


def served(node: Node, monkeypatch: pytest.MonkeyPatch) -> PeerServicer:
    service = PeerServicer(node)
    monkeypatch.setattr(service, "_member", lambda call: call.member)
    return service


async def no_requests() -> AsyncIterator[ledger_pb2.ExchangeRequest]:
    for request in list[ledger_pb2.ExchangeRequest]():
        yield request


RPCS: dict[str, tuple[int, Callable[[PeerServicer, Call], Awaitable[object]]]] = {
    "Exchange": (EXCHANGES_OF_ONE, lambda service, call: service.Exchange(no_requests(), call)),
    "FetchBlocks": (
        QUESTIONS_OF_ONE,
        lambda service, call: anext(service.FetchBlocks(ledger_pb2.FetchBlocksRequest(), call), None),
    ),
    "FetchBatches": (
        QUESTIONS_OF_ONE,
        lambda service, call: anext(service.FetchBatches(ledger_pb2.FetchBatchesRequest(), call), None),
    ),
}


@pytest.mark.parametrize("rpc", RPCS)
async def test_a_member_has_so_many_calls_at_one_time(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, rpc: str
) -> None:
    """Each takes its turn in the loop. What ends makes room, and another member's count apart."""
    service, (most, called) = served(machine.node, monkeypatch), RPCS[rpc]
    calls = [Call(FLOODER) for _ in range(most)]
    for call in calls:
        await called(service, call)
    with pytest.raises(ResourceExhaustedError, match=f"{most} streams open"):
        await called(service, Call(FLOODER))
    await called(service, Call(2))
    calls[0].end()
    await called(service, Call(FLOODER))


JUNK = {
    "bad_certificate": to_request(SyncInfo(certificate([0, FLOODER]), None, 1)),
    "bad_vote": to_request(vote(0)),
    "undecodable": ledger_pb2.ExchangeRequest(vote=b"junk"),
}


@pytest.mark.parametrize("what", JUNK)
async def test_after_what_no_honest_member_sends_nothing_of_it_is_looked_at_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Each would cost a verification: one member's flood, over as many streams as it opens, must leave time for the others."""
    machine = Machine(0, tmp_path)
    machine.start([])
    node, now = machine.node, [time.time_ns() // 1_000_000]
    monkeypatch.setattr(node, "_now", lambda: now[0])
    begin(node)
    service = served(node, monkeypatch)

    async def flood() -> AsyncIterator[ledger_pb2.ExchangeRequest]:
        for _ in range(50):
            yield JUNK[what]

    for _ in range(2):
        before = refused(what)
        await service.Exchange(flood(), Call(FLOODER))
        await service.Exchange(flood(), Call(FLOODER))
        assert refused(what) == before + 1
        assert (node.hears(FLOODER), node.hears(2)) == (False, True)
        now[0] += DEAF_MS
        assert node.hears(FLOODER)
    assert node._timer is not None
    node._timer.cancel()
    await node.close()


async def test_what_is_said_to_a_replica_that_waits_for_its_peers_is_not_kept(tmp_path: Path) -> None:
    """It may wait for ever. A batch that came meanwhile is known to the core once it starts."""
    machine = Machine(0, tmp_path / "0")
    machine.start([])
    ref, encoded = signed(1)
    machine.node.receive_batch(encoded)
    (proposal,) = chain(1)
    for _ in range(100):
        machine.node.receive(1, proposal)
    assert not machine.node._events
    begin(machine.node)
    assert machine.node.replica.payload.missing((ref,)) == ()
    assert machine.node._timer is not None
    machine.node._timer.cancel()
