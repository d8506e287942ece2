"""The network as one file describes it: organisations, replicas, addresses, and where each one's secrets lie.

`claimledger certs` writes it for development under the run directory; in the field each operator keeps its own. Everything
in the file is public. Layout of the run directory (all paths relative to it):

    network.json              this description
    genesis.bin               fixed encoding of Genesis
    ca.pem                    certificate of the network's CA (ca.key beside it in development)
    orgs/<org>/<service>.pem, <service>.key     certificate and key for mTLS
    orgs/<org>/<service>.hpke                   X25519 private key that opens topic keys
    orgs/<org>/{organisation,pricing,scoring,lane}.ed25519, bls.key    signing keys
    orgs/<org>/reference.json                   a payer's plans, fees, members, providers
    keys/topics/<topic>/<day>.json              day keys, wrapped for each recipient
    data/<process>/…, logs/<process>.log        what processes write
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from runtime.identity import server_name
from runtime.topics import NamedTopic, Scope, Service, Topic, check_prefix, in_kafka, named_topics

NETWORK_FILE: Final = "network.json"
GENESIS_FILE: Final = "genesis.bin"
CA_FILE: Final = "ca.pem"


@dataclass(frozen=True, slots=True)
class Organisation:
    """`roles`: insurer, provider, regulator (ledger roles)."""

    id: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServiceEndpoint:
    """A service of an organisation that may open topic keys; `hpke_public` is its X25519 key, hex."""

    organisation: str
    service: str
    hpke_public: str


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """Where a replica answers (peers and LedgerService on one port) and where its metrics are."""

    organisation: str
    address: str
    metrics_port: int


@dataclass(frozen=True, slots=True)
class Network:
    name: str
    chain_id: str
    """Hex of SHA-256 of the genesis."""
    kafka: str
    buckets: int
    """Partitions of every bucketed topic."""
    intake_address: str
    tags_address: str
    organisations: tuple[Organisation, ...]
    replicas: tuple[ReplicaAddress, ...]
    endpoints: tuple[ServiceEndpoint, ...]
    pricing_keys: dict[str, str]
    """Payer → hex Ed25519 public key of its pricing key, which also signs rejections."""
    npi_organisations: dict[str, str]
    """The registry NPI → organisation that is paid."""
    topic_prefix: str = ""
    """Before every name in Kafka, so that networks can share one; empty where this one has its Kafka to itself."""

    def __post_init__(self) -> None:
        """Raises ValueError for a prefix that Kafka does not take."""
        check_prefix(self.topic_prefix)

    @property
    def payers(self) -> tuple[str, ...]:
        return tuple(o.id for o in self.organisations if "insurer" in o.roles)

    def server_at(self, address: str) -> str:
        """The name that whoever answers at this address must prove. Raises KeyError for one that is nobody's here."""
        names = {self.tags_address: server_name("tags"), self.intake_address: server_name("intake")}
        return (names | {r.address: server_name("replica", r.organisation) for r in self.replicas})[address]

    def topic(self, row: Topic, tenant: str = "") -> NamedTopic:
        """A row of the topic table as this network names it."""
        return NamedTopic(row, tenant, self.topic_prefix)

    def topics(self) -> Iterator[NamedTopic]:
        """All topics of this network, in table order."""
        return named_topics(self.payers, [o.id for o in self.organisations], self.topic_prefix)

    def in_kafka(self, name: str) -> str:
        """A consumer group or transactional id as this network's Kafka knows it."""
        return in_kafka(name, self.topic_prefix)

    def recipients(self, topic: NamedTopic) -> tuple[ServiceEndpoint, ...]:
        """Who may open the topic's key: its writers and readers, each of the right organisation.

        Intake and replicas serve every tenant; the other services only their own.
        """
        wanted = {*topic.row.writers, *topic.row.readers}
        everywhere = {Service.INTAKE, Service.REPLICA}
        return tuple(
            e
            for e in self.endpoints
            if (s := Service(e.service)) in wanted
            and (s in everywhere or topic.row.scope is Scope.COMMON or e.organisation == topic.tenant)
        )


def load_network(run_directory: Path) -> Network:
    """Reads network.json. Raises FileNotFoundError with what to do where it is missing."""
    path = run_directory / NETWORK_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `claimledger certs` or set CLAIMLEDGER_RUN")
    raw = json.loads(path.read_text())
    raw["organisations"] = tuple(Organisation(o["id"], tuple(o["roles"])) for o in raw["organisations"])
    raw["replicas"] = tuple(ReplicaAddress(**r) for r in raw["replicas"])
    raw["endpoints"] = tuple(ServiceEndpoint(**e) for e in raw["endpoints"])
    return Network(**raw)


def save_network(network: Network, run_directory: Path) -> None:
    """Writes network.json whole or not at all."""
    path = run_directory / NETWORK_FILE
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(network), indent=2) + "\n")
    temporary.replace(path)


def organisation_directory(run_directory: Path, organisation: str) -> Path:
    """Where an organisation's certificates and keys lie."""
    return run_directory / "orgs" / organisation
