"""Key files, identities in certificates, and settings' refusals."""

import stat
from pathlib import Path

import pytest
from cryptography import x509

from runtime.errors import UnauthenticatedError
from runtime.identity import Identity, Role, parse_spiffe_id
from runtime.pki import (
    KeyFileError,
    load_authority,
    load_hpke_key,
    load_signing_key,
    make_hpke_key,
    make_signing_key,
    write_private,
)
from tests.fixtures.tls import Certificates


def test_keys_come_back_and_only_the_owner_may_read_them(tmp_path: Path) -> None:
    signing, hpke = make_signing_key(tmp_path / "s"), make_hpke_key(tmp_path / "h")
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    assert load_signing_key(tmp_path / "s").private_bytes_raw() == signing.private_bytes_raw()
    assert load_hpke_key(tmp_path / "h").private_bytes_raw() == hpke.private_bytes_raw()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_an_exposed_key_is_refused(tmp_path: Path, mode: int) -> None:
    make_signing_key(tmp_path / "s")
    (tmp_path / "s").chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        load_signing_key(tmp_path / "s")


def test_missing_malformed_and_existing_key_files(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="claimledger certs"):
        load_signing_key(tmp_path / "none")
    for name, content, message in (("a", b"xyz", "not hex"), ("b", b"00" * 31, "31 bytes")):
        write_private(tmp_path / name, content)
        with pytest.raises(KeyFileError, match=message):
            load_signing_key(tmp_path / name)
    with pytest.raises(FileExistsError):
        make_signing_key(tmp_path / "a")


def test_a_certificate_carries_its_holder(certificates: Certificates) -> None:
    files = certificates("payer-a", Role.INSURER)
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://claimledger/org/payer-a/role/insurer"
    ]
    authority = load_authority(files.authority, files.authority.with_suffix(".key"))
    certificate.verify_directly_issued_by(authority.certificate)


def test_spiffe_ids_round_trip() -> None:
    for role in Role:
        identity = Identity("provider-1", role)
        assert parse_spiffe_id(identity.spiffe_id) == identity


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://other/org/a/role/insurer",
        "spiffe://claimledger/org/a/role/root",
        "spiffe://claimledger/org//role/insurer",
        "spiffe://claimledger/org/a/role/insurer/x",
        "spiffe://claimledger/org/A/role/insurer",
        "spiffe://claimledger/org/a/../b/role/insurer",
        "spiffe://claimledger/org/a/role/insurer\n",
        "",
    ],
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(UnauthenticatedError):
        parse_spiffe_id(text)
