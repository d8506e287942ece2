"""What is on the disk before anything is sent that relies on it, and what a replica does after the power came back.

A kill keeps the page cache and shows nothing of this, so the disk here forgets what was not synced.
"""

import asyncio
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger_commit.adapters.block_log import reference
from ledger_commit.consensus.events import Tick
from ledger_commit.consensus.messages import BATCH, Batch, Proposal, Timeout, Vote, block_id
from tests.unit.ledger.losing_disk import PowerLossError
from tests.unit.ledger.machines import SIZE, Machine, Sent, contradictions, run

WORK_S = 0.35
SLOW_S = 10.0
"""How much longer a busy machine may take for what a test has to see."""


async def work(machines: list[Machine], seconds: float, enough: Callable[[], bool] = lambda: True) -> None:
    """Runs those that have power, so long and until it is enough; entries come in all the time."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unless_power_loss)
    tasks = [asyncio.create_task(run(m)) for m in machines if not m.power.off]
    until = loop.time() + seconds
    number = 0
    while loop.time() < until or (not enough() and loop.time() < until + SLOW_S):
        await asyncio.sleep(0.01)
        for machine in machines:
            number += 1
            if not machine.power.off:
                machine.node.lane.add(b"%d/%d" % (machine.me, number), 1, lambda: None)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for machine in machines:
        _stop(machine)


def _stop(machine: Machine) -> None:
    node = machine.node
    for timer in (node._timer, node.lane._timer):
        if timer is not None:
            timer.cancel()
    node.fetching.close()
    node._thread.shutdown(wait=True)


def _unless_power_loss(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), PowerLossError):
        loop.default_exception_handler(context)


def made(place: Path) -> list[Machine]:
    return [Machine(i, place / str(i)) for i in range(SIZE)]


def of_kind(sent: list[Sent], kind: type) -> list[Sent]:
    return [s for s in sent if isinstance(s.message, kind)]


@pytest.fixture
async def observed(tmp_path: Path) -> list[Sent]:
    """What one of four wrote down while the first replica was silent, so that rounds time out too."""
    machines = made(tmp_path)
    watched = machines[1]
    watched.looks = True
    for machine in machines:
        machine.start([m for m in machines if m is not machine])
    machines[0].power.off = True
    await work(machines, 1.0, lambda: {type(s.message) for s in watched.sent} >= {Vote, Timeout, Proposal, Batch})
    return watched.sent


async def test_what_a_message_relies_on_is_durable_before_it_is_sent(observed: list[Sent]) -> None:
    for kind in (Vote, Timeout, Proposal, Batch):
        assert of_kind(observed, kind), f"no {kind.__name__} was sent"
    for sent in observed:
        durable = sent.durable
        assert durable is not None
        match sent.message:
            case Vote(data):
                assert durable.safety.last_vote == data
                assert durable.safety.last_voted_round >= data.round
                assert data.block_id in durable.blocks
            case Timeout():
                told = durable.safety.last_timeout
                assert told is not None
                assert (told.round, told.high_qc) == (sent.message.round, sent.message.high_qc)
                assert durable.safety.last_voted_round >= sent.message.round
            case Proposal(header, batches):
                assert durable.safety.last_proposed_round == header.round
                assert durable.safety.last_proposed_id == block_id(header)
                assert block_id(header) in durable.blocks
                assert {ref.digest for ref in batches} <= durable.batches
            case Batch():
                assert reference(sent.message, BATCH.encode(sent.message)).digest in durable.batches


async def test_the_batches_of_a_block_are_durable_before_the_vote_for_it(observed: list[Sent]) -> None:
    proposals = {block_id(s.message.header): s.message for s in of_kind(observed, Proposal)}
    judged = 0
    for vote in of_kind(observed, Vote):
        own = proposals.get(vote.message.data.block_id)
        if own is not None and own.batches:
            assert vote.durable is not None
            assert {ref.digest for ref in own.batches} <= vote.durable.batches
            judged += 1
    assert judged


async def test_syncs_per_message(observed: list[Sent]) -> None:
    """A batch costs one sync of the log; a vote, timeout or proposal one of the log where it grew and one of the record.

    A proposal is a block more in the log. A timeout that is sent again was made durable the first time.
    """
    counted: set[type] = set()
    seen: set[tuple[type, int]] = set()
    for before, sent in pairwise(observed):
        kind = type(sent.message)
        syncs = (sent.log_syncs - before.log_syncs, sent.safety_syncs - before.safety_syncs)
        again = (kind, _round_of(sent.message)) in seen
        if kind is Batch:
            assert syncs == (1, 0)
        elif kind is Proposal and not again:
            assert syncs == (1, 1)
        elif kind in {Vote, Timeout} and not again:
            assert syncs in {(0, 1), (1, 1)}
        seen.add((kind, _round_of(sent.message)))
        counted.add(kind)
    assert counted >= {Batch, Vote, Timeout, Proposal}


def _round_of(message: Any) -> int:
    match message:
        case Vote(data):
            return data.round
        case Proposal(header):
            return header.round
    return getattr(message, "round", 0)


async def test_a_disk_that_fails_ends_the_replica_whoever_the_step_was_for(tmp_path: Path) -> None:
    """A peer's message or a timer: its caller must not keep the failure to itself, while the next vote relies on what is lost."""
    machines = made(tmp_path)
    for machine in machines:
        machine.start([m for m in machines if m is not machine])
    failing = machines[0]
    running = asyncio.create_task(failing.node.run())

    def fail() -> None:
        raise OSError("the disk is gone")

    def fails_once() -> bool:
        if failing.node.committed_height and failing.files[1].sync is not fail:
            failing.files[1].sync = fail  # type: ignore[method-assign]
        return running.done()

    await work(machines[1:], 0.1, fails_once)
    with pytest.raises(OSError, match="the disk is gone"):
        await asyncio.wait_for(running, 1)
    sent = len(failing.sent)
    failing.files[1].sync = lambda: None  # type: ignore[method-assign]
    failing.node.submit(Tick())
    failing.node.receive(1, machines[1].node.position)
    assert len(failing.sent) == sent
    _stop(failing)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(off_at=st.integers(1, 90), torn_bytes=st.sampled_from([0, 1, 20, 300, 4096, 100_000]), victim=st.integers(0, 3))
def test_after_a_power_loss_at_any_operation_nothing_is_signed_twice(off_at: int, torn_bytes: int, victim: int) -> None:
    """Each write, sync and send of the replica is an operation; it comes back with what the disk kept."""
    with tempfile.TemporaryDirectory() as place:
        asyncio.run(_lose_power_and_go_on(made(Path(place)), victim, off_at, torn_bytes))


async def _lose_power_and_go_on(machines: list[Machine], victim: int, off_at: int, torn_bytes: int) -> None:
    unlucky = machines[victim]
    for machine in machines:
        others = [m for m in machines if m is not machine]
        try:
            machine.start(others, off_at if machine is unlucky else None)
        except PowerLossError:
            unlucky.shut(torn_bytes)
            return  # in its very first writes: nothing was sent
    await work(machines, WORK_S)
    for machine in machines:
        machine.shut(torn_bytes if machine is unlucky else 0)
    before = max(len(m.node.chain) for m in machines)
    for machine in machines:
        machine.start([m for m in machines if m is not machine])
        assert not machine.node.replica.halted
    await work(machines, WORK_S, lambda: max(len(m.node.chain) for m in machines) > before)
    for machine in machines:
        assert contradictions(machine.sent) == []
    assert max(len(m.node.chain) for m in machines) > before, "the replicas go on"
    assert not unlucky.node.replica.halted
