"""A network for development and tests: certificates, keys, genesis and network.json in one run directory.

In the field every organisation makes its own secrets and hands over public parts only; here one call plays all of them.
Files and their places are those of `runtime.network`. Key ids on the ledger: 1 organisation, 2 pricing, 3 scoring.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from claims.transaction import (
    GENESIS,
    Genesis,
    GenesisReplica,
    KeyUse,
    Kind,
    OrganisationKey,
    Prefix,
    RegisterOrganisation,
    Role,
)
from runtime import pki
from runtime.bls import Bls, backend, new_secret
from runtime.identity import Identity, server_name
from runtime.identity import Role as CertificateRole
from runtime.network import (
    CA_FILE,
    GENESIS_FILE,
    Network,
    Organisation,
    ReplicaAddress,
    ServiceEndpoint,
    organisation_directory,
    save_network,
)

ORGANISATION_KEY_ID: Final = 1
PRICING_KEY_ID: Final = 2
SCORING_KEY_ID: Final = 3
_ROLE: Final = {"insurer": Role.INSURER, "provider": Role.PROVIDER, "regulator": Role.REGULATOR}
_SERVICES: Final = {
    "insurer": ("validation", "fraud", "replica", "client"),
    "regulator": ("intake", "replica", "client"),
    "provider": ("client",),
}
"""Which services of an organisation open topic keys."""
_EXTRA_CERTIFICATES: Final = {"insurer": ("analyst",), "regulator": ("tags",), "provider": ()}


@dataclass(frozen=True, slots=True)
class Ports:
    """Where things listen on loopback: intake, tags, then one port and one metrics port for each replica."""

    intake: int
    tags: int
    replicas: tuple[int, ...]
    metrics: tuple[int, ...]

    @classmethod
    def from_base(cls, base: int, replicas: int) -> "Ports":
        return cls(
            base,
            base + 1,
            tuple(base + 10 + i for i in range(replicas)),
            tuple(base + 30 + i for i in range(replicas)),
        )


def make_network(
    run: Path,
    organisations: Mapping[str, str],
    ports: Ports,
    kafka: str,
    *,
    name: str = "development",
    buckets: int = 2,
    npi_organisations: Mapping[str, str] | None = None,
    time_ms: int = 0,
) -> Network:
    """Makes everything under `run`, which must not hold a network yet (FileExistsError).

    `organisations` maps ids to insurer, provider or regulator; insurers and regulators run replicas, in this order.
    """
    run.mkdir(parents=True, exist_ok=True)
    authority = pki.make_authority(run / CA_FILE, run / "ca.key")
    endpoints: list[ServiceEndpoint] = []
    replicas: list[GenesisReplica] = []
    registrations: list[RegisterOrganisation] = []
    pricing: dict[str, str] = {}
    for organisation, role in organisations.items():
        place = organisation_directory(run, organisation)
        place.mkdir(parents=True)
        endpoints += _make_identities(authority, place, organisation, role)
        keys = _make_signing_keys(place, role)
        registrations.append(_registration(organisation, role, keys))
        if PRICING_KEY_ID in keys:
            pricing[organisation] = keys[PRICING_KEY_ID].hex()
        if "replica" in _SERVICES[role]:
            replicas.append(_make_replica(place, organisation))
    genesis = GENESIS.encode(Genesis(name, "USD", time_ms, tuple(replicas), tuple(registrations)))
    (run / GENESIS_FILE).write_bytes(genesis)
    network = Network(
        name=name,
        chain_id=hashlib.sha256(genesis).hexdigest(),
        kafka=kafka,
        buckets=buckets,
        intake_address=f"127.0.0.1:{ports.intake}",
        tags_address=f"127.0.0.1:{ports.tags}",
        organisations=tuple(Organisation(o, (role,)) for o, role in organisations.items()),
        replicas=tuple(
            ReplicaAddress(r.organisation, f"127.0.0.1:{port}", metrics)
            for r, port, metrics in zip(replicas, ports.replicas, ports.metrics, strict=True)
        ),
        endpoints=tuple(endpoints),
        pricing_keys=pricing,
        npi_organisations=dict(npi_organisations or {}),
    )
    save_network(network, run)
    return network


def _make_identities(authority: pki.Authority, place: Path, organisation: str, role: str) -> list[ServiceEndpoint]:
    """Certificates of all services and people, and the HPKE keys of those that read topics."""
    endpoints = []
    for service in _SERVICES[role]:
        _issue(authority, place, organisation, service, role)
        key = pki.make_hpke_key(place / f"{service}.hpke")
        endpoints.append(ServiceEndpoint(organisation, service, key.public_key().public_bytes_raw().hex()))
    for service in _EXTRA_CERTIFICATES[role]:
        _issue(authority, place, organisation, service, role)
    return endpoints


def _issue(authority: pki.Authority, place: Path, organisation: str, service: str, role: str) -> None:
    by_service = {"client": role, "replica": "replica", "analyst": "analyst"}
    identity = Identity(organisation, CertificateRole(by_service.get(service, "service")))
    server = serving_name(service, organisation)
    pki.issue(authority, identity, place / f"{service}.pem", place / f"{service}.key", server)


def serving_name(service: str, organisation: str) -> str:
    """The name that a service's certificate must have; empty where nobody calls it."""
    if service == "replica":
        return server_name(service, organisation)
    return server_name(service) if service in {"intake", "tags"} else ""


def require_certificates(run: Path) -> None:
    """Raises KeyFileError naming a certificate under which its service could not serve, as one from before they had names."""
    for path in sorted(run.glob("orgs/*/*.pem")):
        if name := serving_name(path.stem, path.parent.name):
            pki.TlsFiles(path, path.with_suffix(".key"), run / CA_FILE).require_server(name)


def _make_signing_keys(place: Path, role: str) -> dict[int, bytes]:
    """Public keys by key id."""
    wanted: Sequence[tuple[int, str]] = [(ORGANISATION_KEY_ID, "organisation")]
    if role == "insurer":
        wanted = [*wanted, (PRICING_KEY_ID, "pricing"), (SCORING_KEY_ID, "scoring")]
    return {key_id: _public(pki.make_signing_key(place / f"{use}.ed25519")) for key_id, use in wanted}


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _registration(organisation: str, role: str, keys: Mapping[int, bytes]) -> RegisterOrganisation:
    uses = {
        ORGANISATION_KEY_ID: KeyUse.ORGANISATION,
        PRICING_KEY_ID: KeyUse.PRICING,
        SCORING_KEY_ID: KeyUse.SCORING,
    }
    prefix = Prefix(bytes(32), Kind.REGISTER_ORGANISATION, organisation, ORGANISATION_KEY_ID, 0, 0)
    registered = tuple(OrganisationKey(key_id, uses[key_id], key, 0, 0) for key_id, key in keys.items())
    return RegisterOrganisation(prefix, organisation, (_ROLE[role],), registered)


def _make_replica(place: Path, organisation: str) -> GenesisReplica:
    secret, bls = new_secret(), Bls(backend())
    pki.write_private(place / "bls.key", secret.to_bytes(32, "big").hex().encode())
    lane = _public(pki.make_signing_key(place / "lane.ed25519"))
    return GenesisReplica(organisation, bls.public_key(secret), bls.prove_possession(secret), lane)
