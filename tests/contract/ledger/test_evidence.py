"""A member that signs two votes is on the chain with both, for everyone to see and check."""

import asyncio
from itertools import count
from typing import Any

from claimledger.ledger.v1 import ledger_pb2
from ledger_commit.consensus.evidence import Court, DoubleVote, decode, form_error
from ledger_commit.consensus.messages import VOTE, ZERO, Vote, VoteData, vote_message
from ledger_commit.keys import load_keys, verify_ed25519
from ledger_commit.opening import committee_of, read_genesis
from runtime.bls import Bls, backend
from runtime.network import GENESIS_FILE, organisation_directory
from tests.contract.ledger.conftest import Replicas
from tests.contract.ledger.test_replicas import submit

LIAR, RUNNING = "cygnus", ("aurora", "borealis", "meridian")
DOUBLE_VOTE = ledger_pb2.EVIDENCE_KIND_DOUBLE_VOTE
AHEAD = 6
"""Rounds: near enough for a vote to be heard, far enough to be so when it comes."""


async def accusing_block(stub: Any) -> ledger_pb2.Block:
    """The one with evidence, once it is executed and projected."""
    async with asyncio.timeout(15):
        while True:
            listed = (await stub.ListBlocks(ledger_pb2.ListBlocksRequest(page_size=200))).blocks
            if found := [each for each in listed if each.evidence]:
                (block,) = found
                return block
            await asyncio.sleep(0.05)


async def test_two_votes_of_a_member_are_committed_and_shown_by_every_replica(replicas: Replicas) -> None:
    """The three others go on without the liar, who talks to one of them only."""
    replicas.start(*RUNNING)
    genesis, chain_id = read_genesis(replicas.run / GENESIS_FILE)
    bls = Bls(backend())
    committee = committee_of(genesis, chain_id, bls)
    me = committee.index_of(LIAR)
    assert me is not None
    secret = load_keys(organisation_directory(replicas.run, LIAR)).bls
    async with asyncio.timeout(15):
        while (status := await replicas.status("aurora")).not_voting:
            await asyncio.sleep(0.05)
    now = status.round
    told = [VoteData(0, now + AHEAD, rival, ZERO, now, ZERO) for rival in (b"\x01" * 32, b"\x02" * 32)]
    votes = [Vote(data, me, bls.sign(secret, vote_message(chain_id, data))) for data in told]
    async with replicas.peering("aurora", LIAR, "replica") as stub:
        await stub.Exchange(ledger_pb2.ExchangeRequest(vote=VOTE.encode(vote)) for vote in votes)
    async with asyncio.timeout(15):
        for sequence in count(1):  # so that rounds follow one another: who heard the votes brings them when it leads
            await submit(replicas, "aurora", sequence)
            await asyncio.sleep(0.05)
            if (await replicas.status("borealis")).evidence:
                break
        for replica in RUNNING:
            while not (status := await replicas.status(replica)).evidence:
                await asyncio.sleep(0.05)
            assert [(e.organisation, e.kind) for e in status.evidence] == [(LIAR, DOUBLE_VOTE)]
    court = Court(committee, bls, verify_ed25519)
    for replica in RUNNING:
        async with replicas.calling(replica, "meridian") as stub:
            block = await accusing_block(stub)
            shown = (await stub.GetBlock(ledger_pb2.GetBlockRequest(height=block.height))).block
        (evidence,) = shown.evidence
        assert (evidence.organisation, evidence.kind) == (LIAR, DOUBLE_VOTE)
        assert decode(evidence.piece) == DoubleVote(*sorted(votes, key=VOTE.encode))
        assert form_error((evidence.piece,), committee) == ""
        assert court.proves(evidence.piece)
