"""Settings of validation. Variables: CLAIMLEDGER_ and the field's name."""

from typing import Literal

from runtime.settings import Settings


class ValidationSettings(Settings):
    validation_payers: str = ""
    """Comma-separated payers that this process serves; empty means all of network.json."""
    validation_runner: Literal["faust", "kafka"] = "faust"
