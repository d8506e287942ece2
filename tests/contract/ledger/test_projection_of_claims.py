"""What the projection says of a claim after the contract has executed blocks about it."""

from pathlib import Path

from claims.result import CLAIM_RESULT, ClaimResult, Outcome
from ledger_commit.consensus.messages import Header
from ledger_commit.settlement import Execution
from ledger_commit.store import Projected, Projection
from tests.fixtures.ledger_world import CHAIN_ID, ZERO, LedgerWorld, claim, line, ref, scored_entry


def projected(execution: Execution) -> Projected:
    """The executed block behind a header that only has to be there."""
    height = execution.height
    numbers = (1, 0, height, height, 0, ZERO, ZERO, ZERO, ZERO, height, 0, ZERO, 0, ZERO, ZERO, 0, ZERO, ZERO, ZERO)
    header = Header(CHAIN_ID, *numbers)
    first_leaf = execution.results_size - len(execution.results)
    return Projected(header, height.to_bytes(32, "big"), "aurora", None, 0, 0, first_leaf, execution)


async def latest(projection: Projection, name: str) -> ClaimResult | None:
    row = await projection.latest_of(ref(name))
    return CLAIM_RESULT.decode(bytes(row.body)) if row else None


async def test_a_refused_repeat_does_not_become_the_claims_latest_result(tmp_path: Path) -> None:
    """Another organisation may send another claim under the same reference; the settled one stays what is shown."""
    world = LedgerWorld()
    world.plan()
    world.enroll("ada")
    world.block(scored_entry([claim("one", [line()])]))
    world.block(scored_entry([claim("one", [line()], submitter="cygnus", commitment=b"\x01" * 32)]))
    (refused,) = world.executions[-1].outcomes
    assert isinstance(refused, ClaimResult)
    assert refused.outcome is Outcome.REFUSED
    projection = Projection(f"sqlite:///{tmp_path}/projection.db")
    await projection.open()
    await projection.append([projected(execution) for execution in world.executions])
    shown = await latest(projection, "one")
    assert shown is not None
    assert (shown.outcome, shown.submitter) == (Outcome.SETTLED, "aurora")
    assert len(await projection.results(0, 10)) == len(world.state.results), "every leaf is there"
    await projection.close()
