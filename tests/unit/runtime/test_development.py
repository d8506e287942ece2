"""The development network: everything that a process looks for is there, and the genesis says the same."""

import hashlib
import stat
from pathlib import Path

import pytest

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


def test_recipients_are_the_tenants_own_and_those_who_serve_all(tmp_path: Path) -> None:
    made = make_network(tmp_path, ORGANISATIONS, Ports.from_base(17_000, 3), "127.0.0.1:19092")
    submitted = {(e.organisation, e.service) for e in made.recipients(NamedTopic(SUBMITTED, "aurora"))}
    assert submitted == {("meridian", "intake"), ("aurora", "validation")}
    scored = {(e.organisation, e.service) for e in made.recipients(NamedTopic(SCORED, "aurora"))}
    assert scored == {("aurora", "fraud"), *((o, "replica") for o in ("aurora", "borealis", "meridian"))}
