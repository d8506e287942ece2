"""The development network: everything that a process looks for is there, and the genesis says the same."""

import hashlib
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from claims.transaction import GENESIS
from runtime.bls import Bls, backend
from runtime.development import Ports, make_network
from runtime.network import load_network
from runtime.topics import SCORED, SUBMITTED, NamedTopic

ORGANISATIONS = {"aurora": "insurer", "borealis": "insurer", "meridian": "regulator", "riverside": "provider"}


def test_makes_a_network_that_loads(tmp_path: Path) -> None:
    made = make_network(tmp_path, ORGANISATIONS, Ports.from_base(17_000, 3), "127.0.0.1:19092")
    assert load_network(tmp_path) == made
    raw = (tmp_path / "genesis.bin").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == made.chain_id
    genesis, bls = GENESIS.decode(raw), Bls(backend())
    assert [r.organisation for r in genesis.replicas] == ["aurora", "borealis", "meridian"]
    assert all(bls.possession_holds(r.bls_public_key, r.bls_possession) for r in genesis.replicas)
    assert made.payers == ("aurora", "borealis")
    for secret in [*tmp_path.rglob("*.key"), *tmp_path.rglob("*.ed25519"), *tmp_path.rglob("*.hpke")]:
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        make_network(tmp_path, ORGANISATIONS, Ports.from_base(17_000, 3), "127.0.0.1:19092")


def test_who_serves_has_a_certificate_for_its_service_and_nobody_else_can_serve(tmp_path: Path) -> None:
    """One name each, and no name or address of a host: that would fit every service on it."""
    make_network(tmp_path, ORGANISATIONS, Ports.from_base(17_000, 3), "127.0.0.1:19092")
    served = {}
    for path in tmp_path.glob("orgs/*/*.pem"):
        extensions = x509.load_pem_x509_certificate(path.read_bytes()).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert not names.get_values_for_type(x509.IPAddress)
        found = names.get_values_for_type(x509.DNSName)
        assert (ExtendedKeyUsageOID.SERVER_AUTH in purposes) == bool(found)
        if found:
            served[f"{path.parent.name}/{path.stem}"] = found
    assert served == {
        "meridian/intake": ["intake.claimledger.internal"],
        "meridian/tags": ["tags.claimledger.internal"],
        **{f"{o}/replica": [f"replica.{o}.claimledger.internal"] for o in ("aurora", "borealis", "meridian")},
    }


def test_recipients_are_the_tenants_own_and_those_who_serve_all(tmp_path: Path) -> None:
    made = make_network(tmp_path, ORGANISATIONS, Ports.from_base(17_000, 3), "127.0.0.1:19092")
    submitted = {(e.organisation, e.service) for e in made.recipients(NamedTopic(SUBMITTED, "aurora"))}
    assert submitted == {("meridian", "intake"), ("aurora", "validation")}
    scored = {(e.organisation, e.service) for e in made.recipients(NamedTopic(SCORED, "aurora"))}
    assert scored == {("aurora", "fraud"), *((o, "replica") for o in ("aurora", "borealis", "meridian"))}
