"""Settings of fraud scoring. Variables: CLAIMLEDGER_ and the field's name."""

from typing import Literal

from pydantic import Field

from runtime.settings import Settings


class FraudSettings(Settings):
    fraud_payers: str = ""
    """Comma-separated payers that this process serves; empty means all of network.json."""
    fraud_runner: Literal["faust", "kafka"] = "faust"
    fraud_threshold: float = Field(default=0.8, gt=0, le=1)
    """The score from which a claim is held and an alert published."""
