"""apply(state, block): every entry of a committed block, in order, each taking effect whole or not at all.

An entry that names nobody (bytes that do not decode, signatures that do not hold) leaves no result: it is counted and
dropped. What is authentic but may not take effect is refused with a typed reason, once for each reason. Neither stops the
block.

Source: settlement.md, Identity of a claim; Transactions; Results; ADR 0025.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from claims.encoding import DecodeError
from claims.result import CLAIM_RESULT, TRANSACTION_RESULT, ClaimResult, TransactionResult
from claims.transaction import (
    ENTRY_SCORED_RECORD,
    ENTRY_TRANSACTION,
    RECORD,
    SCORED_RECORD,
    SIGNED_TRANSACTION,
    KeyUse,
    Kind,
    Record,
    ReviewClaim,
    ScoredRecord,
    SignedTransaction,
)
from ledger_commit.settlement.authenticity import Forgery, Verify, body_of, forgery_of, forgery_of_record
from ledger_commit.settlement.registry import apply_registry
from ledger_commit.settlement.review import apply_review
from ledger_commit.settlement.state import State
from ledger_commit.settlement.submission import submit_claim


@dataclass(frozen=True, slots=True)
class BlockInput:
    """A committed block as the contract sees it: entries of all its batches, in order."""

    height: int
    round: int
    time_ms: int
    entries: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Execution:
    """What a block did. `results` are the leaves added to the tree, `outcomes` the same decoded.

    `absorbed` counts repeats, `dropped` entries that named nobody; neither has a leaf.
    """

    height: int
    results: tuple[bytes, ...]
    outcomes: tuple[ClaimResult | TransactionResult, ...]
    absorbed: int
    dropped: int
    state_root: bytes
    results_size: int
    results_root: bytes


class _Block:
    """Collects the results of one block; gives each its index."""

    def __init__(self, state: State, height: int, verify: Verify) -> None:
        self.state = state
        self.height = height
        self.verify = verify
        self.outcomes: list[ClaimResult | TransactionResult] = []
        self.absorbed = 0
        self.dropped = 0

    def add(self, outcome: ClaimResult | TransactionResult | None) -> None:
        if outcome is None:
            self.absorbed += 1
        else:
            self.outcomes.append(outcome)

    @property
    def next_index(self) -> int:
        return len(self.outcomes)


def apply(state: State, block: BlockInput, verify: Verify) -> Execution:
    """Executes a block and advances `state` in place. Heights come one after the other."""
    assert block.height == state.height + 1, "blocks are executed in height order"
    state.round = block.round
    doing = _Block(state, block.height, verify)
    for entry in block.entries:
        _apply_entry(doing, entry)
    results = tuple(map(encode_result, doing.outcomes))
    for result in results:
        state.results.append(result)
    state.height = block.height
    state.close_block()
    return Execution(
        block.height,
        results,
        tuple(doing.outcomes),
        doing.absorbed,
        doing.dropped,
        state.root,
        len(state.results),
        state.results.root(),
    )


def encode_result(outcome: ClaimResult | TransactionResult) -> bytes:
    """The leaf."""
    if isinstance(outcome, ClaimResult):
        return CLAIM_RESULT.encode(outcome)
    return TRANSACTION_RESULT.encode(outcome)


def _apply_entry(block: _Block, entry: bytes) -> None:
    try:
        if entry[:1] == bytes((ENTRY_SCORED_RECORD,)):
            scored = SCORED_RECORD.decode(entry[1:])
            _apply_record(block, scored, RECORD.decode(scored.record))
        elif entry[:1] == bytes((ENTRY_TRANSACTION,)):
            _apply_transaction(block, SIGNED_TRANSACTION.decode(entry[1:]))
        else:
            block.dropped += 1
    except DecodeError:
        block.dropped += 1


def _apply_record(block: _Block, scored: ScoredRecord, record: Record) -> None:
    if not _record_is_authentic(block, scored, record):
        block.dropped += 1
        return
    for position, claim in enumerate(record.claims):
        pended = bool(scored.pend_bits[position // 8] >> (position % 8) & 1)
        outcome = submit_claim(
            block.state,
            record.prefix.organisation,
            claim,
            pended=pended,
            height=block.height,
            index=block.next_index,
        )
        block.add(outcome)


def _record_is_authentic(block: _Block, scored: ScoredRecord, record: Record) -> bool:
    """Right chain and kind, the payer's own claims, not expired, and both of the payer's signatures hold.

    Verified once for all its claims. A payer must not name another as payer: the refusal would spend that claim's version.
    """
    prefix, state = record.prefix, block.state
    if prefix.chain_id != state.chain_id or prefix.kind is not Kind.RECORD:
        return False
    if prefix.expires_height and block.height > prefix.expires_height:
        return False
    if len(scored.pend_bits) != -(-len(record.claims) // 8):
        return False
    if any(claim.payer != prefix.organisation for claim in record.claims):
        return False
    pricing = state.key_for(prefix.organisation, prefix.key_id, KeyUse.PRICING, block.height)
    scoring = state.key_for(prefix.organisation, scored.scoring_key_id, KeyUse.SCORING, block.height)
    if pricing is None or scoring is None:
        return False
    return forgery_of_record(state, scored, block.verify) is None


def _apply_transaction(block: _Block, transaction: SignedTransaction) -> None:
    """Raises DecodeError for a body that is none."""
    state, identity = block.state, hashlib.sha256(transaction.body).digest()
    if identity in state.transactions:
        block.absorbed += 1
        return
    body = body_of(transaction)
    if isinstance(body, Forgery) or forgery_of(state, transaction, body, block.verify) is not None:
        block.dropped += 1
        return
    outcomes: Sequence[ClaimResult | TransactionResult]
    if isinstance(body, ReviewClaim):
        outcomes = apply_review(state, transaction, body, identity, block.height, block.next_index)
    else:
        outcomes = [apply_registry(state, transaction, body, identity, block.height, block.next_index)]
    if outcomes[0].refusal and not state.refuse_once(identity, outcomes[0].refusal):
        block.absorbed += 1
        return
    for outcome in outcomes:
        block.add(outcome)
