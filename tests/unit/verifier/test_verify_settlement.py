"""The stand-alone verifier against an honest server and against one that lies."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import verify_settlement
from claimledger.ledger.v1 import ledger_pb2
from claims.result import TRANSACTION_RESULT, TransactionResult
from claims.transaction import GENESIS, Kind
from ledger_commit.consensus.messages import HEADER, QUORUM_CERT, ZERO, QuorumCert, vote_message
from ledger_commit.settlement.merkle import MerkleTree
from tests.unit.verifier.proof_world import BLS, NAMES, SECRETS, Server, genesis_of, honest_server, lying, result_of
from verify_settlement import ProofError, Verifier

SERVER = honest_server()
GENESIS_BYTES = SERVER.genesis_bytes
VERIFIER = Verifier(GENESIS_BYTES)
Proof = ledger_pb2.SettlementProof


def refusal(proof: Proof | bytes, verifier: Verifier = VERIFIER) -> str:
    data = proof if isinstance(proof, bytes) else proof.SerializeToString()
    with pytest.raises(ProofError) as caught:
        verifier.verify(data)
    return str(caught.value)


def changed(change: Callable[[Proof], object], leaf: int = 3) -> Proof:
    proof = SERVER.proof(leaf)
    change(proof)
    return proof


# What holds.


@pytest.mark.parametrize("leaves", [1, 2, 3, 4, 5, 8, 9, 33])
def test_every_leaf_of_an_honest_server_verifies(leaves: int) -> None:
    server = honest_server(leaves)
    verifier = Verifier(server.genesis_bytes)
    for leaf in range(leaves):
        found = verifier.verify(server.proof(leaf).SerializeToString())
        assert found.leaf_index == leaf
        assert found.result["claim_ref"] == leaf.to_bytes(16, "big").hex()


def test_what_is_returned_is_what_the_committee_signed() -> None:
    found = Verifier(GENESIS_BYTES).verify(SERVER.proof(5).SerializeToString())
    result = result_of(5)
    assert (found.block_height, found.tree_size, found.signers) == (9, 7, ("acme", "bluestar", "regulator"))
    assert found.result["outcome"] == "SETTLED"
    assert (found.result["charge_cents"], found.result["paid_cents"]) == (result.charge_cents, result.paid_cents)
    assert found.result["commitment"] == result.commitment.hex()
    assert found.result["linked"] is None
    assert found.result["lines"][0]["adjustments"] == [
        {"group": "CO", "carc": "45", "amount_cents": 2_000},
        {"group": "PR", "carc": "1", "amount_cents": 2_500},
    ]
    assert found.result["postings"][0]["after_cents"] == 2_500


def test_json_with_hex_is_the_same_proof() -> None:
    proof = SERVER.proof(2)
    fields = {
        "result": proof.result.hex(),
        "leaf_index": proof.leaf_index,
        "tree_size": proof.tree_size,
        "path": [item.hex() for item in proof.path],
        "header": proof.header.hex(),
        "commit_qc": proof.commit_qc.hex(),
    }
    assert VERIFIER.verify(fields) == VERIFIER.verify(proof.SerializeToString())
    for broken in ({**fields, "more": 1}, {**fields, "path": "zz"}, {**fields, "header": 7}, {}):
        with pytest.raises(ProofError):
            VERIFIER.verify(broken)


def test_a_header_is_checked_once_however_many_proofs_rest_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(GENESIS_BYTES)
    checks = 0
    holds = verifier._bls.holds

    def counted(*arguments: object) -> bool:
        nonlocal checks
        checks += 1
        return bool(holds(*arguments))

    monkeypatch.setattr(verifier._bls, "holds", counted)
    qc = SERVER.certificate()
    for leaf in range(7):
        verifier.verify(SERVER.proof(leaf, qc).SerializeToString())
    assert checks == 1


def test_the_reference_backend_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def __init__(self) -> None:
            raise ImportError("pyblst")

    monkeypatch.setattr(verify_settlement, "_Pyblst", Absent)
    genesis = genesis_of(NAMES[:1], SECRETS[:1])
    server = replace(honest_server(2, genesis, SECRETS[:1]), signers=(0,))
    verifier = Verifier(server.genesis_bytes)
    assert type(verifier._bls).__name__ == "_PyEcc"
    assert verifier.verify(server.proof(1).SerializeToString()).signers == ("acme",)
    false = replace(server.certificate(), aggregate=BLS.sign(SECRETS[0], b"something else"))
    assert "signature does not hold" in refusal(server.proof(1, false), verifier)
    infinity = replace(server.certificate(), aggregate=b"\xc0" + bytes(95))
    assert "infinity" in refusal(server.proof(1, infinity), verifier)


# A server that lies.


def with_qc(change: Callable[[QuorumCert], QuorumCert], server: Server = SERVER) -> Proof:
    return server.proof(3, change(server.certificate()))


def test_a_certificate_by_other_keys_is_refused() -> None:
    forger = replace(SERVER, secrets=tuple(secret + 1 for secret in SECRETS))
    assert refusal(forger.proof(3)) == "certificate: the signature does not hold"


def test_a_certificate_that_claims_more_signers_than_signed_is_refused() -> None:
    claims_all = with_qc(lambda qc: replace(qc, signers=b"\x0f"))
    assert refusal(claims_all) == "certificate: the signature does not hold"


def test_fewer_than_a_quorum_is_refused() -> None:
    assert refusal(replace(SERVER, signers=(0, 1)).proof(3)) == "certificate: 2 signers, a quorum is 3"


def test_no_signer_with_the_infinity_signature_is_refused() -> None:
    empty = with_qc(lambda qc: replace(qc, signers=b"\x00", aggregate=b"\xc0" + bytes(95)))
    assert refusal(empty) == "certificate: 0 signers, a quorum is 3"


def test_the_infinity_signature_is_refused_under_a_full_bitmap() -> None:
    infinity = with_qc(lambda qc: replace(qc, aggregate=b"\xc0" + bytes(95)))
    assert refusal(infinity) == "certificate: the aggregate is the point at infinity"


def test_a_signature_off_the_subgroup_is_refused(shared_data: Path) -> None:
    case = json.loads((shared_data / "bls12-381/deserialization_G2/deserialization_fails_not_in_G2.json").read_text())
    off = bytes.fromhex(case["input"]["signature"].removeprefix("0x"))
    assert "no point of its group" in refusal(with_qc(lambda qc: replace(qc, aggregate=off)))


@pytest.mark.parametrize("bitmap", [b"", b"\x0b\x00", b"\x1b"])
def test_a_bitmap_of_another_committee_is_refused(bitmap: bytes) -> None:
    assert refusal(with_qc(lambda qc: replace(qc, signers=bitmap))).startswith("certificate:")


def test_a_signer_counted_twice_has_no_room_in_the_bitmap() -> None:
    """Two signatures of one member do not make a quorum: the sum is not what two members' keys verify."""
    data = SERVER.vote_data()
    message = vote_message(SERVER.header.chain_id, data)
    twice = BLS.aggregate([BLS.sign(SECRETS[i], message) for i in (0, 0, 1)])
    assert refusal(SERVER.proof(3, QuorumCert(data, b"\x07", twice))) == "certificate: the signature does not hold"


def test_a_certificate_of_another_block_is_refused() -> None:
    other = lying(SERVER, time_ms=1).certificate()
    assert "parent id" in refusal(SERVER.proof(3, other))


def test_rounds_that_do_not_follow_commit_nothing() -> None:
    data = replace(SERVER.vote_data(), round=SERVER.header.round + 2)
    assert "round" in refusal(SERVER.proof(3, SERVER.certificate(data)))


def test_a_vote_that_commits_nothing_is_refused() -> None:
    data = replace(SERVER.vote_data(), commit_digest=ZERO)
    assert "commit digest" in refusal(SERVER.proof(3, SERVER.certificate(data)))


def test_a_certificate_of_another_epoch_is_refused() -> None:
    assert "epoch" in refusal(SERVER.proof(3, SERVER.certificate(replace(SERVER.vote_data(), epoch=1))))
    assert "epoch 1" in refusal(lying(SERVER, epoch=1).proof(3))


def test_another_chain_is_refused_under_this_genesis() -> None:
    other = honest_server(genesis=replace(genesis_of(), name="another ledger"))
    Verifier(other.genesis_bytes).verify(other.proof(3).SerializeToString())
    assert refusal(other.proof(3)) == "header: it is of another chain than the genesis"


def test_a_stale_committee_is_refused() -> None:
    """The same chain id claimed by a committee whose keys the genesis does not name."""
    retired = genesis_of(NAMES, tuple(secret + 7 for secret in SECRETS))
    server = honest_server(genesis=retired, secrets=tuple(secret + 7 for secret in SECRETS))
    server = lying(server, chain_id=SERVER.header.chain_id)
    assert refusal(server.proof(3)) == "certificate: the signature does not hold"


def test_the_proof_of_another_leaf_is_refused() -> None:
    assert refusal(changed(lambda p: setattr(p, "result", SERVER.results[4]))).startswith("path:")
    assert refusal(changed(lambda p: setattr(p, "leaf_index", 2))).startswith("path:")


def test_an_inner_node_is_no_leaf() -> None:
    """A path that starts one level up, from the concatenation of two hashes, proves nothing: leaves hash apart."""
    tree = SERVER.tree
    children = tree._levels[0][0] + tree._levels[0][1]
    proof = SERVER.proof(0)
    proof.result = children
    del proof.path[0]
    assert refusal(proof).startswith("result:")


def test_paths_of_the_wrong_shape_are_refused() -> None:
    assert refusal(changed(lambda p: p.path.append(bytes(32)))) == "path: it has nodes too many"
    assert refusal(changed(lambda p: p.path.pop())) == "path: it has nodes too few"
    assert refusal(changed(lambda p: p.path.__delitem__(slice(None)))) == "path: it has nodes too few"
    assert "32 bytes" in refusal(changed(lambda p: p.path.__setitem__(0, bytes(31))))
    assert "does not lead" in refusal(changed(lambda p: p.path.reverse()))


def test_sizes_other_than_the_headers_are_refused() -> None:
    assert "over 7 results" in refusal(changed(lambda p: setattr(p, "tree_size", 8)))
    assert "not in a tree" in refusal(changed(lambda p: setattr(p, "leaf_index", 7)))
    assert refusal(changed(lambda p: setattr(p, "leaf_index", 2**63 + 5)))


def test_a_header_edited_after_the_vote_is_refused() -> None:
    tree = MerkleTree()
    tree.append(b"\x01forged")
    forged = lying(SERVER, exec_results_root=tree.root(), exec_results_size=1)
    assert "parent id" in refusal(forged.proof(0, SERVER.certificate()))


def test_a_transactions_result_is_no_claims_result() -> None:
    leaf = TRANSACTION_RESULT.encode(TransactionResult(1, 0, Kind.PUBLISH_PLAN, "acme", bytes(32), 0))
    tree = MerkleTree()
    tree.append(leaf)
    server = replace(SERVER, tree=tree, results=(leaf,))
    server = lying(server, exec_results_root=tree.root(), exec_results_size=1)
    assert refusal(server.proof(0)).startswith("result:")


def test_a_result_later_than_what_the_header_executed_is_refused() -> None:
    assert "height" in refusal(lying(SERVER, exec_height=0).proof(3))


def test_every_flipped_bit_of_a_proof_is_refused() -> None:
    server = honest_server(2)
    verifier = Verifier(server.genesis_bytes)
    proof = server.proof(1).SerializeToString()
    verifier.verify(proof)
    for bit in range(8 * len(proof)):
        flipped = bytearray(proof)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProofError):
            verifier.verify(bytes(flipped))


def test_every_cut_and_every_addition_is_refused() -> None:
    proof = SERVER.proof(3).SerializeToString()
    for length in range(len(proof)):
        refusal(proof[:length])
    for more in (b"\x00", b"\x0a\x00", b"\x3a\x00", b"\x32\x00", b"\x80"):
        refusal(proof + more)


def test_another_serialisation_of_the_same_fields_is_refused() -> None:
    """One proof, one byte string: no field out of order, repeated, unknown, or with a number in a longer form."""
    proof = SERVER.proof(3)
    one = Proof(result=proof.result).SerializeToString()
    rest = proof.SerializeToString()[len(one) :]
    assert "does not belong" in refusal(rest + one)
    assert "does not belong" in refusal(one + one + rest)
    assert "shortest" in refusal(one + b"\x10\x83\x00" + rest[2:])


def test_hostile_lengths_cost_nothing() -> None:
    refusal(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
    refusal(b"\x22\x00" * 100_000)
    assert "at most" in refusal(b"\x0a" + bytes(2**20))
    refusal(b"\xff" * 1000)


# A genesis that lies.


def test_a_genesis_other_than_the_pinned_one_is_refused() -> None:
    Verifier(GENESIS_BYTES, hashlib.sha256(GENESIS_BYTES).digest())
    with pytest.raises(ProofError, match="not the pinned one"):
        Verifier(GENESIS_BYTES, bytes(32))


def genesis_with(**changes: object) -> bytes:
    genesis = genesis_of()
    first = replace(genesis.replicas[0], **changes)  # type: ignore[arg-type]
    return GENESIS.encode(replace(genesis, replicas=(first, *genesis.replicas[1:])))


def test_a_committee_key_must_be_possessed_and_a_point() -> None:
    other = genesis_of().replicas[1]
    with pytest.raises(ProofError, match="acme does not possess its key"):
        Verifier(genesis_with(bls_possession=other.bls_possession))
    with pytest.raises(ProofError, match="stands there twice"):
        Verifier(genesis_with(bls_public_key=other.bls_public_key, bls_possession=other.bls_possession))
    with pytest.raises(ProofError, match="key of acme is the point at infinity"):
        Verifier(genesis_with(bls_public_key=b"\xc0" + bytes(47)))
    with pytest.raises(ProofError, match="no point of its group"):
        Verifier(genesis_with(bls_public_key=b"\x80" + bytes(47)))
    with pytest.raises(ProofError, match="no point of its group"):
        Verifier(genesis_with(bls_public_key=bytes(48)))


def test_a_key_off_the_subgroup_is_refused(shared_data: Path) -> None:
    case = json.loads((shared_data / "bls12-381/deserialization_G1/deserialization_fails_not_in_G1.json").read_text())
    with pytest.raises(ProofError, match="no point of its group"):
        Verifier(genesis_with(bls_public_key=bytes.fromhex(case["input"]["pubkey"].removeprefix("0x"))))


def test_a_genesis_without_a_committee_is_refused() -> None:
    with pytest.raises(ProofError, match="no committee"):
        Verifier(GENESIS.encode(replace(genesis_of(), replicas=())))
    for cut in (0, 1, 10, 40, 200):
        with pytest.raises(ProofError):
            Verifier(GENESIS_BYTES[:cut])


# The file itself.


def test_header_and_certificate_layouts_are_those_of_the_replicas() -> None:
    assert verify_settlement.HEADER.size == len(HEADER.encode(SERVER.header))
    assert verify_settlement.VOTE_DATA.size + 4 + 1 + 96 == len(QUORUM_CERT.encode(SERVER.certificate()))


def test_it_runs_alone_as_one_file(tmp_path: Path) -> None:
    """Copied out of the project, with no import path to it."""
    source = Path(verify_settlement.__file__).read_text()
    assert len(source.splitlines()) <= 300
    (tmp_path / "verify_settlement.py").write_text(source)
    (tmp_path / "proof").write_bytes(SERVER.proof(3).SerializeToString())
    (tmp_path / "genesis.bin").write_bytes(GENESIS_BYTES)
    command = [sys.executable, "-I", "verify_settlement.py", "proof", "--genesis", "genesis.bin", "--genesis-hash"]
    pinned = hashlib.sha256(GENESIS_BYTES).hexdigest()
    done = subprocess.run([*command, pinned], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["result"]["paid_cents"] == 7_500
    done = subprocess.run(
        [*command[:3], "missing", *command[3:], pinned], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["result"]["paid_cents"] == 7_500
    assert done.stderr.startswith("refused: missing: [Errno 2]")
    done = subprocess.run([*command, bytes(32).hex()], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("refused: proof: genesis:")
