"""What intake keeps as evidence is what the stand-alone verifier would take."""

import pytest

from claim_intake.evidence import read_settlement
from claimledger.ledger.v1 import ledger_pb2
from runtime.stage import DataError
from verify_settlement import ProofError, read_proof

PROOF = ledger_pb2.SettlementProof(result=b"r", leaf_index=1, tree_size=2, path=[b"p"], header=b"h", commit_qc=b"q")
SEVENTH = b"\x3a\x01x"


def test_a_proof_with_a_field_more_is_refused_by_both() -> None:
    value = PROOF.SerializeToString(deterministic=True)
    assert read_proof(value)["leaf_index"] == 1
    with pytest.raises(DataError, match="no claim's"):
        read_settlement(value)
    with pytest.raises(ProofError, match="tag 58"):
        read_proof(value + SEVENTH)
    with pytest.raises(DataError, match="more than its six fields"):
        read_settlement(value + SEVENTH)
