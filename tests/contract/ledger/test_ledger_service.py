"""LedgerService of four replicas over real mTLS: transactions, blocks, settlements with proofs, the stream of settlements.

One of the four starts late and catches up, so whatever is compared between replicas is compared with it too.
"""

import asyncio
import hashlib
import io
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
import pytest
import pytest_asyncio

from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from claims.identifiers import control_number
from claims.result import CLAIM_RESULT
from claims.transaction import SIGNED_TRANSACTION, Kind, PricedClaim, RefusalReason
from cli import bootstrap
from cli.__main__ import main
from cli.session import Session
from ledger_commit import store
from ledger_commit.consensus.messages import HEADER, block_id
from ledger_commit.ledger import Ledger
from ledger_commit.results import ProvenResults
from ledger_commit.servicer import MAX_TRANSACTION_BYTES, SUBSCRIBE_ROWS, SUBSCRIPTIONS_OF_ONE
from runtime.database import DatabaseAwayError
from runtime.errors import RemoteError, read_error
from runtime.identity import server_name
from runtime.network import GENESIS_FILE
from tests.contract.ledger.conftest import REPLICAS, Replicas, replicas_in
from tests.contract.ledger.handing_in import Clerk, told
from tests.fixtures.ledger_world import claim, line, ref
from verify_settlement import Verifier

pytestmark = pytest.mark.asyncio(loop_scope="module")
Code = grpc.StatusCode
LATE = "cygnus"
HUGE = 2**64 - 1
AURORAS, BOREALIS, SHARED = "auroras", "borealis'", "under one reference"


def claims_of(name: str, payer: str, payee: str, **changes: Any) -> PricedClaim:
    return claim(name, [line()], member="ada", submitter=payer, payer=payer, payee=payee, **changes)


@dataclass
class Settled:
    """A network on whose ledger something has happened, and who hands in more."""

    replicas: Replicas
    clerk: Clerk
    leaves: int = 0
    verifier: Verifier = field(init=False)

    def __post_init__(self) -> None:
        self.verifier = Verifier((self.replicas.run / GENESIS_FILE).read_bytes(), self.clerk.chain_id)

    async def settle(self, *claims: PricedClaim) -> None:
        """Hands each claim in as a record of its own and returns when every replica has executed them."""
        await self.clerk.claims(*[[each] for each in claims])
        await self.executed(len(claims))

    async def executed(self, results: int) -> None:
        self.leaves += results
        for replica in self.replicas.running:
            await self.replicas.executed(replica, self.leaves)

    async def proven(self, name: str) -> None:
        """Returns when every replica proves the result of the claim: some blocks after its execution."""
        async with asyncio.timeout(15):
            for replica in self.replicas.running:
                while isinstance(await settlement(self, name, "meridian", "client", replica), tuple):
                    await asyncio.sleep(0.02)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def settled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Settled]:
    """Two payers' claims, the last two under one reference; one replica was away while they were ordered."""
    replicas = replicas_in(tmp_path_factory.mktemp("ledger") / "run")
    replicas.start(*(r for r in REPLICAS if r != LATE))
    made = Settled(replicas, Clerk(replicas))
    founding = (made.clerk.plan("gold", "aurora", "borealis"), made.clerk.members("gold", "aurora", "ada"))
    identities = [await made.clerk.submit(transaction) for transaction in founding]
    assert [(await made.clerk.result(identity)).refusal for identity in identities] == [0, 0]
    made.leaves = len(founding)
    await made.settle(
        claims_of(AURORAS, "aurora", "riverside"),
        claims_of(BOREALIS, "borealis", "lakeside"),
        claims_of(SHARED, "aurora", "riverside"),
        claims_of(SHARED, "borealis", "lakeside", commitment=bytes(32)),
    )
    replicas.start(LATE)
    await made.executed(0)
    await made.proven(SHARED)
    yield made
    await replicas.stop_all()


async def refused(call: Any) -> RemoteError:
    """The error of a call or of a stream."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (drain(call) if hasattr(call, "__aiter__") else call)
    return read_error(caught.value)


async def drain(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


# Transactions.


async def test_a_transaction_is_named_by_its_body_and_every_replica_tells_its_result(settled: Settled) -> None:
    transaction = settled.clerk.members("gold", "aurora", "ben")
    identity = await settled.clerk.submit(transaction, replica="borealis")
    await settled.executed(1)
    assert identity == hashlib.sha256(SIGNED_TRANSACTION.decode(transaction).body).digest()
    results = [await settled.clerk.result(identity, replica) for replica in REPLICAS]
    assert results == results[:1] * len(REPLICAS)
    assert (results[0].kind, results[0].refusal) == (Kind.ENROLL_MEMBER, 0)


async def test_what_was_executed_is_absorbed_when_it_comes_again(settled: Settled) -> None:
    """The same bytes from another caller at another replica: the same id, and neither a leaf nor another result."""
    transaction = settled.clerk.members("gold", "aurora", "cleo")
    identity = await settled.clerk.submit(transaction)
    await settled.executed(1)
    first = await settled.clerk.result(identity)
    assert await settled.clerk.submit(transaction, LATE, "borealis") == identity
    await settled.clerk.submit(settled.clerk.members("gold", "aurora", "dana"), LATE)
    await settled.executed(1)
    assert await settled.clerk.result(identity) == first


def forged(transaction: bytes, place: int = 0) -> bytes:
    """With one bit of one signature flipped."""
    signed = SIGNED_TRANSACTION.decode(transaction)
    signatures = list(signed.signatures)
    flipped = bytes((signatures[place].signature[0] ^ 1,)) + signatures[place].signature[1:]
    signatures[place] = replace(signatures[place], signature=flipped)
    return SIGNED_TRANSACTION.encode(replace(signed, signatures=tuple(signatures)))


def of_another_chain(clerk: Clerk) -> bytes:
    """Signed by the right organisation, for another genesis."""
    signed = SIGNED_TRANSACTION.decode(clerk.members("gold", "aurora", "ada"))
    body = signed.body.replace(clerk.chain_id, bytes(32))
    assert body != signed.body
    return clerk.signed(signed.kind, body, "aurora")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda clerk: clerk.members("gold", "cygnus", "ada"), RefusalReason.NOT_AUTHORISED),
        (of_another_chain, RefusalReason.WRONG_CHAIN),
        (lambda clerk: clerk.members("iron", "aurora", "ada"), RefusalReason.UNKNOWN_PLAN),
    ],
)
async def test_what_the_contract_refuses_is_ordered_and_its_result_says_why(
    settled: Settled, change: Any, reason: RefusalReason
) -> None:
    """Who may do what is decided by the replicas together; at the door of one of them only whether it was signed."""
    identity = await settled.clerk.submit(change(settled.clerk))
    await settled.executed(1)
    assert (await settled.clerk.result(identity, LATE)).refusal == reason


async def test_a_refusal_that_is_repeated_leaves_no_other_leaf(settled: Settled) -> None:
    """Handed in three times at two replicas; what follows is executed behind all of them."""
    transaction = settled.clerk.members("iron", "aurora", "eve")
    for replica in ("aurora", "borealis", "aurora"):
        identity = await settled.clerk.submit(transaction, replica)
    await settled.executed(1)
    for replica in ("aurora", "borealis"):
        await settled.clerk.submit(settled.clerk.members("gold", "aurora", f"behind {replica}"), replica)
    await settled.executed(2)
    assert (await settled.replicas.status("aurora")).results_size == settled.leaves
    assert (await settled.clerk.result(identity)).refusal == RefusalReason.UNKNOWN_PLAN


async def test_who_hands_in_again_what_was_refused_is_told_why_each_time(
    settled: Settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second time on there is no result that could be waited for."""
    monkeypatch.setattr(bootstrap, "AGAIN_WITHIN_S", 0.5)
    transaction = SIGNED_TRANSACTION.decode(settled.clerk.members("iron", "aurora", "eve once more"))
    session = Session(settled.replicas.run, "aurora", settled.replicas.network)

    def hand_in() -> None:
        with session.replica() as channel:
            bootstrap.order(channel, [transaction])

    for _ in range(3):
        with pytest.raises(bootstrap.BootstrapError, match="UNKNOWN_PLAN"):
            await asyncio.to_thread(hand_in)
    await settled.executed(1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda clerk: forged(clerk.members("gold", "aurora", "ada")), "signatures[0]"),
        (lambda clerk: forged(clerk.plan("gold", "aurora", "borealis"), 1), "signatures[1]"),
        (lambda clerk: in_the_name_of(clerk, "borealis"), "signatures"),
        (lambda clerk: clerk.signed(Kind.RECORD, b"body", "aurora"), "kind"),
        (lambda clerk: clerk.signed(Kind.ENROLL_MEMBER, b"body", "aurora"), "body"),
    ],
    ids=["forged", "one of two forged", "in another's name", "a record", "no body"],
)
async def test_what_nobody_signed_is_refused_at_the_door_and_is_never_ordered(
    settled: Settled, change: Any, field: str
) -> None:
    transaction = change(settled.clerk)
    async with settled.replicas.calling("aurora", "aurora") as stub:
        error = await refused(stub.SubmitTransaction(ledger_pb2.SubmitTransactionRequest(transaction=transaction)))
    assert (error.code, [v.field for v in error.violations]) == ("INVALID_ARGUMENT", [f"transaction.{field}"])


def in_the_name_of(clerk: Clerk, organisation: str) -> bytes:
    """Signed by aurora."""
    body = SIGNED_TRANSACTION.decode(clerk.members("gold", organisation, "ada")).body
    return clerk.signed(Kind.ENROLL_MEMBER, body, "aurora")


@pytest.mark.parametrize(
    ("transaction", "field"),
    [
        (b"", "transaction"),
        (b"\x01\xff", "transaction"),
        (bytes(MAX_TRANSACTION_BYTES + 1), "transaction"),
    ],
    ids=["empty", "no encoding", "over-long"],
)
async def test_what_is_no_transaction_is_refused_at_the_door(settled: Settled, transaction: bytes, field: str) -> None:
    async with settled.replicas.calling("aurora", "aurora") as stub:
        error = await refused(stub.SubmitTransaction(ledger_pb2.SubmitTransactionRequest(transaction=transaction)))
    assert (error.code, [v.field for v in error.violations]) == ("INVALID_ARGUMENT", [field])


@pytest.mark.parametrize("identity", [b"", bytes(31), bytes(33)])
async def test_an_id_that_is_none_is_refused(settled: Settled, identity: bytes) -> None:
    async with settled.replicas.calling("aurora", "aurora") as stub:
        error = await refused(stub.GetTransaction(ledger_pb2.GetTransactionRequest(transaction_id=identity)))
        unknown = await stub.GetTransaction(ledger_pb2.GetTransactionRequest(transaction_id=bytes(32)))
    assert (error.code, [v.field for v in error.violations]) == ("INVALID_ARGUMENT", ["transaction_id"])
    assert unknown.result == b""


# Blocks.


async def pages(stub: Any, size: int, first: int = 0) -> list[list[ledger_pb2.Block]]:
    """All pages up to the first empty one."""
    found: list[list[ledger_pb2.Block]] = []
    while True:
        asked = ledger_pb2.ListBlocksRequest(from_height=first, page_size=size)
        if not (page := list((await stub.ListBlocks(asked)).blocks)):
            return found
        found.append(page)
        first = page[-1].height + 1


async def test_blocks_come_in_pages_that_follow_one_another_and_make_a_chain(settled: Settled) -> None:
    async with settled.replicas.calling("borealis", "riverside") as stub:
        found = await pages(stub, 3)
        listed = [block for page in found for block in page]
        whole = list((await stub.ListBlocks(ledger_pb2.ListBlocksRequest())).blocks)
        one = (await stub.GetBlock(ledger_pb2.GetBlockRequest(height=2))).block
    assert [len(page) for page in found[:-1]] == [3] * (len(found) - 1)
    assert [block.height for block in listed] == list(range(1, len(listed) + 1))
    assert whole == listed[:50]
    assert one == listed[1]
    headers = [HEADER.decode(block.header) for block in listed]
    assert [block_id(header) for header in headers] == [block.id for block in listed]
    assert [header.parent_id for header in headers[1:]] == [block.id for block in listed[:-1]]
    assert {block.proposer for block in listed} <= set(REPLICAS)
    assert sum(block.results for block in listed) == settled.leaves


async def test_every_replica_has_the_same_blocks(settled: Settled) -> None:
    """Ids name whole headers; the one that was away has those too."""
    height = min([(await settled.replicas.status(replica)).executed_height for replica in REPLICAS])
    found = []
    for replica in REPLICAS:
        async with settled.replicas.calling(replica, "meridian") as stub:
            blocks = [block for page in await pages(stub, 200) for block in page]
            found.append([(b.id, b.results, b.entries) for b in blocks[:height]])
    assert len(found[0]) == height
    assert all(blocks == found[0] for blocks in found)


@pytest.mark.parametrize("height", [0, 10**6, 2**63, HUGE])
async def test_a_height_without_a_block_is_not_found(settled: Settled, height: int) -> None:
    async with settled.replicas.calling("aurora", "aurora") as stub:
        error = await refused(stub.GetBlock(ledger_pb2.GetBlockRequest(height=height)))
        after = await stub.ListBlocks(ledger_pb2.ListBlocksRequest(from_height=height or HUGE))
    assert (error.code, str(height) in error.message) == ("NOT_FOUND", True)
    assert not after.blocks


async def test_a_page_has_a_bound(settled: Settled) -> None:
    async with settled.replicas.calling("aurora", "aurora") as stub:
        await stub.ListBlocks(ledger_pb2.ListBlocksRequest(page_size=200))
        error = await refused(stub.ListBlocks(ledger_pb2.ListBlocksRequest(page_size=201)))
    assert (error.code, [v.field for v in error.violations]) == ("INVALID_ARGUMENT", ["page_size"])


# Settlements.


async def settlement(settled: Settled, name: str, caller: str, service: str, replica: str = "aurora") -> Any:
    """The proof, or the error's code and message."""
    asked = ledger_pb2.GetSettlementRequest(control_number=control_number(ref(name)))
    async with settled.replicas.calling(replica, caller, service) as stub:
        try:
            return (await stub.GetSettlement(asked)).proof
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()


async def test_a_settlement_is_proven_by_the_stand_alone_verifier_from_every_replica(settled: Settled) -> None:
    for replica in REPLICAS:
        found = await settlement(settled, AURORAS, "aurora", "client", replica)
        verified = settled.verifier.verify(found.SerializeToString())
        assert verified.result["claim_ref"] == ref(AURORAS).hex()
        assert (verified.result["outcome"], verified.result["paid_cents"]) == ("SETTLED", 10_000)
        assert CLAIM_RESULT.decode(found.result).payer == "aurora"


@pytest.mark.parametrize(
    ("caller", "service", "own"),
    [
        ("aurora", "client", True),
        ("aurora", "analyst", True),
        ("aurora", "validation", True),
        ("riverside", "client", True),
        ("meridian", "client", True),
        ("cygnus", "replica", True),
        ("borealis", "client", False),
        ("borealis", "analyst", False),
        ("borealis", "fraud", False),
        ("lakeside", "client", False),
        ("meridian", "intake", False),
    ],
)
async def test_a_settlement_exists_for_its_parties_regulators_and_replicas(
    settled: Settled, caller: str, service: str, own: bool
) -> None:
    """A foreign one is, in code and message, one that does not exist (B3); the stream does not have it either."""
    absent = await settlement(settled, "never handed in", caller, service)
    found = await settlement(settled, AURORAS, caller, service)
    assert absent[0] is Code.NOT_FOUND
    assert (found != absent) is own
    async with settled.replicas.calling("aurora", caller, service) as stub:
        streamed = await told(stub, "", 1) if own else await until_silent(stub)
    results = [CLAIM_RESULT.decode(item.proof.result) for item in streamed]
    assert (ref(AURORAS) in [result.claim_ref for result in results]) is own


async def until_silent(stub: Any) -> list[ledger_pb2.SubscribeSettlementsResponse]:
    """What a new subscription is told before it waits."""
    found = []
    stream = stub.SubscribeSettlements(ledger_pb2.SubscribeSettlementsRequest(), timeout=0.25)
    try:
        async for item in stream:
            found.append(item)  # noqa: PERF401 - what came before the deadline counts
    except grpc.aio.AioRpcError as error:
        assert error.code() is Code.DEADLINE_EXCEEDED  # noqa: PT017
    return found


async def until_admitted(stub: Any) -> list[ledger_pb2.SubscribeSettlementsResponse]:
    """The first settlement of a new subscription, as soon as there is room for one."""
    async with asyncio.timeout(5):
        while True:
            try:
                return await told(stub, "", 1)
            except grpc.aio.AioRpcError as error:
                assert error.code() is Code.RESOURCE_EXHAUSTED  # noqa: PT017
                await asyncio.sleep(0.02)


async def test_a_claim_of_others_under_the_same_reference_hides_nothing(settled: Settled) -> None:
    """References are drawn by submitters; one who uses another's settles a claim of his own and takes none away."""
    found = {
        payer: CLAIM_RESULT.decode((await settlement(settled, SHARED, payer, "client")).result).payer
        for payer in ("aurora", "borealis")
    }
    assert found == {"aurora": "aurora", "borealis": "borealis"}


@pytest.mark.parametrize("number", ["", "A" * 25, "A" * 27, "0" * 26, "é" * 26])
async def test_what_is_no_control_number_is_refused(settled: Settled, number: str) -> None:
    async with settled.replicas.calling("aurora", "aurora") as stub:
        error = await refused(stub.GetSettlement(ledger_pb2.GetSettlementRequest(control_number=number)))
    assert (error.code, [v.field for v in error.violations]) == ("INVALID_ARGUMENT", ["control_number"])


# The stream of settlements.


async def everything(settled: Settled, replica: str, count: int, cursor: str = "") -> list[tuple[str, int, bytes]]:
    """Cursor, leaf and result of the next settlements as the regulator is told them; each proof is verified."""
    async with settled.replicas.calling(replica, "meridian") as stub:
        items = await told(stub, cursor, count)
    for item in items:
        settled.verifier.verify(item.proof.SerializeToString())
    return [(item.cursor, item.proof.leaf_index, item.proof.result) for item in items]


async def test_every_replica_tells_the_same_settlements(settled: Settled) -> None:
    """Whoever withholds is found out by asking another one, and a subscriber may change replicas in the middle.

    Results, their order and their cursors are the same bytes everywhere. A certificate has the signers whose votes came
    first to the replica that tells it, so that one proof may differ from another of the same leaf; both hold.
    """
    found = {replica: await everything(settled, replica, 4) for replica in REPLICAS}
    assert all(items == found[LATE] for items in found.values())
    assert [leaf for _, leaf, _ in found[LATE]] == [2, 3, 4, 5]
    middle = found[LATE][1][0]
    for replica in REPLICAS:
        assert await everything(settled, replica, 2, middle) == found[LATE][2:]


@dataclass
class Watched:
    """What subscriptions cost: pages read, proofs made, and whether the loop had a turn between two pages."""

    pages: list[int] = field(default_factory=list)
    proofs: int = 0
    turns: int = 0

    async def turn(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.turns += 1


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Counts calls of the real parts."""
    seen, page, prove = Watched(), ProvenResults.bodies, Ledger.prove

    async def bodies(results: ProvenResults, first: int, count: int) -> list[bytes]:
        seen.pages.append(seen.turns)
        return await page(results, first, count)

    def proof(ledger: Ledger, leaf: int, result: bytes) -> Any:
        seen.proofs += 1
        return prove(ledger, leaf, result)

    monkeypatch.setattr(ProvenResults, "bodies", bodies)
    monkeypatch.setattr(Ledger, "prove", proof)
    return seen


async def test_a_subscriber_at_the_end_waits_and_is_told_what_comes(settled: Settled, watched: Watched) -> None:
    """It waits without asking the ledger again and again."""
    async with settled.replicas.calling("borealis", "aurora") as stub:
        own = await until_silent(stub)
        stream = stub.SubscribeSettlements(ledger_pb2.SubscribeSettlementsRequest(cursor=own[-1].cursor))
        waiting = asyncio.create_task(stream.read())
        await asyncio.sleep(0.1)
        asked = len(watched.pages)
        await asyncio.sleep(0.2)
        assert not waiting.done()
        assert len(watched.pages) - asked <= 1
        await settled.settle(claims_of("a foreign one", "borealis", "lakeside"))
        await settled.settle(claims_of("the next one", "aurora", "riverside"))
        item = await asyncio.wait_for(waiting, 5)
        stream.cancel()
    assert CLAIM_RESULT.decode(item.proof.result).claim_ref == ref("the next one")
    assert int(item.cursor) == item.proof.leaf_index == settled.leaves - 1


async def test_a_cursor_beyond_the_end_waits_for_the_end_to_come(settled: Settled) -> None:
    """Another replica may have been ahead of this one when it gave the cursor."""
    async with settled.replicas.calling(LATE, "aurora") as stub:
        stream = stub.SubscribeSettlements(ledger_pb2.SubscribeSettlementsRequest(cursor=str(settled.leaves)))
        waiting = asyncio.create_task(stream.read())
        await settled.settle(claims_of("before it", "aurora", "riverside"))
        await settled.settle(claims_of("behind it", "aurora", "riverside"))
        item = await asyncio.wait_for(waiting, 5)
        stream.cancel()
    assert CLAIM_RESULT.decode(item.proof.result).claim_ref == ref("behind it")


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", " 1", "\u0661", "1" * 19])
async def test_a_cursor_that_is_none_is_named(settled: Settled, cursor: str) -> None:
    async with settled.replicas.calling("aurora", "aurora") as stub:
        error = await refused(stub.SubscribeSettlements(ledger_pb2.SubscribeSettlementsRequest(cursor=cursor)))
    assert (error.code, [v.field for v in error.violations]) == ("INVALID_ARGUMENT", ["cursor"])
    assert repr(cursor) in error.message


async def test_streams_end_when_the_replica_stops_and_go_on_behind_the_cursor_after_it(settled: Settled) -> None:
    """UNAVAILABLE is what a client takes for "try again"; after the restart the rest is what it was."""
    before = await everything(settled, "borealis", 4)
    async with settled.replicas.calling("borealis", "meridian") as stub:
        stream = stub.SubscribeSettlements(ledger_pb2.SubscribeSettlementsRequest())
        for _ in before:
            await stream.read()
        rest = asyncio.create_task(refused(stream))
        async with asyncio.timeout(5):
            await settled.replicas.stop("borealis")
            assert (await rest).code == "UNAVAILABLE"
    settled.replicas.start("borealis")
    await settled.executed(0)
    assert await everything(settled, "borealis", 2, before[1][0]) == before[2:]


# The command line, as a person uses it against these replicas.


async def claimledger(settled: Settled, *arguments: str) -> tuple[int, str, str]:
    """How the command ends and what it writes, run beside this loop, in which the replicas are."""
    out, err, around = io.StringIO(), io.StringIO(), {"CLAIMLEDGER_RUN": str(settled.replicas.run), "COLUMNS": "200"}

    def run() -> int:
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    with (
        redirect_stdout(out), redirect_stderr(err), patch.dict(os.environ, around),
        patch.object(sys, "argv", ["claimledger", *arguments]),
    ):  # fmt: skip
        code = await asyncio.to_thread(run)
    return code, out.getvalue(), err.getvalue()


async def test_a_proof_is_fetched_kept_and_verified_by_command(settled: Settled, tmp_path: Path) -> None:
    number, file = control_number(ref(AURORAS)), str(tmp_path / "kept.proof")
    code, out, _ = await claimledger(settled, "proof", number, "--out", file, "--org", "riverside")
    assert (code, out.startswith(f"{number}  SETTLED  aurora → riverside  charge 100.00  paid 100.00")) == (0, True)
    code, out, _ = await claimledger(settled, "verify", file, "--json")
    told = json.loads(out)
    assert (code, told["verified"], told["result"]["claim_ref"]) == (0, True, ref(AURORAS).hex())


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (control_number(ref(AURORAS)), "NOT_FOUND: there is no such settlement (a claim exists for its submitter"),
        (control_number(ref("never handed in")), "NOT_FOUND: there is no such settlement (a claim exists for its submitter"),
        ("short", "'short' is no claim control number: 26 characters"),
    ],
    ids=["foreign", "unknown", "no reference"],
)  # fmt: skip
async def test_a_proof_that_there_is_not_says_so_and_writes_no_file(
    settled: Settled, tmp_path: Path, number: str, message: str
) -> None:
    file = tmp_path / "kept.proof"
    code, out, err = await claimledger(settled, "proof", number, "--out", str(file), "--org", "borealis", "--json")
    assert (code, out, file.exists()) == (1, "", False)
    assert message in json.loads(err)["error"]


async def test_tail_resumes_behind_its_cursor(settled: Settled) -> None:
    first = (await claimledger(settled, "tail", "settlements", "-n", "2", "--org", "aurora", "--json"))[1]
    rows = [json.loads(line) for line in first.splitlines()]
    assert [row["control_number"] for row in rows] == [control_number(ref(name)) for name in (AURORAS, SHARED)]
    again = ("tail", "settlements", "-n", "1", "--cursor", rows[0]["cursor"], "--org", "aurora", "--json")
    assert (await claimledger(settled, *again))[1].splitlines() == first.splitlines()[1:]


async def test_a_cursor_that_is_none_is_told_to_the_person_with_its_name(settled: Settled) -> None:
    code, out, err = await claimledger(settled, "tail", "settlements", "--cursor", "yesterday", "--json")
    assert (code, out) == (1, "")
    assert "cursor: 'yesterday' is no cursor of this service" in json.loads(err)["error"]


async def test_subscriptions_of_an_organisation_are_bounded_and_leave_room_for_others(settled: Settled) -> None:
    asked = ledger_pb2.SubscribeSettlementsRequest()
    async with settled.replicas.calling("aurora", "riverside") as stub:
        streams = [stub.SubscribeSettlements(asked) for _ in range(SUBSCRIPTIONS_OF_ONE)]
        for stream in streams:
            await asyncio.wait_for(stream.read(), 5)
        error = await asyncio.wait_for(refused(stub.SubscribeSettlements(asked)), 5)
        async with settled.replicas.calling("aurora", "aurora") as other:
            await told(other, "", 1)
        streams[0].cancel()
        assert await until_admitted(stub)
    assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS")
    assert f"riverside has {SUBSCRIPTIONS_OF_ONE} streams open" in error.message


@pytest.mark.parametrize(
    ("rpc", "asked"),
    [
        ("GetBlock", {"height": 1}),
        ("ListBlocks", {}),
        ("GetSettlement", {"control_number": control_number(ref(AURORAS))}),
        ("GetTransaction", {"transaction_id": bytes(32)}),
    ],
)
async def test_a_database_that_is_away_makes_reading_unavailable_for_a_while(
    settled: Settled, monkeypatch: pytest.MonkeyPatch, rpc: str, asked: dict[str, Any]
) -> None:
    """Whoever follows comes again then; an internal error would end them."""

    def away(_: object) -> Any:
        raise DatabaseAwayError("refused")

    monkeypatch.setattr(store, "transaction", away)
    async with settled.replicas.calling("aurora", "aurora") as stub:
        error = await refused(getattr(stub, rpc)(getattr(ledger_pb2, f"{rpc}Request")(**asked)))
    assert (error.code, error.reason, error.retry_after_ms) == ("UNAVAILABLE", "STORE", 1_000)


@pytest.mark.parametrize("rpc", ["SubmitTransaction", "GetStatus", "ListBlocks", "SubscribeSettlements"])
async def test_a_field_that_nobody_knows_is_refused_by_its_number(settled: Settled, rpc: str) -> None:
    request = getattr(ledger_pb2, f"{rpc}Request")()
    request.MergeFromString(b"\xa0\x06\x06")  # field 100, varint 6
    async with settled.replicas.calling("aurora", "aurora") as stub:
        error = await refused(getattr(stub, rpc)(request))
    assert (error.code, [v.field for v in error.violations]) == ("INVALID_ARGUMENT", ["request"])
    assert "100" in error.violations[0].description


MANY = 12 * SUBSCRIBE_ROWS
NARROW = (
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 64 * 1024),
    ("grpc.ssl_target_name_override", server_name("replica", "aurora")),
)
"""A connection that takes 64 KiB ahead of its reader and no more, however fast it is."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crowded(settled: Settled) -> Settled:
    """The same ledger with many pages of results."""
    await settled.clerk.claims(*many())
    await settled.executed(MANY)
    await settled.proven(f"number {MANY - 1}")
    return settled


async def test_a_reader_who_does_not_read_is_not_read_ahead_for(crowded: Settled, watched: Watched) -> None:
    """A stream holds a page and what the connection takes; the rest stays in the ledger until it is read."""
    key, chain, root = crowded.replicas.tls("aurora").read()
    credentials = grpc.ssl_channel_credentials(root, key, chain)
    async with grpc.aio.secure_channel(crowded.replicas.address("aurora"), credentials, NARROW) as channel:
        watched.pages.clear()
        stream = ledger_pb2_grpc.LedgerServiceStub(channel).SubscribeSettlements(
            ledger_pb2.SubscribeSettlementsRequest()
        )
        await stream.read()
        await asyncio.sleep(0.5)
        assert len(watched.pages) <= 2
        async with asyncio.timeout(10):
            while (await stream.read()).proof.leaf_index < crowded.leaves - 1:
                pass
        stream.cancel()
    assert len(watched.pages) > MANY // SUBSCRIBE_ROWS


async def test_pages_of_others_results_cost_no_proofs_and_do_not_hold_the_replica_up(
    crowded: Settled, watched: Watched
) -> None:
    """Consensus runs on the same loop: it has its turn between any two pages that the subscriber may not see."""
    ticking = asyncio.create_task(watched.turn())
    async with crowded.replicas.calling("aurora", "cygnus") as stub:
        assert await until_silent(stub) == []
    ticking.cancel()
    assert watched.proofs == 0
    assert len(watched.pages) > MANY // SUBSCRIBE_ROWS
    assert len(set(watched.pages)) == len(watched.pages)


def many() -> list[Sequence[PricedClaim]]:
    """Records of claims of somebody who is not enrolled: each is refused, and the refusal is a result."""
    made = [claims_of(f"number {n}", "aurora", "riverside", member_ref=ref("nobody")) for n in range(MANY)]
    return [made[start : start + 100] for start in range(0, MANY, 100)]
