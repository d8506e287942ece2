"""The stand-alone verifier as the keeper uses it: the same file that anyone may run, bound to this network's genesis."""

import importlib
from pathlib import Path

from claim_intake.evidence import Verify
from runtime.network import GENESIS_FILE


def load_verifier(run: Path) -> Verify:
    """A function that raises ValueError for a proof that does not hold. Raises FileNotFoundError without a genesis."""
    verifier = importlib.import_module("verify_settlement").Verifier((run / GENESIS_FILE).read_bytes())

    def verify(proof: bytes) -> None:
        try:
            verifier.verify(proof)
        except Exception as error:
            raise ValueError(str(error) or type(error).__name__) from error

    return verify
