"""A small committee with real BLS keys that certifies a results tree: what an honest server would hand out."""

import hashlib
from dataclasses import dataclass, replace

from claimledger.ledger.v1 import ledger_pb2
from claims.result import CLAIM_RESULT, Adjustment, ClaimResult, Outcome, Posting, SettledLine
from claims.transaction import (
    GENESIS,
    AccumulatorKind,
    AccumulatorScope,
    Genesis,
    GenesisReplica,
    Group,
    ReasonClass,
    Tier,
)
from ledger_commit.consensus.messages import (
    HEADER,
    QUORUM_CERT,
    ZERO,
    Header,
    QuorumCert,
    VoteData,
    block_id,
    commit_digest,
    vote_message,
)
from ledger_commit.settlement.merkle import MerkleTree
from runtime.bls import Bls, PyblstBackend

BLS = Bls(PyblstBackend())
NAMES = ("acme", "bluestar", "civic", "regulator")
SECRETS = tuple(1_000_003 * (i + 1) for i in range(len(NAMES)))


def genesis_of(names: tuple[str, ...] = NAMES, secrets: tuple[int, ...] = SECRETS) -> Genesis:
    replicas = tuple(
        GenesisReplica(name, BLS.public_key(secret), BLS.prove_possession(secret), bytes(32))
        for name, secret in zip(names, secrets, strict=True)
    )
    return Genesis("test ledger", "USD", 1_700_000_000_000, replicas, ())


def result_of(number: int) -> ClaimResult:
    lines = (
        SettledLine(1, 12_000, 10_000, 7_500, (Adjustment(Group.CO, "45", 2_000), Adjustment(Group.PR, "1", 2_500))),
    )
    posting = Posting(
        "gold", 2026, AccumulatorKind.DEDUCTIBLE, 0, Tier.IN_NETWORK, AccumulatorScope.INDIVIDUAL, bytes(16), 0, 2_500
    )
    return ClaimResult(
        height=1 + number // 4,
        index=number % 4,
        outcome=Outcome.SETTLED,
        claim_ref=number.to_bytes(16, "big"),
        version=1,
        step=0,
        submitter="mercy",
        payer="acme",
        payee="mercy",
        plan="gold",
        reason=ReasonClass.NONE,
        refusal=0,
        linked=None,
        commitment=hashlib.sha256(number.to_bytes(4, "big")).digest(),
        charge_cents=12_000,
        paid_cents=7_500,
        patient_cents=2_500,
        lines=lines,
        postings=(posting,),
    )


@dataclass(frozen=True)
class Server:
    """What the server shows; a liar shows it with something replaced."""

    genesis: Genesis
    tree: MerkleTree
    results: tuple[bytes, ...]
    header: Header
    secrets: tuple[int, ...] = SECRETS
    signers: tuple[int, ...] = (0, 1, 3)

    @property
    def genesis_bytes(self) -> bytes:
        return GENESIS.encode(self.genesis)

    def vote_data(self) -> VoteData:
        """What the committee votes on the child of the header's block, in the next round."""
        header = self.header
        parent = block_id(header)
        digest = commit_digest(header.epoch, header.height, parent, header.round)
        return VoteData(header.epoch, header.round + 1, hashlib.sha256(b"child").digest(), parent, header.round, digest)

    def certificate(self, data: VoteData | None = None) -> QuorumCert:
        """Signed by the signers' real keys."""
        data = data or self.vote_data()
        message = vote_message(self.header.chain_id, data)
        bitmap = bytearray(-(-len(self.genesis.replicas) // 8))
        for i in self.signers:
            bitmap[i // 8] |= 1 << i % 8
        aggregate = BLS.aggregate([BLS.sign(self.secrets[i], message) for i in self.signers])
        return QuorumCert(data, bytes(bitmap), aggregate)

    def proof(self, leaf: int = 0, qc: QuorumCert | None = None) -> ledger_pb2.SettlementProof:
        return ledger_pb2.SettlementProof(
            result=self.results[leaf],
            leaf_index=leaf,
            tree_size=self.header.exec_results_size,
            path=self.tree.inclusion_path(leaf, self.header.exec_results_size),
            header=HEADER.encode(self.header),
            commit_qc=QUORUM_CERT.encode(qc or self.certificate()),
        )


def honest_server(leaves: int = 7, genesis: Genesis | None = None, secrets: tuple[int, ...] = SECRETS) -> Server:
    """A chain whose header at height 9 covers so many results."""
    genesis = genesis or genesis_of()
    tree = MerkleTree()
    results = tuple(CLAIM_RESULT.encode(result_of(number)) for number in range(leaves))
    for result in results:
        tree.append(result)
    header = Header(
        chain_id=hashlib.sha256(GENESIS.encode(genesis)).digest(),
        protocol=1,
        epoch=0,
        round=12,
        height=9,
        proposer=2,
        parent_id=hashlib.sha256(b"parent").digest(),
        qc_digest=hashlib.sha256(b"qc").digest(),
        tc_digest=ZERO,
        batches_root=ZERO,
        time_ms=1_700_000_001_000,
        exec_height=1 + leaves // 4,
        exec_state_root=hashlib.sha256(b"state").digest(),
        exec_results_size=leaves,
        exec_results_root=tree.root(),
        schedule_digest=ZERO,
        snapshot_height=0,
        snapshot_root=ZERO,
        evidence_root=ZERO,
        next_committee_hash=ZERO,
    )
    return Server(genesis, tree, results, header, secrets)


def lying(server: Server, **changes: object) -> Server:
    """The same server with a header that says something else."""
    return replace(server, header=replace(server.header, **changes))  # type: ignore[arg-type]
