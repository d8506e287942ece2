"""Evidence: what is a piece, who finds it, which block brings it, and what no honest member can be accused of."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ledger_commit.consensus.certificates import Signatures
from ledger_commit.consensus.events import BatchStored, BlocksFetched, Broadcast, Report
from ledger_commit.consensus.evidence import (
    VERDICTS_LIMIT,
    Court,
    DoubleBatch,
    DoubleProposal,
    DoubleTimeout,
    DoubleVote,
    Evidence,
    EvidenceKind,
    LockViolation,
    charge_of,
    charges_of,
    encode,
    form_error,
    timeout_as_signed,
)
from ledger_commit.consensus.messages import (
    BATCH_REF,
    MAX_EVIDENCE_PER_BLOCK,
    UNSIGNED,
    ZERO,
    Proposal,
    Vote,
    VoteData,
    block_id,
)
from ledger_commit.consensus.tree import Root
from ledger_commit.consensus.witness import HEADER_ROUNDS, WINDOW, Witness
from tests.fixtures.consensus import (
    CHAIN_ID,
    COMMITTEE,
    NOW,
    PAIRS,
    PIECES,
    Bench,
    batch,
    block,
    certify,
    chain,
    committed,
    double_batch,
    double_proposal,
    double_timeout,
    double_vote,
    executed,
    in_order,
    lock_violation,
    of,
    proposals,
    reports,
    signed,
    signed_batch,
    signed_header,
    signed_timeout,
    tells,
    time_out,
    timeout,
    timeouts,
    vote,
    vote_data,
    vote_of,
    votes,
)
from tests.simulation.signatures import verify_lane

KINDS = list(EvidenceKind)


class Counting:
    """The simulator's signatures, and how many were verified."""

    def __init__(self) -> None:
        self.verified = 0

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        self.verified += 1
        return PAIRS.verify(public_key, message, signature)

    def __getattr__(self, name: str) -> Any:
        return getattr(PAIRS, name)


def court(signatures: Signatures = PAIRS) -> Court:
    return Court(COMMITTEE, signatures, verify_lane)


def stands(piece: Evidence) -> bool:
    """Form and signatures."""
    encoded = encode(piece)
    return not form_error((encoded,), COMMITTEE) and court().proves(encoded)


# What is a piece.


@pytest.mark.parametrize("kind", KINDS)
def test_two_statements_that_contradict_each_other_are_a_piece(kind: EvidenceKind) -> None:
    for member in range(4):
        piece = PIECES[kind](member)
        assert stands(piece)
        assert charge_of(piece) == (member, kind)


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not EvidenceKind.LOCK_VIOLATION])
def test_a_piece_has_one_encoding(kind: EvidenceKind) -> None:
    """The other order of the same statements is none, and neither is one statement twice."""
    piece: Any = PIECES[kind](2)
    for first, second in ((piece.second, piece.first), (piece.first, piece.first)):
        assert form_error((encode(replace(piece, first=first, second=second)),), COMMITTEE) == "evidence of nothing"


def changed(piece: Any, part: str, **fields: Any) -> Any:
    return replace(piece, **{part: replace(getattr(piece, part), **fields)})


def with_header(piece: Any, **fields: Any) -> Any:
    """Both orders are tried, since another header has another place in the order."""
    other = signed(replace(block(None, 5), header=replace(piece.first.header, **fields)))
    return in_order(DoubleProposal, signed_header(other), piece.second)


def vote_in(member: int, voted: int, parent_round: int, epoch: int = 0) -> Vote:
    return vote_of(member, VoteData(epoch, voted, bytes(32), bytes(32), parent_round, ZERO))


A, B = batch(1, 1), batch(1, 1, name="other ")
NOBODYS = sorted((replace(A, member=4), replace(B, member=4)), key=BATCH_REF.encode)
WRONG_FORM: dict[str, Callable[[], Evidence]] = {
    "votes of two members": lambda: in_order(DoubleVote, vote(1, block(None, 1)), vote(2, block(None, 1, time_ms=1))),
    "votes of two rounds": lambda: in_order(DoubleVote, vote(1, block(None, 1)), vote(1, block(None, 2))),
    "votes of another epoch": lambda: in_order(DoubleVote, vote_in(1, 3, 2, epoch=1), vote_in(1, 3, 1, epoch=1)),
    "votes of nobody": lambda: changed(changed(double_vote(1), "first", voter=4), "second", voter=4),
    "blocks of two members": lambda: with_header(double_proposal(1), proposer=2),
    "blocks of two rounds": lambda: with_header(double_proposal(1), round=9),
    "a block of another chain": lambda: with_header(double_proposal(1), chain_id=bytes(32)),
    "a block of another epoch": lambda: with_header(double_proposal(1), epoch=1),
    "timeouts of two members": lambda: DoubleTimeout(signed_timeout(1, 5, 2), signed_timeout(2, 5, 4)),
    "timeouts of two rounds": lambda: DoubleTimeout(signed_timeout(1, 5, 2), signed_timeout(1, 6, 4)),
    "timeouts of another epoch": lambda: DoubleTimeout(signed_timeout(1, 5, 2, 1), signed_timeout(1, 5, 4, 1)),
    "batches of two members": lambda: in_order(DoubleBatch, signed_batch(A), signed_batch(batch(2, 1))),
    "batches of two places": lambda: in_order(DoubleBatch, signed_batch(A), signed_batch(batch(1, 2))),
    "batches of two lanes": lambda: in_order(DoubleBatch, signed_batch(A), signed_batch(batch(1, 1, incarnation=2))),
    "batches of nobody": lambda: changed(changed(double_batch(1), "first", ref=NOBODYS[0]), "second", ref=NOBODYS[1]),
    "a vote and another member's timeout": lambda: LockViolation(vote_in(1, 3, 2), signed_timeout(2, 3, 1)),
    "a timeout before the vote": lambda: lock_violation(1, voted=3, timed_out=2, told=1),
    "a timeout with the lock of the vote": lambda: lock_violation(1, voted=3, timed_out=3, told=2),
}


@pytest.mark.parametrize("case", WRONG_FORM)
def test_what_an_honest_member_may_sign_is_no_piece(case: str) -> None:
    """Each statement is signed; together they say nothing, or not of this chain, epoch and committee."""
    assert form_error((encode(WRONG_FORM[case]()),), COMMITTEE) == "evidence of nothing"


def test_a_lock_counts_from_the_round_of_the_vote_on() -> None:
    """In the same round a timeout follows the vote; so it does in every later one."""
    assert stands(lock_violation(1, voted=3, timed_out=3, told=1))
    assert stands(lock_violation(1, voted=3, timed_out=9, told=1))


@pytest.mark.parametrize("part", ["first", "second"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_statements_are_signed(kind: EvidenceKind, part: str) -> None:
    piece: Any = PIECES[kind](1)
    width = len(getattr(piece, part).signature)
    forged = changed(piece, part, signature=bytes(width))
    assert form_error((encode(forged),), COMMITTEE) == ""
    assert not court().proves(encode(forged))


def test_bytes_that_are_no_piece_are_refused() -> None:
    for wrong in (b"", b"\x01", b"\x06" + encode(double_vote(1))[1:], encode(double_vote(1)) + b"\x00"):
        assert form_error((wrong,), COMMITTEE) == "evidence that does not decode"


def test_one_charge_stands_once_in_a_block() -> None:
    one, other = encode(double_vote(1, 1)), encode(double_vote(1, 2))
    assert form_error((one, other), COMMITTEE) == "evidence of one charge twice"
    assert form_error((one, encode(double_vote(2))), COMMITTEE) == ""


def test_a_piece_is_verified_once() -> None:
    """Whatever comes of it: what a leader sends again and again costs nothing more."""
    counting = Counting()
    judge = court(counting)
    good, bad = encode(double_vote(1)), encode(changed(double_vote(2), "second", signature=UNSIGNED))
    assert [judge.proves(piece) for piece in (good, bad) * 5] == [True, False] * 5
    assert counting.verified == 4
    for number in range(VERDICTS_LIMIT):
        judge.proves(encode(changed(double_timeout(1), "second", high_qc_round=10 + number)))
    assert len(judge._verdicts) == VERDICTS_LIMIT


# Statements of operators.


def test_a_vote_before_the_members_statement_is_no_lock() -> None:
    """Its lock may have been lost with its record. What it signs afterwards counts again."""
    judge = court()
    judge.statement_rounds[1] = 10
    assert judge.excuses(lock_violation(1, voted=10, timed_out=11, told=1))
    assert not judge.excuses(lock_violation(1, voted=11, timed_out=11, told=1))
    assert not judge.excuses(lock_violation(2, voted=10, timed_out=11, told=1))
    assert not judge.excuses(double_vote(1))


def test_a_lock_violation_waits_until_every_statement_before_the_timeout_is_executed() -> None:
    judge = court()
    piece = lock_violation(1, voted=3, timed_out=5, told=1)
    judge.executed_round = 4
    assert not judge.is_ripe(piece)
    assert judge.is_ripe(double_timeout(1))
    judge.executed_round = 5
    assert judge.is_ripe(piece)


# Who hears what.


def witness(signatures: Signatures = PAIRS, current: int = 5) -> Witness:
    made = Witness(court(signatures), frozenset())
    made.enter(current, 0)
    return made


def hear(made: Witness, statement: Any) -> list[Any]:
    match statement:
        case Vote():
            return made.hears_vote(statement)
        case _ if hasattr(statement, "header"):
            return made.hears_header(statement)
    return made.hears_timeout(statement)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kind", [k for k in KINDS if k is not EvidenceKind.DOUBLE_BATCH])
def test_a_piece_is_found_in_whichever_order_its_statements_come(kind: EvidenceKind, *, swapped: bool) -> None:
    piece, made = PIECES[kind](1), witness()
    one, other = (piece.second, piece.first) if swapped else (piece.first, piece.second)
    assert hear(made, one) == []
    assert hear(made, other) == [(1, kind)]
    assert made.pool == {(1, kind): piece}
    assert hear(made, other) == [], "it is held"


def test_two_batches_for_one_place_are_a_piece_in_either_order() -> None:
    for pair in ((signed_batch(A), signed_batch(B)), (signed_batch(B), signed_batch(A))):
        made = witness()
        assert made.hears_batches(*pair) == [(1, EvidenceKind.DOUBLE_BATCH)]


def test_what_an_honest_member_says_in_its_life_is_no_evidence() -> None:
    """Votes and timeouts of rising rounds with a lock that rises, all of it again, late, and in another order."""
    blocks = chain(1, 2, 3, 6, 7)
    said: list[Any] = [vote(1, b) for b in blocks]
    said += [signed_timeout(1, r, qc) for r, qc in ((4, 3), (5, 3), (8, 7))]
    said += [signed_header(b) for b in blocks]
    for order in (said, said[::-1], said + said, sorted(said, key=repr)):
        made = witness()
        assert [found for statement in order for found in hear(made, statement)] == []
    assert made.pool == {}


def test_one_piece_is_held_for_each_member_and_kind() -> None:
    """A member that equivocates in every round fills no more than its places, and costs no more than the first piece."""
    counting = Counting()
    made = witness(counting)
    for number in range(1, 40):
        made.enter(number, 0)
        for member in range(4):
            piece = double_vote(member, number)
            hear(made, piece.first), hear(made, piece.second)
    assert sorted(made.pool) == [(member, EvidenceKind.DOUBLE_VOTE) for member in range(4)]
    assert counting.verified == 8


def test_what_the_chain_has_is_not_looked_for_again() -> None:
    made = witness()
    piece = double_vote(1)
    hear(made, piece.first), hear(made, piece.second)
    hear(made, double_vote(2).first), hear(made, double_vote(2).second)
    made.commits(frozenset({(1, EvidenceKind.DOUBLE_VOTE)}), 0)
    assert sorted(made.pool) == [(2, EvidenceKind.DOUBLE_VOTE)]
    assert hear(made, piece.second) == []
    assert sorted(made.pool) == [(2, EvidenceKind.DOUBLE_VOTE)]


def test_a_bad_signature_ends_the_search_for_its_charge_until_the_next_round() -> None:
    """Else each message of a member that signs nothing would cost two verifications."""
    counting = Counting()
    made = witness(counting)
    hear(made, vote(1, block(None, 5)))
    for number in range(50):
        forged = replace(vote(1, block(None, 5, time_ms=number)), signature=bytes(96))
        assert hear(made, forged) == []
    assert counting.verified <= 2
    assert hear(made, vote(1, block(None, 5, time_ms=99))) == []
    made.enter(6, 0)
    assert hear(made, vote(1, block(None, 5, time_ms=99))) == [(1, EvidenceKind.DOUBLE_VOTE)]


@pytest.mark.parametrize(("told", "heard"), [(WINDOW, True), (WINDOW + 1, False)])
def test_statements_are_compared_within_the_window(told: int, *, heard: bool) -> None:
    for number in (20 - told, 20 + told):
        made = witness(current=20)
        data = VoteData(0, number, bytes(32), bytes(32), 1, ZERO)
        hear(made, vote_of(1, data)), hear(made, signed_timeout(2, number, 1))
        found = hear(made, vote_of(1, replace(data, parent_id=b"\x01" * 32)))
        found += hear(made, signed_timeout(2, number, 0))
        assert found == ([(1, EvidenceKind.DOUBLE_VOTE), (2, EvidenceKind.DOUBLE_TIMEOUT)] if heard else [])


def test_what_is_behind_the_window_is_forgotten() -> None:
    """Headers stay above the committed round: its proposer's second block is refused there however late it comes."""
    made = witness(current=5)
    hear(made, vote(1, block(None, 5))), hear(made, signed_timeout(1, 5, 1)), hear(made, signed_header(block(None, 5)))
    made.enter(5 + WINDOW, 4)
    assert [set(told) for told in (made.votes[1], made.timeouts[1], made.headers)] == [{5}, {5}, {5}]
    made.enter(6 + WINDOW, 4)
    assert [set(told) for told in (made.votes[1], made.timeouts[1], made.headers)] == [set(), set(), {5}]
    made.commits(frozenset(), 5)
    assert made.headers == {}
    hear(made, signed_header(block(None, 5)))
    assert made.headers == {}, "a late one is not remembered"


def test_headers_are_forgotten_behind_a_bound_also_where_nothing_commits() -> None:
    made = witness(current=5)
    hear(made, signed_header(block(None, 5)))
    made.enter(5 + HEADER_ROUNDS, 0)
    assert set(made.headers) == {5}
    made.enter(6 + HEADER_ROUNDS, 0)
    assert made.headers == {}


def test_an_excused_piece_is_neither_held_nor_included() -> None:
    """The statement can be executed here before the timeout comes, or behind it."""
    piece, made = lock_violation(1, voted=3, timed_out=5), witness()
    made.court.executed_round = 5
    hear(made, piece.first), hear(made, piece.second)
    assert made.includable(frozenset()) == (encode(piece),)
    made.court.statement_rounds[1] = 3
    assert (made.includable(frozenset()), made.pool) == ((), {})
    assert hear(made, piece.second) == []


def test_a_block_takes_so_many_pieces_and_none_that_its_branch_has() -> None:
    made = witness()
    made.court.executed_round = 5
    pieces = [PIECES[kind](member) for member in range(4) for kind in KINDS]
    made.pool = {charge_of(piece): piece for piece in pieces}
    first = made.includable(frozenset())
    assert first == tuple(map(encode, pieces[:MAX_EVIDENCE_PER_BLOCK]))
    rest = made.includable(charges_of(first))
    assert charges_of(rest).isdisjoint(charges_of(first))
    assert form_error(first, COMMITTEE) == form_error(rest, COMMITTEE) == ""


# A replica finds it.


def found(effects: list[Any]) -> list[tuple[int, str]]:
    return [(e.member, e.detail) for e in of(effects, Report) if e.what == "evidence"]


def test_two_votes_are_evidence_also_when_the_second_comes_behind_the_certificate() -> None:
    bench = Bench()
    first, rival = block(None, 1), block(None, 1, time_ms=1)
    bench.propose(first)
    for voter in (1, 2, 3):
        bench.hear(voter, vote(voter, first))
    assert bench.replica.round == 2
    assert found(bench.hear(3, vote(3, rival))) == [(3, "double_vote")]


def test_two_timeouts_are_evidence_whether_their_certificates_hold_or_not() -> None:
    """The signature is over the rounds alone."""
    bench = Bench(blocks=chain(1, 2))
    lied = replace(certify(chain(1, 2)[1]), aggregate=UNSIGNED)
    assert found(bench.hear(3, timeout(3, 2, certify(chain(1)[0])))) == []
    assert found(bench.hear(3, timeout(3, 2, replace(lied, data=replace(lied.data, round=0))))) == [
        (3, "double_timeout")
    ]


def test_a_timeout_below_the_members_own_vote_is_evidence_that_waits() -> None:
    """It is told of when it is committed: the member's statement may be on its way."""
    bench = Bench()
    bench.hear(3, vote_in(3, 5, 4))
    effects = bench.hear(3, timeout(3, 6, certify(block(None, 2))))
    assert found(effects) == []
    assert sorted(bench.replica.witness.pool) == [(3, EvidenceKind.LOCK_VIOLATION)]


@pytest.mark.parametrize("late", [False, True], ids=["in its round", "when its round is final"])
def test_two_blocks_of_a_round_are_evidence(*, late: bool) -> None:
    bench = Bench()
    blocks = chain(1, 2, 3)
    for proposal in blocks if late else blocks[:1]:
        bench.propose(proposal)
    assert bench.replica.committed.round == (1 if late else 0)
    assert found(bench.propose(block(None, 1, time_ms=NOW))) == [(1, "double_proposal")]
    assert found(bench.propose(replace(block(None, 5), signature=UNSIGNED))) == []


def test_a_late_block_that_its_proposer_did_not_sign_is_no_evidence() -> None:
    bench = Bench()
    for proposal in chain(1, 2, 3):
        bench.propose(proposal)
    assert found(bench.propose(signed(replace(block(None, 1), header=replace(block(None, 1).header, epoch=9))))) == []
    assert found(bench.propose(replace(block(None, 1, time_ms=NOW), signature=UNSIGNED))) == []
    assert bench.replica.witness.pool == {}


def test_a_fetched_block_beside_the_one_that_was_shown_is_evidence() -> None:
    """A peer that gives the quorum's block under a made-up signature accuses nobody with it."""
    mine, theirs = block(None, 1, time_ms=NOW), block(None, 1)
    for given, accused in ((theirs, [(1, "double_proposal")]), (replace(theirs, signature=UNSIGNED), [])):
        bench = Bench()
        bench.propose(mine)
        bench.learn(certify(theirs, (1, 2, 3)))
        assert found(bench.fetch(given)) == accused


def test_a_range_that_has_another_block_of_a_round_is_evidence() -> None:
    shown, (first, *rest) = block(None, 1, time_ms=NOW), chain(*range(1, 12))
    bench = Bench()
    bench.propose(shown)
    assert found(bench.step(BlocksFetched(3, (first, *rest), certify(rest[-1])))) == [(1, "double_proposal")]


def test_the_log_is_looked_through_at_start() -> None:
    """The pool is not kept over a restart; what the log proves is found again."""
    bench = Bench(blocks=[block(None, 1), block(None, 1, time_ms=NOW)])
    assert found(bench.first) == [(1, "double_proposal")]


def test_an_own_block_that_never_left_is_not_held_against_the_one_that_does() -> None:
    """The power went out between the log and the safety record: the round gets another block."""
    lost = replace(block(None, 1, time_ms=1), signature=UNSIGNED)
    bench = Bench(me=1, blocks=[lost])
    (own,) = proposals(bench.first)
    assert block_id(own.header) != block_id(lost.header)
    effects = bench.propose(signed(own))
    assert (votes(effects), reports(effects)) == ([vote_data(own)], [])
    assert bench.replica.has_left(block_id(own.header))
    assert not bench.replica.has_left(block_id(lost.header)), "and it is shown to nobody"
    bench.replica.tree.insert(block(lost, 2))
    assert bench.replica.has_left(block_id(lost.header)), "but where a certificate names it"


def test_two_batches_for_one_place_are_evidence_where_both_signatures_are_at_hand() -> None:
    good, other = signed_batch(A), signed_batch(B)
    for first, second, accused in (
        (good, other, [(1, "double_batch")]),
        (other, good, [(1, "double_batch")]),
        (good, good, []),
        (good, replace(other, signature=bytes(64)), []),
        (good, replace(other, signature=b""), []),
        (replace(good, signature=b""), other, []),
    ):
        bench = Bench()
        assert found(bench.step(BatchStored(first.ref, first.signature))) == []
        assert found(bench.step(BatchStored(second.ref, second.signature))) == accused


def test_a_committed_place_leaves_no_signature_behind() -> None:
    bench = Bench()
    bench.step(BatchStored(A, signed_batch(A).signature))
    bench.replica.payload.drop_committed((A,))
    assert bench.replica.payload._signatures == {}
    assert bench.replica.payload.rivals(B) == []


# A leader brings it.


def accuser(*pieces: Evidence, me: int = 0, last: Proposal | None = None) -> Bench:
    """Round 4 of member 0; blocks 1 and 2 are committed and told of. Nothing waits but these pieces."""
    bench = Bench(me)
    blocks = chain(1, 2, 3)
    for proposal in [*blocks[:2], last or blocks[2]]:
        bench.propose(proposal)
        bench.learn(certify(proposal))
    assert (bench.replica.round, bench.replica.committed.height) == (4, 2)
    bench.replica.witness.pool = {charge_of(piece): piece for piece in pieces}
    return bench


def test_evidence_is_work_for_the_leader_that_holds_it() -> None:
    """An idle leader waits; with evidence it proposes at once."""
    assert proposals(accuser().after(4_999)) == []
    (made,) = proposals(accuser(double_vote(3)).after(0))
    assert made.evidence == (encode(double_vote(3)),)
    due = block(chain(1, 2, 3)[-1], 4, evidence=[double_vote(3)])
    assert made.header == replace(due.header, time_ms=made.header.time_ms)


def test_evidence_that_comes_while_the_leader_waits_is_brought_at_once() -> None:
    bench = accuser()
    bench.hear(3, vote(3, block(None, 4)))
    assert [len(p.evidence) for p in proposals(bench.hear(3, vote(3, block(None, 4, time_ms=1))))] == [1]


def test_evidence_that_others_do_not_know_of_shortens_no_timer() -> None:
    """A member that gave up alone would take its own vote from the leader's round."""
    bench = accuser(double_vote(3), me=1)
    assert timeouts(bench.after(5_499)) == []
    assert [t.round for t in timeouts(bench.after(1))] == [4]


def test_a_lock_violation_is_no_work_before_it_is_ripe() -> None:
    bench = accuser(lock_violation(3))
    assert proposals(bench.after(0)) == []
    bench.replica.court.executed_round = 3
    assert len(proposals(bench.after(0))) == 1


def test_a_block_with_evidence_is_not_plain() -> None:
    """The next leader proposes at once, until the block is committed."""
    third = block(chain(1, 2)[-1], 3, evidence=[double_vote(3)])
    assert accuser().replica.safety.last_proposed_round == 0
    assert accuser(last=third).replica.safety.last_proposed_round == 4


def test_evidence_on_the_branch_is_not_brought_again_and_that_of_a_lost_block_is() -> None:
    first = block(None, 1, evidence=[double_vote(3)])
    for on_branch in (True, False):
        bench = Bench(me=2, blocks=[first])
        bench.replica.witness.pool = {charge_of(double_vote(3)): double_vote(3)}
        effects = bench.learn(certify(first)) if on_branch else bench.hear(0, time_out(1))
        assert [p.evidence for p in proposals(effects)] == [() if on_branch else first.evidence]


def test_committed_evidence_leaves_the_pool() -> None:
    first = block(None, 1, evidence=[double_vote(3)])
    bench = Bench(me=0, blocks=[first])
    bench.replica.witness.pool = {charge_of(double_vote(3)): double_vote(3), charge_of(double_vote(2)): double_vote(2)}
    bench.propose(block(first, 2))
    assert committed(bench.learn(certify(block(first, 2)))) == [1]
    assert sorted(bench.replica.witness.pool) == [(2, EvidenceKind.DOUBLE_VOTE)]
    assert bench.replica.committed.accused == {(3, EvidenceKind.DOUBLE_VOTE)}


# V11.


def judged(proposal: Proposal, *, blocks: tuple[Proposal, ...] = (), executed_round: int = 0) -> tuple[Any, Any]:
    """(votes, reports) of member 0 on a proposal."""
    bench = Bench(blocks=blocks)
    bench.replica.court.executed_round = executed_round
    if blocks:
        bench.learn(certify(blocks[-1]))
    effects = bench.propose(proposal)
    return votes(effects), [(e.what, e.detail) for e in of(effects, Report)]


@pytest.mark.parametrize("kind", KINDS)
def test_v11_a_block_with_valid_evidence_gets_a_vote(kind: EvidenceKind) -> None:
    proposal = block(None, 1, evidence=[PIECES[kind](3)])
    assert judged(proposal, executed_round=3) == ([vote_data(proposal)], [])


def test_v11_the_root_is_that_of_the_evidence() -> None:
    named = block(None, 1, evidence=[double_vote(3)])
    for wrong in (
        signed(replace(named, evidence=())),
        signed(replace(named, evidence=(encode(double_vote(2)),))),
        block(None, 1, evidence_root=b"\x01" * 32),
        block(None, 1, evidence=[double_vote(3)], evidence_root=ZERO),
    ):
        told = "the evidence is not the one that the header names"
        assert judged(wrong) == ([], [("bad_proposal", told)])


@pytest.mark.parametrize("kind", KINDS)
def test_v11_each_piece_is_proven(kind: EvidenceKind) -> None:
    """The others are, and the leader is told of; a second look costs nothing."""
    piece: Any = PIECES[kind](3)
    forged = changed(piece, "second", signature=bytes(len(piece.second.signature)))
    proposal = block(None, 1, evidence=[double_vote(2), forged])
    bench = Bench()
    bench.replica.court.executed_round = 3
    assert reports(bench.propose(proposal)) == [("evidence_unproven", 1)]
    counting = Counting()
    bench.replica.court.signatures = counting
    assert (votes(bench.propose(proposal)), counting.verified) == ([], 0)


def test_v11_a_piece_has_its_form() -> None:
    said_twice = DoubleVote(double_vote(3).first, double_vote(3).first)  # type: ignore[arg-type]
    proposal = block(None, 1, evidence=[said_twice])
    assert judged(proposal) == ([], [("bad_proposal", "evidence of nothing")])


def test_v11_no_charge_twice_in_a_block() -> None:
    proposal = block(None, 1, evidence=[double_vote(3, 1), double_vote(3, 2)])
    assert judged(proposal) == ([], [("bad_proposal", "evidence of one charge twice")])


def test_v11_no_charge_that_the_branch_has() -> None:
    """Also with another piece. On a branch without it the same block is good."""
    first = block(None, 1, evidence=[double_vote(3, 1)])
    again = block(first, 2, evidence=[double_vote(3, 2)])
    assert judged(again, blocks=(first,)) == ([], [("evidence_repeated", "round 2")])
    plain = block(None, 1)
    once = block(plain, 2, evidence=[double_vote(3, 2)])
    assert judged(once, blocks=(plain,)) == ([vote_data(once)], [])


def test_v11_an_excused_lock_gets_no_vote() -> None:
    bench = Bench()
    bench.replica.court.executed_round = 3
    bench.replica.court.statement_rounds[3] = 3
    assert reports(bench.propose(block(None, 1, evidence=[lock_violation(3)]))) == [("evidence_excused", 1)]


def test_v11_a_lock_violation_is_judged_when_all_is_executed_that_could_excuse_it() -> None:
    """The block waits within its round; the execution of a block of the timeout's round decides, one way or the other."""
    blocks = chain(1, 2, 3, 4)
    accusing = block(blocks[-1], 5, evidence=[lock_violation(0, voted=2, timed_out=2, told=0)], **tells(executed(0)))
    bench = Bench(me=2)
    for proposal in blocks:
        bench.propose(proposal)
    bench.learn(certify(blocks[-1]))
    assert bench.replica.committed.round == 3
    bench.step(executed(1))
    effects = bench.propose(accusing)
    assert (votes(effects), reports(effects)) == ([], [])
    assert votes(bench.step(executed(2))) == [vote_data(accusing)]


# On the chain, and after a restart.


def test_what_a_branch_accuses_of_follows_from_its_blocks() -> None:
    """The driver replays the log with the same function, so that a restart judges as before."""
    first = block(None, 1, evidence=[double_vote(3), double_batch(2)])
    second = block(first, 2, evidence=[double_proposal(3)])
    genesis = Root.genesis(CHAIN_ID, 0)
    assert genesis.accused == frozenset()
    both = genesis.child(first).child(second)
    assert both.accused == {charge_of(p) for p in (double_vote(3), double_batch(2), double_proposal(3))}
    assert genesis.child(first).child(block(first, 2)).accused == genesis.child(first).accused
    bench = Bench(me=0, root=both, known=[executed(2)])
    for statement in (double_vote(3).first, double_vote(3).second):
        bench.hear(3, statement)  # type: ignore[arg-type]
    assert bench.replica.witness.pool == {}, "the chain has it"
    assert bench.replica.court.executed_round == 2


def test_a_replica_whose_contract_is_behind_its_root_knows_no_round_executed() -> None:
    root = Root.genesis(CHAIN_ID, 0).child(block(None, 1))
    assert Bench(root=root, known=[executed(0)]).replica.court.executed_round == 0


def test_an_honest_replica_is_accused_by_nothing_that_it_sends_in_its_life() -> None:
    """Everything that four honest replicas broadcast, over timeouts and restarts, told twice to a witness."""
    heard: list[Any] = []
    record = None
    blocks = chain(1, 2, 3)
    for life in range(3):
        bench = Bench(me=2, safety=record, blocks=blocks[:life])
        effects = list(bench.first)
        for proposal in blocks:
            effects += bench.propose(proposal)
        effects += bench.after(20_000) + bench.after(20_000)
        record = bench.replica.safety
        heard += [e.message for e in of(effects, Broadcast)]
    made = witness()
    sent = {type(message).__name__ for message in heard}
    assert {"Vote", "Timeout"} <= sent
    for message in heard + heard[::-1]:
        if isinstance(message, Vote):
            assert made.hears_vote(replace(message, signature=vote_of(2, message.data).signature)) == []
        elif hasattr(message, "last_tc"):
            told = signed_timeout(2, message.round, message.high_qc.round)
            assert timeout_as_signed(replace(message, signature=told.signature)) == told
            assert made.hears_timeout(told) == []
