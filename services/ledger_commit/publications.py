"""What a proven result becomes for the world: settlements for its parties, status steps for its payer's raw stream.

Pure: results and proofs in, records out. The same result gives the same records from whichever replica publishes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from claimledger.events.v1 import events_pb2
from claimledger.ledger.v1 import ledger_pb2
from claims.identifiers import control_number
from claims.result import ClaimResult, Outcome
from claims.status import AFTER_REVIEW_STEP, STEP_OF, Status
from claims.transaction import ReasonClass, RefusalReason
from runtime import status_batches
from runtime.network import Network
from runtime.stage import Out, make_out
from runtime.topics import BLOCKS, PUBLISHER, SETTLEMENTS

CURSOR_KEY: Final = b"cursor"
_STATUS: Final = {
    Outcome.SETTLED: Status.SETTLED,
    Outcome.DENIED: Status.DENIED,
    Outcome.PENDED: Status.PENDED,
    Outcome.REFUSED: Status.REFUSED,
    Outcome.REVERSED: Status.REVERSED,
}


@dataclass(frozen=True, slots=True)
class Proven:
    """A claim's result with its proof, serialised; `ordered_ms` is the time of its block."""

    leaf: int
    result: ClaimResult
    proof: bytes
    ordered_ms: int


def parties_of(result: ClaimResult) -> list[tuple[str, str]]:
    """Each organisation once, with its first part: submitter, payer, payee; of a refused repeat its sender alone."""
    if result.refusal == RefusalReason.VERSION_SPENT:
        return [(result.submitter, "submitter")]
    parts: dict[str, str] = {}
    for organisation, part in (
        (result.submitter, "submitter"),
        (result.payer, "payer"),
        (result.payee, "payee"),
    ):
        parts.setdefault(organisation, part)
    return list(parts.items())


def settlement_records(proven: Iterable[Proven], network: Network) -> list[Out]:
    """One record for each party that is an organisation of the network."""
    topics = {o.id: network.topic(SETTLEMENTS, o.id).name for o in network.organisations}
    outs = []
    for item in proven:
        subject = control_number(item.result.claim_ref).encode()
        for organisation, part in parties_of(item.result):
            if topic := topics.get(organisation):
                headers = (("party", part.encode()), ("ce_subject", subject))
                event = f"{item.leaf}/{part}"
                outs.append(
                    make_out(topic, item.result.claim_ref, item.proof, SETTLEMENTS.schema, event, headers=headers)
                )
    return outs


def status_steps(item: Proven) -> list[events_pb2.StatusEvent]:
    """ORDERED and the outcome; a review's outcome alone. A refused repeat never moves the claim it repeats."""
    result = item.result
    if result.refusal == RefusalReason.VERSION_SPENT:
        return []
    outcome = _STATUS[result.outcome]
    steps = [(outcome, AFTER_REVIEW_STEP if result.step else STEP_OF[outcome], detail_of(result))]
    if result.step == 0:
        steps.insert(0, (Status.ORDERED, STEP_OF[Status.ORDERED], f"height {result.height}"))
    return [
        events_pb2.StatusEvent(
            claim_ref=result.claim_ref,
            version=result.version,
            status=status.value,  # type: ignore[arg-type]
            step=step,
            time_ms=item.ordered_ms,
            submitter=result.submitter,
            payer=result.payer,
            payee=result.payee,
            detail=detail,
        )
        for status, step, detail in steps
    ]


def detail_of(result: ClaimResult) -> str:
    """Reason words and adjustment codes, never contents."""
    if result.refusal:
        return RefusalReason(result.refusal).name
    words = [result.reason.name] if result.reason is not ReasonClass.NONE else []
    if result.outcome is Outcome.DENIED:
        words += sorted({f"{a.group.name}-{a.carc}" for line in result.lines for a in line.adjustments})
    return " ".join(words)


def status_records(proven: Iterable[Proven], network: Network) -> list[Out]:
    """Batches for each payer's raw status topic."""
    payers = frozenset(network.payers)
    by_payer: dict[str, list[events_pb2.StatusEvent]] = {}
    for item in proven:
        if item.result.payer in payers:
            by_payer.setdefault(item.result.payer, []).extend(status_steps(item))
    return [
        out
        for payer, events in by_payer.items()
        for out in status_batches.status_records(payer, network.buckets, events, network.topic_prefix)
    ]


def block_records(blocks: Sequence[ledger_pb2.Block], network: Network) -> list[Out]:
    """One record for each directly committed block."""
    return [
        Out(
            network.topic(BLOCKS).name,
            block.height.to_bytes(8, "big"),
            ledger_pb2.BlockEvent(block=block).SerializeToString(),
            BLOCKS.schema,
            str(block.height),
            partition=0,
            sealed=False,
        )
        for block in blocks
    ]


def cursor_record(next_leaf: int, block_height: int, network: Network) -> Out:
    """How far publishing has come on the network's chain."""
    chain_id = bytes.fromhex(network.chain_id)
    cursor = ledger_pb2.PublisherCursor(next_leaf=next_leaf, block_height=block_height, chain_id=chain_id)
    topic, event = network.topic(PUBLISHER).name, f"{next_leaf}/{block_height}"
    return Out(topic, CURSOR_KEY, cursor.SerializeToString(), PUBLISHER.schema, event, partition=0, sealed=False)
