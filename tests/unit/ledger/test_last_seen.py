"""What a replica believes of its peers' word about its own signatures, and what it keeps of theirs. Under real BLS.

Source: consensus.md §8.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import REGISTRY

from claimledger.ledger.v1 import ledger_pb2
from ledger_commit.consensus.certificates import Certificates
from ledger_commit.consensus.messages import (
    MAX_BATCHES_PER_BLOCK,
    MAX_COMMITTEE,
    MAX_EVIDENCE_BYTES,
    MAX_EVIDENCE_PER_BLOCK,
    PROTOCOL,
    UNSIGNED,
    VOTE,
    ZERO,
    BatchRef,
    Header,
    Proposal,
    QuorumCert,
    Timeout,
    TimeoutCert,
    TimeoutGroup,
    Vote,
    VoteData,
    block_id,
    genesis_cert,
    timeout_message,
    vote_message,
)
from ledger_commit.consensus.tree import genesis_id
from ledger_commit.last_seen import LastSeen, Signed, is_signed_by, round_of
from ledger_commit.wire import MAX_SEEN_BYTES, to_last_seen
from tests.unit.ledger.machines import BLS, CHAIN_ID, COMMITTEE, SECRETS, SIZE, Machine, Neighbour, Wires
from tests.unit.ledger.test_durability import made, work

ME: Final = 2
OTHER: Final = 1
LATER: Final = 50
"""A round after the record of a replica that has signed nothing."""
HUGE: Final = 2**63
GENESIS_QC: Final = genesis_cert(genesis_id(CHAIN_ID))


def certificates() -> Certificates:
    return Certificates(COMMITTEE, BLS, genesis_id(CHAIN_ID))


def proposal(by: int, round_number: int = LATER, chain: bytes = CHAIN_ID, epoch: int = 0) -> Proposal:
    header = Header(
        chain, PROTOCOL, epoch, round_number, 1, by, *(ZERO,) * 4, 0, 0, ZERO, 0, ZERO, ZERO, 0, ZERO, ZERO, ZERO
    )  # fmt: skip
    return Proposal(header, (), GENESIS_QC, None, (), (), BLS.sign(SECRETS[by], block_id(header)))


def vote(by: int, round_number: int = LATER, chain: bytes = CHAIN_ID, epoch: int = 0) -> Vote:
    data = VoteData(epoch, round_number, ZERO, ZERO, round_number - 1, ZERO)
    return Vote(data, by, BLS.sign(SECRETS[by], vote_message(chain, data)))


def timeout(by: int, round_number: int = LATER, chain: bytes = CHAIN_ID, epoch: int = 0) -> Timeout:
    told = timeout_message(chain, epoch, round_number, 0)
    return Timeout(epoch, round_number, GENESIS_QC, None, by, BLS.sign(SECRETS[by], told))


def certificate(by: Sequence[int], round_number: int = LATER, chain: bytes = CHAIN_ID, epoch: int = 0) -> QuorumCert:
    votes = [vote(member, round_number, chain, epoch) for member in by]
    return QuorumCert(votes[0].data, COMMITTEE.bitmap(list(by)), BLS.aggregate([v.signature for v in votes]))


def certificate_of(by: int, round_number: int = LATER, chain: bytes = CHAIN_ID, epoch: int = 0) -> QuorumCert:
    return certificate(sorted({0, by, 3}) if by else [0, 1, 3], round_number, chain, epoch)


KINDS: Final[tuple[Callable[..., Signed], ...]] = (proposal, vote, timeout, certificate_of)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_proves_something_to_who_signed_it_and_to_nobody_else(kind: Callable[..., Signed]) -> None:
    """On this chain and in this epoch only."""
    assert is_signed_by(ME, kind(ME), certificates())
    assert not is_signed_by(OTHER, kind(ME), certificates())
    assert not is_signed_by(ME, kind(ME, chain=bytes(32)), certificates())
    assert not is_signed_by(ME, kind(ME, epoch=1), certificates())


def answer(message: Signed, round_number: int | None = None) -> ledger_pb2.GetLastSeenResponse:
    """With another round beside the message, where one is given."""
    told = to_last_seen(message)
    told.round = told.round if round_number is None else round_number
    return told


def swollen() -> ledger_pb2.GetLastSeenResponse:
    """A signature that holds, with more beside it than is read."""
    refs = tuple(BatchRef(0, 1, i, ZERO, 1, 1) for i in range(MAX_BATCHES_PER_BLOCK))
    return answer(replace(proposal(ME), batches=refs))


LIES: Final = {
    "a round and nothing else": ledger_pb2.GetLastSeenResponse(round=HUGE),
    "an empty message": ledger_pb2.GetLastSeenResponse(round=HUGE, vote=b""),
    "bytes of no message": ledger_pb2.GetLastSeenResponse(round=LATER, vote=VOTE.encode(vote(ME))[:-1]),
    "a message of another kind": ledger_pb2.GetLastSeenResponse(round=LATER, timeout=VOTE.encode(vote(ME))),
    "an old vote beside a higher round": answer(vote(ME, 1), HUGE),
    "an old vote with a higher round in it": answer(replace(vote(ME, 1), data=vote(ME, LATER).data)),
    "an old proposal with a higher round in it": answer(replace(proposal(ME, 1), header=proposal(ME, LATER).header)),
    "an old timeout with a higher round in it": answer(replace(timeout(ME, 1), round=LATER)),
    "an old certificate with a higher round in it": answer(replace(certificate_of(ME, 1), data=vote(ME, LATER).data)),
    "another's vote": answer(vote(OTHER)),
    "another's vote under our name": answer(replace(vote(OTHER), voter=ME)),
    "another's proposal": answer(proposal(OTHER)),
    "another's timeout under our name": answer(replace(timeout(OTHER), voter=ME)),
    "a certificate without us": answer(certificate([0, 1, 3])),
    "a certificate of others that names us": answer(replace(certificate([0, 1, 3]), signers=COMMITTEE.bitmap([0, 1, 2, 3]))),
    "a certificate of too few": answer(certificate([0, ME])),
    "an unsigned vote": answer(replace(vote(ME), signature=UNSIGNED)),
    "a vote of another chain": answer(vote(ME, chain=bytes(32))),
    "a vote of another epoch": answer(vote(ME, epoch=1)),
    "more than one message may take": swollen(),
}  # fmt: skip


class Told(Neighbour):
    """A peer with one fixed answer."""

    def __init__(self, of: Machine, to: Machine, told: ledger_pb2.GetLastSeenResponse) -> None:
        super().__init__(of, to)
        self._told = told

    async def last_seen(self) -> ledger_pb2.GetLastSeenResponse:
        return self._told


class Telling(Wires):
    """The first peer says what the test wants; the others have seen nothing."""

    def __init__(self, of: Machine, others: list[Machine], told: ledger_pb2.GetLastSeenResponse) -> None:
        nothing = ledger_pb2.GetLastSeenResponse()
        self._told: list[Neighbour] = [Told(of, other, nothing if i else told) for i, other in enumerate(others)]

    def __iter__(self) -> Iterator[Neighbour]:
        return iter(self._told)


async def heard(place: Path, told: ledger_pb2.GetLastSeenResponse) -> tuple[str, float]:
    """Why a replica that starts does not vote, and how many answers it has counted as bad."""
    machines = made(place)
    me = machines[ME]
    others = [m for m in machines if m is not me]
    me.start(others)
    me.node.peers = Telling(me, others, told)  # type: ignore[assignment]
    before = counted()
    await me.node._hear_peers()
    await me.node.close()
    return me.node.replica.halted, counted() - before


def counted() -> float:
    return REGISTRY.get_sample_value("claimledger_ledger_bad_messages_total", {"reason": "last_seen"}) or 0


@pytest.mark.parametrize("lie", LIES)
async def test_an_answer_without_a_signature_that_holds_stops_nobody(tmp_path: Path, lie: str) -> None:
    """It is an answer towards the quorum, has seen nothing, and is counted."""
    assert await heard(tmp_path, LIES[lie]) == ("", 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_one_peer_with_a_later_signature_of_any_kind_stops_a_replica(
    tmp_path: Path, kind: Callable[..., Signed]
) -> None:
    why, bad = await heard(tmp_path, to_last_seen(kind(ME)))
    assert why == f"the safety record is stale: it ends at round 0, a peer saw round {LATER}"
    assert bad == 0


async def test_a_peer_that_has_seen_nothing_is_no_liar(tmp_path: Path) -> None:
    assert await heard(tmp_path, ledger_pb2.GetLastSeenResponse()) == ("", 0)


def test_what_is_kept_of_a_message_fits_an_answer_whatever_came_with_it() -> None:
    """The longest of each kind in the largest committee."""
    bitmap = b"\xff" * (MAX_COMMITTEE // 8)
    qc = QuorumCert(vote(ME).data, bitmap, UNSIGNED)
    tc = TimeoutCert(0, LATER, qc, tuple(TimeoutGroup(i, bitmap) for i in range(MAX_COMMITTEE)), UNSIGNED)
    refs = tuple(BatchRef(0, 1, i, ZERO, 1, 1) for i in range(MAX_BATCHES_PER_BLOCK))
    pieces = (bytes(MAX_EVIDENCE_BYTES),) * MAX_EVIDENCE_PER_BLOCK
    whole = replace(proposal(ME), qc=qc, tc=tc, batches=refs, evidence=pieces)
    for message in (whole, replace(timeout(ME), last_tc=tc)):
        seen = LastSeen()
        seen.note(ME, message)
        kept = seen.proven(ME, certificates())
        assert kept is not None, "its signature holds without the rest"
        assert to_last_seen(kept).ByteSize() < MAX_SEEN_BYTES
    assert max(to_last_seen(message).ByteSize() for message in (vote(ME), qc)) < MAX_SEEN_BYTES


def test_the_highest_round_counts_in_whatever_order_messages_come() -> None:
    seen = LastSeen()
    for message in (vote(ME, 5), timeout(ME, 7), vote(ME, 6), timeout(ME, 3), proposal(ME, 4)):
        seen.note(ME, message)
    assert seen.proven(ME, certificates()) == timeout(ME, 7)
    assert seen.proven(OTHER, certificates()) is None


def test_a_signature_that_does_not_hold_is_not_shown_and_hides_no_older_one() -> None:
    """A certified block may have come with any signature of its proposer; the certificate below it is still one."""
    block = replace(proposal(ME, 9), qc=certificate_of(ME, 8), signature=b"\x01" * 96)
    seen = LastSeen()
    seen.note_block(block, COMMITTEE)
    assert seen.proven(ME, certificates()) == block.qc


async def test_nobody_takes_the_place_of_another_members_messages(tmp_path: Path) -> None:
    """What one member sends under the name of another, signed or not, is kept for neither."""
    machines = made(tmp_path)
    machines[0].start(machines[1:])
    node = machines[0].node
    node.receive(OTHER, timeout(ME))
    node.receive(OTHER, replace(vote(ME, HUGE), signature=UNSIGNED))
    node.receive(OTHER, proposal(ME))
    assert (node.last_signed_by(ME), node.last_signed_by(OTHER)) == (None, None)
    node.receive(ME, vote(ME))
    assert (node.last_signed_by(ME), node.last_signed_by(OTHER)) == (vote(ME), None)
    await node.close()


async def test_a_restarted_replica_still_proves_what_its_log_holds(tmp_path: Path) -> None:
    """Of each member the proposal or the certificate of the highest round in any of its blocks."""
    machines = made(tmp_path)
    for machine in machines:
        machine.start([m for m in machines if m is not machine])
    await work(machines, 0.6)
    again = machines[0]
    again.start(machines[1:])
    log = list(again.node.disk.log.blocks_not(set()))
    assert len(log) > SIZE
    for member in range(1, SIZE):
        signed = [block.header.round for block in log if block.header.proposer == member]
        signed += [b.qc.round for b in log if member in (COMMITTEE.signers(b.qc.signers) or [])]
        shown = again.node.last_signed_by(member)
        assert shown is not None
        assert round_of(shown) == max(signed)
    await again.node.close()
