"""Four real replicas on a stage: every message waits until the script delivers or drops it, every step is written down.

A block is called after its height and round: h2@r3. A line without indent is an arrival; indented ones are what a replica
does about it, in order. The commands:

    start 0 1 2 3         replicas come up from what their disk holds
    batch 2 [to=0,1]      member 2 makes its next batch; it is stored at all, or at those named
    deliver [which]       messages in flight arrive in the order in which they were sent; what they cause waits
    drop [which]          ... or are lost
    run [MS] [which]      everything arrives at once, again and again, until nothing is in flight; with MS also time passes
    wait MS               time passes, nothing arrives
    cut 3 / join 3        what goes to or from 3 is lost from now on / arrives again
    crash 3 [before=vote] at once, or before it sends the next message of that kind
    rival 1 to=2,3        member 1 signs a second block for the round of its last, and sends it to those
    lie 1 to=2,3          the same, with a wrong state root
    status                where everyone stands
    quietly COMMAND       does it and writes nothing down

`which` is any of a kind (proposal, vote, timeout, tc, sync, blocks, batches), from=0,1 and to=2,3.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from ledger_commit.consensus.events import (
    BatchStored,
    BlocksFetched,
    Broadcast,
    Commit,
    Effect,
    Event,
    Executed,
    FetchBatches,
    FetchBlocks,
    FetchRange,
    Persist,
    Received,
    Report,
    SafetyRecord,
    Send,
    SetTimer,
    Tick,
)
from ledger_commit.consensus.evidence import charge_of, decode
from ledger_commit.consensus.messages import (
    UNSIGNED,
    BatchRef,
    Message,
    Proposal,
    QuorumCert,
    SyncInfo,
    Timeout,
    TimeoutCert,
    Vote,
    block_id,
    timeout_message,
    vote_message,
)
from ledger_commit.consensus.replica import Replica
from ledger_commit.consensus.tree import Root
from tests.fixtures.consensus import CHAIN_ID, COMMITTEE, GENESIS_ID, PAIRS, batch, executed, key, signed
from tests.simulation.host import execute, fresh_safety
from tests.simulation.signatures import sign, verify_lane

KINDS = {Proposal: "proposal", Vote: "vote", Timeout: "timeout", TimeoutCert: "tc", SyncInfo: "sync"}


class ScriptError(Exception):
    """The transcript asks for what the stage does not know."""


@dataclass
class Disk:
    """What a restart finds. Everything here is durable: a transcript's crash is at a moment, not in a write."""

    safety: SafetyRecord = field(default_factory=lambda: fresh_safety(CHAIN_ID))
    blocks: dict[bytes, Proposal] = field(default_factory=dict)
    committed: list[Proposal] = field(default_factory=list)
    proofs: dict[int, QuorumCert] = field(default_factory=dict)
    batches: list[BatchRef] = field(default_factory=list)


@dataclass(frozen=True)
class Flying:
    """A message on its way, or the answer to a fetch."""

    sender: int
    to: int
    kind: str
    told: str
    event: Event


class Actor:
    """One member: its disk, and its replica while it is up."""

    def __init__(self, me: int, stage: "Stage") -> None:
        self.me = me
        self.stage = stage
        self.disk = Disk()
        self.replica: Replica | None = None
        self.timer_ms = 0
        self.crash_before = ""
        self.reached = executed(0)

    def start(self) -> None:
        root, states = Root.genesis(CHAIN_ID, 0), [executed(0)]
        for block in self.disk.committed:
            root = root.child(block)
            states.append(execute(states[-1], block, {}))
        self.reached = states[-1]
        self.replica = Replica(
            self.me, COMMITTEE, PAIRS, self.disk.safety, root, states, GENESIS_ID, verify_lane=verify_lane
        )
        for ref in self.disk.batches:
            self.replica.payload.add(ref)
        above = [b for b in self.disk.blocks.values() if b.header.height > root.height]
        above.sort(key=lambda b: b.header.height)
        self.stage.say(f"{self.me} starts in round {self.replica.round} at height {root.height}")
        self._carry_out(self.replica.start(above, self.stage.now))

    def step(self, event: Event) -> None:
        if self.replica is None:
            return
        before = self.replica.round
        effects = self.replica.step(event, self.stage.now)
        if self.replica.round != before:
            self.stage.say(f"  {self.me} enters round {self.replica.round}")
        self._carry_out(effects)

    def _carry_out(self, effects: list[Effect]) -> None:
        states: list[Executed] = []
        for effect in effects:
            if isinstance(effect, Broadcast) and self.crash_before == KINDS[type(effect.message)]:
                self.stage.say(f"  {self.me} crashes before it sends {self.stage.tell(effect.message)}")
                self.crash()
                return
            states += self._do(effect)
        for state in states:
            self.step(state)

    def crash(self) -> None:
        self.replica, self.crash_before = None, ""

    def blocks_down_from(self, identity: bytes, ancestors: int) -> tuple[Proposal, ...]:
        found: list[Proposal] = []
        while len(found) <= ancestors and identity in self.disk.blocks:
            found.append(self.stage.known[identity])
            identity = found[-1].header.parent_id
        return tuple(found[::-1])

    def _do(self, effect: Effect) -> list[Executed]:
        if told := self.stage.tell_effect(effect):
            self.stage.say(f"  {self.me} {told}")
        match effect:
            case Persist(blocks, safety):
                self.disk.blocks.update({block_id(b.header): b for b in blocks})
                self.disk.safety = safety or self.disk.safety
            case Broadcast(message):
                for to in range(len(COMMITTEE)):
                    self.stage.send(self.me, to, self._signed(message))
            case Send(to, message):
                self.stage.send(self.me, to, self._signed(message))
            case SetTimer(at_ms):
                self.timer_ms = at_ms
            case Commit(blocks, qc):
                return self._commit(blocks, qc)
            case FetchBlocks() | FetchRange() | FetchBatches():
                self.stage.serve(self.me, effect)
            case _:  # a Report is only told
                pass
        return []

    def _commit(self, blocks: tuple[Proposal, ...], qc: QuorumCert) -> list[Executed]:
        states = []
        for block in blocks:
            self.disk.committed.append(block)
            self.reached = execute(self.reached, block, {})
            states.append(self.reached)
        self.disk.proofs[len(self.disk.committed)] = qc
        return states

    def _signed(self, message: Message) -> Message:
        match message:
            case Proposal() if message.signature == UNSIGNED:
                return signed(message)
            case Vote(data):
                return replace(message, signature=sign(key(self.me), vote_message(CHAIN_ID, data)))
            case Timeout():
                told = timeout_message(CHAIN_ID, 0, message.round, message.high_qc.round)
                return replace(message, signature=sign(key(self.me), told))
        return message


class Stage:
    """Runs the commands of one transcript. `output` is what the last one printed."""

    def __init__(self) -> None:
        self.now = 1000
        self.actors = [Actor(i, self) for i in range(len(COMMITTEE))]
        self.flying: list[Flying] = []
        self.away: set[int] = set()
        self.output: list[str] = []
        self.names: dict[bytes, str] = {GENESIS_ID: "genesis"}
        self.known: dict[bytes, Proposal] = {}
        self.next_seq = [1] * len(COMMITTEE)

    def say(self, line: str) -> None:
        self.output.append(line)

    def execute(self, line: str) -> str:
        """The output of one command, without a newline at its end; "ok" where there is none."""
        if line.startswith("quietly "):
            self.execute(line.removeprefix("quietly "))
            return "ok"
        word, *rest = line.split()
        options = dict(part.split("=", 1) for part in rest if "=" in part)
        plain = [part for part in rest if "=" not in part]
        self.output = []
        command: Callable[..., None] | None = getattr(self, f"command_{word}", None)
        if command is None:
            raise ScriptError(f"no such command: {line}")
        command(*plain, **options)
        return "\n".join(self.output) or "ok"

    # Commands.

    def command_start(self, *members: str) -> None:
        for member in members:
            self.actors[int(member)].start()

    def command_batch(self, member: str, to: str = "0,1,2,3") -> None:
        maker = int(member)
        ref = batch(maker, self.next_seq[maker])
        self.next_seq[maker] += 1
        for target in _members(to):
            self._store(target, ref)

    def _store(self, target: int, ref: BatchRef) -> None:
        actor = self.actors[target]
        actor.disk.batches.append(ref)
        actor.step(BatchStored(ref))

    def command_deliver(self, *kinds: str, **ends: str) -> None:
        for message in self._take(kinds, **ends):
            self._arrive(message)

    def _arrive(self, message: Flying) -> None:
        target = self.actors[message.to]
        gone = " (down)" if target.replica is None else ""
        self.say(f"{message.sender}->{message.to} {message.told}{gone}")
        if isinstance(message.event, BatchStored) and target.replica is not None:
            target.disk.batches.append(message.event.ref)
        target.step(message.event)

    def command_drop(self, *kinds: str, **ends: str) -> None:
        for message in self._take(kinds, **ends):
            self.say(f"{message.sender}->{message.to} {message.told} is lost")

    def _take(self, kinds: tuple[str, ...], **ends: str) -> list[Flying]:
        senders, targets = (_members(ends.get(end, "0,1,2,3")) for end in ("from", "to"))
        taken = [m for m in self.flying if m.sender in senders and m.to in targets and (not kinds or m.kind in kinds)]
        self.flying = [m for m in self.flying if m not in taken]
        return taken

    def command_run(self, *words: str, **ends: str) -> None:
        end = self.now + sum(int(word) for word in words if word.isdigit())
        kinds = tuple(word for word in words if not word.isdigit())
        while True:
            while arriving := self._take(kinds, **ends):
                for message in arriving:
                    self._arrive_quietly(message)
            if not self._next_timer(end):
                break
        self.now = end

    def _arrive_quietly(self, message: Flying) -> None:
        """Only what follows is written down."""
        before = len(self.output)
        self._arrive(message)
        del self.output[before]

    def command_wait(self, passed_ms: str) -> None:
        end = self.now + int(passed_ms)
        while self._next_timer(end):
            pass
        self.now = end

    def _next_timer(self, end: int) -> bool:
        """The earliest timer that is due by `end`, if any."""
        due = [a for a in self.actors if a.replica is not None and self.now < a.timer_ms <= end]
        if not due:
            return False
        actor = min(due, key=lambda a: (a.timer_ms, a.me))
        self.now = actor.timer_ms
        before = len(self.output)
        for each in due:
            if each.timer_ms == self.now:
                each.step(Tick())
        if len(self.output) > before:
            self.output.insert(before, f"at {self.now} ms")
        return True

    def command_cut(self, *members: str) -> None:
        self.away.update(map(int, members))

    def command_join(self, *members: str) -> None:
        self.away.difference_update(map(int, members))

    def command_crash(self, member: str, before: str = "") -> None:
        actor = self.actors[int(member)]
        if before:
            actor.crash_before = before
        else:
            actor.crash()

    def command_rival(self, member: str, to: str) -> None:
        self._forge(int(member), to, {})

    def command_lie(self, member: str, to: str) -> None:
        self._forge(int(member), to, {"exec_state_root": b"\x66" * 32})

    def _forge(self, member: int, to: str, lie: dict[str, Any]) -> None:
        last = self.actors[member].disk.blocks[self.actors[member].disk.safety.last_proposed_id]
        forged = signed(replace(last, header=replace(last.header, time_ms=last.header.time_ms + 1, **lie)))
        self.say(f"  {member} signs {self.name(forged)} as well")
        for target in _members(to):
            self.send(member, target, forged)

    def command_status(self) -> None:
        for actor in self.actors:
            replica = actor.replica
            if replica is None:
                self.say(f"{actor.me} is down")
                continue
            tc = replica.high_tc.round if replica.high_tc else "-"
            stands = (
                f"round {replica.round}, lock {replica.high_qc.round}, tc {tc}, committed {replica.committed.height}"
            )
            self.say(f"{actor.me}: {stands}{', signs nothing: ' + replica.halted if replica.halted else ''}")

    # The network.

    def send(self, sender: int, to: int, message: Message) -> None:
        if isinstance(message, Proposal):
            self.known[block_id(message.header)] = message
        self._fly(sender, to, KINDS[type(message)], self.tell(message), Received(sender, message))

    def _fly(self, sender: int, to: int, kind: str, told: str, event: Event) -> None:
        if sender == to or not {sender, to} & self.away:
            self.flying.append(Flying(sender, to, kind, told, event))

    def serve(self, asker: int, wanted: FetchBlocks | FetchRange | FetchBatches) -> None:
        """The answer of the first peer that has one, in the order of the question; for a range, of two."""
        peers = [a for a in self.actors if a.me != asker and a.replica is not None and not {a.me, asker} & self.away]
        if isinstance(wanted, FetchBatches):
            peers.sort(key=lambda a: a.me != wanted.hint)
        else:
            peers = [peer for member in wanted.members for peer in peers if peer.me == member]
        given = ((peer, answers) for peer in peers if (answers := self._answers(peer, wanted)))
        for peer, answers in islice(given, 2 if isinstance(wanted, FetchRange) else 1):
            for kind, told, event in answers:
                self._fly(peer.me, asker, kind, told, event)

    def _answers(self, peer: Actor, wanted: FetchBlocks | FetchRange | FetchBatches) -> list[tuple[str, str, Event]]:
        match wanted:
            case FetchBlocks(identity, ancestors):
                found = peer.blocks_down_from(identity, ancestors)
                names = " ".join(map(self.name, found))
                return [("blocks", f"blocks {names}", BlocksFetched(peer.me, found))] if found else []
            case FetchRange(first, last):
                chain = peer.disk.committed[first - 1 : last + 1]
                blocks = tuple(self.known[block_id(b.header)] for b in chain[:-1])
                told = f"blocks {first} to {first + len(blocks) - 1} with the QC for the last"
                return [("blocks", told, BlocksFetched(peer.me, blocks, chain[-1].qc))] if blocks else []
            case FetchBatches(refs):
                held = [ref for ref in refs if ref in peer.disk.batches]
                return [("batches", f"batch {ref.member}.{ref.seq}", BatchStored(ref)) for ref in held]

    # Words.

    def name(self, proposal: Proposal) -> str:
        """h2@r3: the block of height 2 and round 3; a second one of both is h2@r3'."""
        identity, header = block_id(proposal.header), proposal.header
        name = f"h{header.height}@r{header.round}"
        while identity not in self.names and name in self.names.values():
            name += "'"
        return self.names.setdefault(identity, name)

    def tell(self, message: Message) -> str:
        match message:
            case Proposal(header, batches, qc, tc, evidence):
                why = f"on QC {qc.round}" + (f" and TC {tc.round}" if tc else "")
                told = f", tells of height {header.exec_height}" if header.exec_height else ""
                payload = "".join(f", batch {ref.member}.{ref.seq}" for ref in batches)
                pieces = [charge_of(decode(piece)) for piece in evidence]
                accused = "".join(f", evidence of {kind.name.lower()} by {member}" for member, kind in pieces)
                return f"proposal {self.name(message)} {why}{told}{payload}{accused}"
            case Vote(data):
                return f"vote for {self.names[data.block_id]}"
            case Timeout():
                tc = message.last_tc
                return f"timeout of round {message.round} with QC {message.high_qc.round}{f' and TC {tc.round}' if tc else ''}"
            case TimeoutCert():
                groups = "; ".join(
                    f"QC {g.qc_round}: {' '.join(map(str, COMMITTEE.signers(g.signers) or []))}" for g in message.groups
                )
                return f"TC {message.round} ({groups})"
            case SyncInfo(qc, tc, height):
                return f"sync info: QC {qc.round}, TC {tc.round if tc else '-'}, height {height}"

    def tell_effect(self, effect: Effect) -> str:
        match effect:
            case Persist(blocks, safety):
                held = " ".join(map(self.name, blocks))
                return f"persists {', '.join(filter(None, (held, _tell_record(safety))))}"
            case Broadcast(message):
                return f"sends all: {self.tell(message)}"
            case Send(to, message):
                return f"sends {to}: {self.tell(message)}"
            case Commit(blocks, qc):
                return f"commits {' '.join(map(self.name, blocks))}, proven by QC {qc.round}"
            case FetchBlocks(identity, ancestors, members):
                below = f" and {ancestors} below" if ancestors else ""
                return f"asks {_in_turn(members)} for {self.names.get(identity, '?')}{below}"
            case FetchRange(first, last, members):
                return f"asks {_in_turn(members)} for blocks {first} to {last}"
            case FetchBatches(refs, hint):
                return f"asks {hint} for {' '.join(f'batch {r.member}.{r.seq}' for r in refs)}"
            case Report(what, member, detail):
                return f"reports {member}: {what}{f' ({detail})' if detail else ''}"
            case _:  # SetTimer
                return ""


def _tell_record(safety: SafetyRecord | None) -> str:
    if safety is None:
        return ""
    timed_out = safety.last_timeout.round if safety.last_timeout else "-"
    voted = safety.last_vote.round if safety.last_vote else "-"
    return f"record (proposal {safety.last_proposed_round or '-'}, vote {voted}, timeout {timed_out})"


def _in_turn(members: tuple[int, ...]) -> str:
    return ", ".join(map(str, members))


def _members(told: str) -> list[int]:
    return [int(member) for member in told.split(",")]
