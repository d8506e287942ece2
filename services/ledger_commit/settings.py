"""Settings of a replica. Variables: CLAIMLEDGER_ and the field's name, as in CLAIMLEDGER_REPLICA_ORGANISATION."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from runtime.network import organisation_directory
from runtime.pki import TlsFiles
from runtime.settings import Settings


class ReplicaSettings(Settings):
    """What `__main__` reads, once."""

    replica_organisation: str = ""
    """Whose replica this is; its certificate and keys are under orgs/<organisation> of the run directory."""
    replica_database: str = ""
    """sqlite:///path or postgresql://user@host/name of the projection; empty means SQLite in the replica's directory."""
    replica_gather_ms: int = Field(default=300, ge=0, le=1000)
    """How long a leader gathers payload at most before it proposes; less while little is ordered."""
    replica_feed: bool = True
    """Take claims from Kafka. Off, a replica orders what it is handed over gRPC and by its peers."""
    replica_publish: bool = True
    """Stand for publisher."""
    replica_contract: Literal["settlement", "opaque"] = "settlement"
    """opaque: entries are ordered and counted, not settled; for measuring consensus alone."""
    replica_generate_rate: int = Field(default=0, ge=0)
    """Opaque 512-byte claims made each second by this replica; for measuring consensus alone."""
    replica_drop_claims: bool = False
    """Fault injection: acknowledge claims from Kafka and drop them."""

    @property
    def data(self) -> Path:
        """Block log, safety record and projection of this replica."""
        return self.run / "data" / f"replica-{self.replica_organisation}"

    @property
    def database_url(self) -> str:
        return self.replica_database or f"sqlite:///{(self.data / 'projection.db').resolve()}"

    @property
    def tls(self) -> TlsFiles:
        place = organisation_directory(self.run, self.replica_organisation)
        return TlsFiles(place / "replica.pem", place / "replica.key", self.run / "ca.pem")
