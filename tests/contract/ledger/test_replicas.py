"""Replicas over real gRPC: they commit, catch up, come back from their directories, and let nobody else in."""

from typing import Any

import grpc
import pytest

from claimledger.ledger.v1 import ledger_pb2
from claims.transaction import (
    ENROLL_MEMBER,
    SIGNED_TRANSACTION,
    EnrollMember,
    Enrollment,
    Kind,
    PartySignature,
    Prefix,
    SignedTransaction,
    transaction_message,
)
from runtime.development import ORGANISATION_KEY_ID
from runtime.network import organisation_directory
from runtime.pki import load_signing_key
from tests.contract.ledger.conftest import REPLICAS, Replicas


def transaction(replicas: Replicas, sequence: int) -> bytes:
    """Names a plan that is not there, and so yields a refusal: one result."""
    chain = bytes.fromhex(replicas.network.chain_id)
    prefix = Prefix(chain, Kind.ENROLL_MEMBER, "aurora", ORGANISATION_KEY_ID, sequence, 0)
    body = ENROLL_MEMBER.encode(EnrollMember(prefix, "gold", 2026, (Enrollment(bytes(16), bytes(16), 1, 2),)))
    key = load_signing_key(organisation_directory(replicas.run, "aurora") / "organisation.ed25519")
    signature = PartySignature("aurora", ORGANISATION_KEY_ID, key.sign(transaction_message(body)))
    return SIGNED_TRANSACTION.encode(SignedTransaction(Kind.ENROLL_MEMBER, body, (signature,)))


async def submit(replicas: Replicas, replica: str, *sequences: int) -> list[bytes]:
    found = []
    async with replicas.calling(replica, "aurora") as stub:
        for sequence in sequences:
            request = ledger_pb2.SubmitTransactionRequest(transaction=transaction(replicas, sequence))
            answer = await stub.SubmitTransaction(request, wait_for_ready=True, timeout=10)
            found.append(answer.transaction_id)
    return found


async def same_roots(replicas: Replicas, results: int) -> None:
    statuses = [await replicas.executed(replica, results) for replica in REPLICAS]
    assert {s.results_size for s in statuses} == {results}
    assert len({(s.state_root, s.results_root) for s in statuses}) == 1


async def test_a_late_replica_catches_up_and_a_restarted_one_goes_on(replicas: Replicas) -> None:
    """Three commit alone; the fourth fetches blocks and batches that were never sent to it."""
    replicas.start(*REPLICAS[:3])
    await submit(replicas, "aurora", 1, 2, 3)
    await replicas.executed("aurora", 3)
    replicas.start("meridian")
    await same_roots(replicas, 3)
    await replicas.stop("borealis")
    await submit(replicas, "aurora", 4)
    await replicas.executed("meridian", 4)
    replicas.start("borealis")
    await same_roots(replicas, 4)
    assert not (await replicas.status("borealis")).not_voting


async def test_a_replica_without_its_safety_record_follows_and_does_not_vote(replicas: Replicas) -> None:
    replicas.start(*REPLICAS)
    await submit(replicas, "aurora", 1)
    await same_roots(replicas, 1)
    await replicas.stop("cygnus")
    (replicas.run / "data" / "replica-cygnus" / "safety.rec").unlink()
    replicas.start("cygnus")
    assert "the safety record is lost" in (await replicas.status("cygnus")).not_voting
    await submit(replicas, "aurora", 2)
    await same_roots(replicas, 2)
    await replicas.stop("borealis")
    await submit(replicas, "aurora", 3)
    with pytest.raises(TimeoutError):
        await replicas.executed("aurora", 3, seconds=2)


async def test_transactions_and_blocks_are_read_from_any_replica(replicas: Replicas) -> None:
    replicas.start(*REPLICAS)
    (identity,) = await submit(replicas, "borealis", 1)
    await same_roots(replicas, 1)
    heights = []
    for replica in REPLICAS:
        async with replicas.calling(replica, "riverside") as stub:
            told = await stub.GetTransaction(ledger_pb2.GetTransactionRequest(transaction_id=identity))
            listed = await stub.ListBlocks(ledger_pb2.ListBlocksRequest(from_height=1, page_size=2))
            one = await stub.GetBlock(ledger_pb2.GetBlockRequest(height=1))
            assert listed.blocks[0] == one.block or listed.blocks[0].id == one.block.id
            heights.append((told.result, [b.id for b in listed.blocks[:1]]))
            assert await code(stub.GetBlock(ledger_pb2.GetBlockRequest(height=10**6))) is grpc.StatusCode.NOT_FOUND
            absent = ledger_pb2.GetSettlementRequest(control_number="A" * 26)
            assert await code(stub.GetSettlement(absent)) is grpc.StatusCode.NOT_FOUND
            much = ledger_pb2.ListBlocksRequest(page_size=201)
            assert await code(stub.ListBlocks(much)) is grpc.StatusCode.INVALID_ARGUMENT
    assert heights[0][0]
    assert all(h == heights[0] for h in heights)


async def test_peer_service_is_for_the_replicas_of_the_committee(replicas: Replicas) -> None:
    replicas.start("aurora")
    await replicas.status("aurora")
    requests: dict[str, Any] = {
        "GetPosition": ledger_pb2.GetPositionRequest(),
        "GetLastSeen": ledger_pb2.GetLastSeenRequest(),
        "FetchBlocks": ledger_pb2.FetchBlocksRequest(from_height=1, to_height=2),
        "FetchBatches": ledger_pb2.FetchBatchesRequest(digests=[bytes(32)]),
        "Exchange": None,
    }
    assert set(requests) == {m.name for m in ledger_pb2.DESCRIPTOR.services_by_name["PeerService"].methods}
    for caller, service in (
        ("riverside", "client"),
        ("borealis", "client"),
        ("borealis", "fraud"),
        ("meridian", "intake"),
    ):
        async with replicas.peering("aurora", caller, service) as stub:
            for name, request in requests.items():
                call = getattr(stub, name)(iter([]) if request is None else request)
                assert await code(call) is grpc.StatusCode.PERMISSION_DENIED, (caller, service, name)
    async with replicas.peering("aurora", "borealis", "replica") as stub:
        assert (await stub.GetLastSeen(ledger_pb2.GetLastSeenRequest())).round == 0


async def code(call: Any) -> grpc.StatusCode:
    """The call's code, of an answer or a stream."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
