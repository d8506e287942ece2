"""The stand-alone verifier as the keeper uses it: the same file that anyone may run, bound to this network's genesis."""

import importlib
from pathlib import Path

from claim_intake.evidence import Verify
from claimledger.ledger.v1 import ledger_pb2
from runtime.network import GENESIS_FILE


def load_verifier(run: Path) -> Verify:
    """A function that raises ValueError for a proof that does not hold. Raises FileNotFoundError without a genesis."""
    standalone = importlib.import_module("verify_settlement")
    verifier = standalone.Verifier((run / GENESIS_FILE).read_bytes())
    names = tuple(standalone.FIELDS.values())

    def verify(proof: ledger_pb2.SettlementProof, result_height: int) -> None:
        fields = {name: getattr(proof, name) for name in names}
        try:
            verifier.place(fields, result_height)
        except Exception as error:
            raise ValueError(str(error) or type(error).__name__) from error

    return verify
