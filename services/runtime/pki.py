"""Certificates and private keys: a CA for development, and reading and writing of key files for everyone.

Certificates are X.509 with EC P-256 keys; a leaf carries its holder's SPIFFE URI, and that of a service that others call its
DNS name (see `runtime.identity`). Only such a one may serve, and none carries a host's name or address. Private keys lie in files of mode 0600 and are refused if anyone else can read them. Ed25519 and X25519 keys are files of 64
hex digits (32 bytes).
Source: security.md, Identities and tenants; Envelope.
"""

import datetime
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from runtime.identity import Identity

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 825
_BACKDATED: Final = datetime.timedelta(minutes=5)


class KeyFileError(Exception):
    """A private key that must not be used: readable by others, missing, or malformed."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one end of a mutual TLS connection."""

    certificate: Path
    key: Path
    authority: Path

    def require_server(self, name: str) -> None:
        """Raises KeyFileError where the certificate does not let its holder serve under this name."""
        certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if name not in names.get_values_for_type(x509.DNSName):
            raise KeyFileError(
                f"{self.certificate} is no certificate of {name}, and clients ask for that name: let the network's authority "
                "issue one, or make a development network anew (`claimledger certs`)"
            )

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Private key, certificate chain, trusted root. Raises KeyFileError for an exposed key."""
        return read_private(self.key), self.certificate.read_bytes(), self.authority.read_bytes()


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that can issue; development keeps its key in a file, the field elsewhere."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def make_authority(certificate: Path, key: Path, name: str = "claimledger development CA") -> Authority:
    """Makes a self-signed CA and writes both files. Refuses to overwrite a key."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    public = private.public_key()
    builder = (
        _builder(subject, subject, public, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    authority = Authority(builder.sign(private, hashes.SHA256()), private)
    write_private(key, _pem(private))
    certificate.write_bytes(authority.pem)
    return authority


def load_authority(certificate: Path, key: Path) -> Authority:
    """Reads a CA that `make_authority` wrote."""
    private = serialization.load_pem_private_key(read_private(key), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"{key} holds no EC key")
    return Authority(x509.load_pem_x509_certificate(certificate.read_bytes()), private)


def issue(authority: Authority, identity: Identity, certificate: Path, key: Path, server: str = "") -> None:
    """Issues a certificate and writes it with its new key: for clients, and under the name `server` for serving as well."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{identity.organisation} {identity.role}")])
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.spiffe_id)]
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if server:
        names.append(x509.DNSName(server))
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    signer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        _builder(subject, authority.certificate.subject, private.public_key(), LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(signer_id, critical=False)
    )
    write_private(key, _pem(private))
    certificate.write_bytes(builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def write_private(path: Path, content: bytes) -> None:
    """Writes a secret with mode 0600, durably, and never over an existing file (FileExistsError)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_private(path: Path) -> bytes:
    """Reads a secret. Raises KeyFileError where it is missing or where group or others have any right to it."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise KeyFileError(f"{path} has mode {mode:04o}, others can reach it: chmod 600 {path}")
            return file.read()
    except FileNotFoundError as error:
        raise KeyFileError(f"{path} is missing: run `claimledger certs`") from error


def make_signing_key(path: Path) -> Ed25519PrivateKey:
    """Makes and writes an Ed25519 key."""
    key = Ed25519PrivateKey.generate()
    write_private(path, key.private_bytes_raw().hex().encode())
    return key


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """Reads an Ed25519 key. Raises KeyFileError."""
    return Ed25519PrivateKey.from_private_bytes(_read_raw(path))


def make_hpke_key(path: Path) -> X25519PrivateKey:
    """Makes and writes an X25519 key that opens wrapped topic keys."""
    key = X25519PrivateKey.generate()
    write_private(path, key.private_bytes_raw().hex().encode())
    return key


def load_hpke_key(path: Path) -> X25519PrivateKey:
    """Reads an X25519 key. Raises KeyFileError."""
    return X25519PrivateKey.from_private_bytes(_read_raw(path))


def _read_raw(path: Path) -> bytes:
    try:
        raw = bytes.fromhex(read_private(path).decode("ascii"))
    except ValueError as error:
        raise KeyFileError(f"{path} is not hex") from error
    if len(raw) != 32:
        raise KeyFileError(f"{path} holds {len(raw)} bytes, 32 are wanted")
    return raw


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
