"""What every process reads from its environment, once, in its `__main__`.

Each service adds its own fields in a subclass. Variables carry the prefix CLAIMLEDGER_, but for
KAFKA_BOOTSTRAP_SERVERS, which other tools know as well.
"""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings that all processes share. Frozen; a wrong value is refused with the variable's name."""

    model_config = SettingsConfigDict(env_prefix="CLAIMLEDGER_", frozen=True, extra="ignore", populate_by_name=True)

    run: Path = Path(".run")
    """Directory of network.json, certificates, keys, data and logs."""
    kafka: str = Field(
        default="", validation_alias=AliasChoices("KAFKA_BOOTSTRAP_SERVERS", "CLAIMLEDGER_KAFKA", "kafka")
    )
    """Kafka's address; empty means the one in network.json."""
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Prometheus metrics on 127.0.0.1; 0 means none."""
    uvloop: bool = True
    """Faust workers ignore it: Faust runs on the standard loop."""
    drain_s: float = Field(default=10.0, gt=0, le=300)
    """How long a process may finish what it holds after SIGTERM."""
