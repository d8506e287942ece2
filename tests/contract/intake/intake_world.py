"""A small network on disk for the contract tests of intake: three payers' worth of keys and certificates, nothing
running."""

from dataclasses import dataclass
from pathlib import Path

from claim_intake.settings import IntakeSettings
from claims.transaction import GENESIS, Genesis
from runtime.identity import Identity, Role, server_name
from runtime.network import Network, Organisation, ServiceEndpoint, organisation_directory, save_network
from runtime.pki import Authority, TlsFiles, issue, make_authority, make_hpke_key, make_signing_key
from tests.fixtures.kafka import free_ports

INTAKE_ORGANISATION = "regulator"
ROLES = {"payer-one": "insurer", "payer-two": "insurer", "clinic-a": "provider", "clinic-b": "provider"}
SERVICES = {"insurer": ("validation", "fraud", "client"), "provider": ("client",), "regulator": ("client", "intake")}
ROLE_OF = {"insurer": Role.INSURER, "provider": Role.PROVIDER, "regulator": Role.REGULATOR}


@dataclass(frozen=True)
class World:
    """A run directory with its CA."""

    run: Path
    network: Network
    authority: Authority
    suffix: str = ""

    def named(self, organisation: str) -> str:
        """The id of `payer-one` and so on in this world; topics are named by it."""
        return organisation + self.suffix

    def settings(self, database: str = "", **changes: object) -> IntakeSettings:
        values = {"run": self.run, "intake_organisation": INTAKE_ORGANISATION, "intake_database": database, **changes}
        return IntakeSettings(**values)  # type: ignore[arg-type]

    def caller(self, organisation: str, role: Role | None = None) -> TlsFiles:
        """A client certificate; by default with the organisation's own role."""
        known = {o.id: ROLE_OF[o.roles[0]] for o in self.network.organisations}
        identity = Identity(organisation, role or known[organisation])
        place = self.run / "callers" / f"{organisation}-{identity.role}"
        files = TlsFiles(place.with_suffix(".pem"), place.with_suffix(".key"), self.run / "ca.pem")
        if not files.certificate.exists():
            place.parent.mkdir(exist_ok=True)
            issue(self.authority, identity, files.certificate, files.key)
        return files


def make_world(run: Path, kafka: str = "127.0.0.1:1", buckets: int = 2, suffix: str = "") -> World:
    """Writes everything that intake reads. `suffix` ends every organisation's name, so that topics are a test's own."""
    roles = {name + suffix: role for name, role in ROLES.items()} | {INTAKE_ORGANISATION: "regulator"}
    organisations = tuple(Organisation(name, (role,)) for name, role in roles.items())
    run.mkdir(parents=True, exist_ok=True)
    authority = make_authority(run / "ca.pem", run / "ca.key")
    endpoints = []
    pricing = {}
    for organisation in organisations:
        place = organisation_directory(run, organisation.id)
        services = {"insurer": ("validation", "fraud", "client"), "provider": ("client",), "regulator": ("client",)}
        for service in (
            *services[organisation.roles[0]],
            *(("intake",) if organisation.id == INTAKE_ORGANISATION else ()),
        ):
            private = make_hpke_key(place / f"{service}.hpke")
            endpoints.append(ServiceEndpoint(organisation.id, service, private.public_key().public_bytes_raw().hex()))
        if "insurer" in organisation.roles:
            key = make_signing_key(place / "pricing.ed25519")
            pricing[organisation.id] = key.public_key().public_bytes_raw().hex()
    identity = Identity(INTAKE_ORGANISATION, Role.SERVICE)
    place = organisation_directory(run, INTAKE_ORGANISATION)
    issue(authority, identity, place / "intake.pem", place / "intake.key", server_name("intake"))
    (run / "genesis.bin").write_bytes(GENESIS.encode(Genesis("test", "USD", 0, (), ())))
    network = Network(
        name="test", chain_id="11" * 32, kafka=kafka, buckets=buckets, intake_address=f"127.0.0.1:{free_ports(1)[0]}", tags_address="",
        organisations=organisations, replicas=(), endpoints=tuple(endpoints), pricing_keys=pricing,
        npi_organisations={"1234567893": "clinic-a" + suffix},
    )  # fmt: skip
    save_network(network, run)
    return World(run, network, authority, suffix)
