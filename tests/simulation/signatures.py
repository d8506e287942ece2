"""Two ways to sign in the simulator: pairs bound to signer and message, checked in a microsecond, and real BLS."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from claims.transaction import GENESIS, Genesis, GenesisReplica
from ledger_commit.consensus.certificates import Signatures
from ledger_commit.consensus.committee import Committee, Member
from ledger_commit.consensus.messages import HEADER, QUORUM_CERT, Header, QuorumCert
from ledger_commit.opening import committee_of
from runtime.bls import ORDER, Bls, PyblstBackend
from verify_settlement import Verifier


def public_key(index: int) -> bytes:
    return hashlib.sha384(b"member%d" % index).digest()


def lane_key(index: int) -> bytes:
    return hashlib.sha256(b"lane%d" % index).digest()


def sign_lane(key: bytes, message: bytes) -> bytes:
    return hashlib.sha512(b"secret" + key + message).digest()


def verify_lane(key: bytes, message: bytes, signature: bytes) -> bool:
    return sign_lane(key, message) == signature


def sign(key: bytes, message: bytes) -> bytes:
    return hashlib.sha256(b"secret" + key + message).digest() * 3


def _combine(signatures: Sequence[bytes]) -> bytes:
    total = 0
    for signature in signatures:
        total ^= int.from_bytes(signature, "big")
    return total.to_bytes(96, "big")


class PairSignatures:
    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        return sign(public_key, message) == signature

    def aggregate(self, signatures: Sequence[bytes]) -> bytes:
        return _combine(signatures)

    def verify_same(self, public_keys: Sequence[bytes], message: bytes, aggregate: bytes) -> bool:
        return _combine([sign(k, message) for k in public_keys]) == aggregate

    def verify_distinct(self, groups: Sequence[tuple[Sequence[bytes], bytes]], aggregate: bytes) -> bool:
        return _combine([sign(k, message) for keys, message in groups for k in keys]) == aggregate


def committee(size: int, chain_id: bytes, epoch: int = 0) -> Committee:
    return Committee(chain_id, epoch, tuple(Member(f"org{i}", public_key(i), lane_key(i)) for i in range(size)))


class Signing(Protocol):
    """A committee, its members' hands, and how its signatures are checked."""

    @property
    def committee(self) -> Committee: ...

    @property
    def checks(self) -> Signatures: ...

    def sign(self, key: bytes, message: bytes) -> bytes:
        """The member with this public key signs."""
        ...

    def light_client_refuses(self, header: Header, qc: QuorumCert) -> str:
        """Why somebody who holds only the genesis does not take the QC for a commit proof, or nothing."""
        ...


@dataclass
class PairSigning:
    committee: Committee
    checks: Signatures

    @classmethod
    def of(cls, size: int, epoch: int = 0) -> "PairSigning":
        return cls(committee(size, hashlib.sha256(b"chain").digest(), epoch), PairSignatures())

    def sign(self, key: bytes, message: bytes) -> bytes:
        return sign(key, message)

    def light_client_refuses(self, header: Header, qc: QuorumCert) -> str:
        return ""


@dataclass
class BlsSigning:
    """Keys with their proofs in a genesis, as the replicas read it; the light client is the one that users get."""

    committee: Committee
    checks: Bls
    light_client: Verifier | None
    """None where it would refuse the genesis."""
    secrets: dict[bytes, int]

    @classmethod
    def of(cls, size: int) -> "BlsSigning":
        bls = Bls(PyblstBackend())
        secrets = range(101, 101 + size)
        genesis = founded(bls, secrets)
        members = committee_of(genesis, chain_id_of(genesis), bls)
        hands = {member.public_key: secret for member, secret in zip(members.members, secrets, strict=True)}
        return cls(members, bls, Verifier(GENESIS.encode(genesis)), hands)

    @classmethod
    def with_a_rogue(cls) -> tuple["BlsSigning", int]:
        """Member 0 has a key made to cancel the others'; with the secret returned it signs alone for all four.

        Raises GenesisError, unless possession is not checked.
        """
        bls, secrets, alone = Bls(PyblstBackend()), (101, 102, 103, 104), 5
        genesis, points = founded(bls, secrets), bls.backend
        others = points.add([bls.key_point(bls.public_key(secret)) for secret in secrets[1:]])
        own = points.add([bls.key_point(bls.public_key(alone)), points.times(others, ORDER - 1)])
        rogue = replace(genesis.replicas[0], bls_public_key=points.write_key(own))
        genesis = replace(genesis, replicas=(rogue, *genesis.replicas[1:]))
        members = committee_of(genesis, chain_id_of(genesis), bls)
        hands = {member.public_key: secret for member, secret in zip(members.members, secrets, strict=True)}
        return cls(members, bls, None, hands), alone

    def sign(self, key: bytes, message: bytes) -> bytes:
        return self.checks.sign(self.secrets[key], message)

    def light_client_refuses(self, header: Header, qc: QuorumCert) -> str:
        if self.light_client is None:
            return ""
        try:
            self.light_client._certified(HEADER.encode(header), QUORUM_CERT.encode(qc))
        except ValueError as error:
            return str(error)
        return ""


def founded(bls: Bls, secrets: Sequence[int]) -> Genesis:
    """A genesis whose members prove possession of the keys behind these secrets."""
    replicas = tuple(
        GenesisReplica(f"org{i}", bls.public_key(secret), bls.prove_possession(secret), lane_key(i))
        for i, secret in enumerate(secrets)
    )
    return Genesis("simulation", "USD", 0, replicas, ())


def chain_id_of(genesis: Genesis) -> bytes:
    return hashlib.sha256(GENESIS.encode(genesis)).digest()
