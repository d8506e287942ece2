"""Settings of intake's two processes. Variables: CLAIMLEDGER_ and the field's name, as in CLAIMLEDGER_INTAKE_ADDRESS."""

from pathlib import Path

from pydantic import Field

from runtime.network import Network, organisation_directory
from runtime.pki import TlsFiles
from runtime.settings import Settings


class IntakeSettings(Settings):
    """What both processes read, once, in `__main__`."""

    intake_organisation: str = ""
    """Whose certificate and keys intake runs under; empty where network.json names one organisation with an intake."""
    intake_address: str = ""
    """host:port of IntakeService; empty means the one in network.json."""
    intake_database: str = ""
    """sqlite:///path or postgresql://user@host/name; empty means SQLite in the run directory."""
    intake_outbox_limit: int = Field(default=200_000, ge=1)
    """Claims that may wait to be sent; beyond that new ones are answered RESOURCE_EXHAUSTED."""
    intake_zones: dict[str, str] = Field(default_factory=dict)
    """Payer → IANA time zone in which its days are counted, as JSON; UTC where it is silent. The day of receipt is fixed by it,
    and nowhere else is a time turned into a day."""
    intake_overdue_ms: int = Field(default=10_000, ge=100)
    """After this time without a verified end a claim is sent again; then twice as long, and so on."""
    intake_overdue_cap_ms: int = Field(default=600_000, ge=100)
    intake_hold_ms: int = Field(default=30_000, ge=100)
    """How long a step waits for the one before it; then the missing one is taken as implied."""

    def organisation(self, network: Network) -> str:
        """The organisation that intake runs as. Raises ValueError where that is not clear."""
        if self.intake_organisation:
            return self.intake_organisation
        owners = sorted({e.organisation for e in network.endpoints if e.service == "intake"})
        if len(owners) != 1:
            raise ValueError(f"set CLAIMLEDGER_INTAKE_ORGANISATION: network.json names {owners} with an intake")
        return owners[0]

    @property
    def data(self) -> Path:
        """Where intake keeps what it writes."""
        return self.run / "data" / "intake"

    @property
    def database_url(self) -> str:
        return self.intake_database or f"sqlite:///{(self.data / 'intake.db').resolve()}"

    def tls(self, organisation: str) -> TlsFiles:
        place = organisation_directory(self.run, organisation)
        return TlsFiles(place / "intake.pem", place / "intake.key", self.run / "ca.pem")
