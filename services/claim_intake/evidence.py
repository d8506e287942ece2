"""What ends intake's duty for a claim: a settlement that the ledger proves, or a rejection that the payer signed.

Both are checked against intake's own record of the claim: reference, version, parties and commitment. A document that
does not hold is refused with the reason, and the claim stays open.

Source: claims.md, Status; settlement.md, Results.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.message import DecodeError as ProtoDecodeError

from claim_intake.store.keeping import Duty, Evidence
from claimledger.events.v1 import events_pb2
from claimledger.ledger.v1 import ledger_pb2
from claims.encoding import DecodeError
from claims.rejection import REJECTION, Rejection, rejection_message
from claims.result import CLAIM_RESULT, ClaimResult, Outcome
from runtime.network import Network
from runtime.stage import DataError

REJECTED: Final = 0
"""Evidence.outcome of a rejection."""
Verify = Callable[[ledger_pb2.SettlementProof, int], object]
"""Accepts a proof and the height of its decoded result, or raises ValueError saying why not."""
ClaimKey = tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class Settlement:
    """A result as the proof gives it; nothing is verified yet."""

    result: ClaimResult
    proof: ledger_pb2.SettlementProof
    document: bytes

    @property
    def key(self) -> ClaimKey:
        return self.result.claim_ref, self.result.version


@dataclass(frozen=True, slots=True)
class SignedRejection:
    rejection: Rejection
    payer: str
    """Whose topic it came from."""
    body: bytes
    signature: bytes
    document: bytes

    @property
    def key(self) -> ClaimKey:
        return self.rejection.claim_ref, self.rejection.version


def read_settlement(value: bytes) -> Settlement:
    """A SettlementProof's result. Raises DataError."""
    try:
        proof = ledger_pb2.SettlementProof.FromString(value)
    except ProtoDecodeError as error:
        raise DataError("not a SettlementProof") from error
    proof.DiscardUnknownFields()
    if proof.SerializeToString(deterministic=True) != value:
        raise DataError("the proof has more than its six fields, or has them in another order")
    try:
        return Settlement(CLAIM_RESULT.decode(proof.result), proof, value)
    except DecodeError as error:
        raise DataError(f"the proof's result is no claim's: {error}") from None


def read_rejection(value: bytes, payer: str) -> SignedRejection:
    """A RejectedClaim. Raises DataError."""
    try:
        message = events_pb2.RejectedClaim.FromString(value)
    except ProtoDecodeError as error:
        raise DataError("not a RejectedClaim") from error
    try:
        return SignedRejection(REJECTION.decode(message.rejection), payer, message.rejection, message.signature, value)
    except DecodeError as error:
        raise DataError(f"not a rejection: {error}") from None


def settled(settlement: Settlement, duty: Duty, verify: Verify) -> Evidence:
    """The evidence of a settlement whose proof holds and which is about this very claim. Raises DataError."""
    result = settlement.result
    if (result.submitter, result.payer) != (duty.submitter, duty.payer):
        raise DataError("the settlement names other parties than the accepted claim", "wrong-parties")
    if result.commitment != duty.commitment:
        raise DataError("the settlement's commitment is not that of the accepted claim", "wrong-commitment")
    try:
        verify(settlement.proof, result.height)
    except ValueError as error:
        raise DataError(f"the proof does not hold: {error}", "bad-proof") from error
    final = result.outcome is not Outcome.PENDED
    return Evidence(duty, int(result.outcome), result.step, settlement.document, final)


def rejected(signed: SignedRejection, duty: Duty, network: Network) -> Evidence:
    """The evidence of a rejection under the payer's key and about this very claim. Raises DataError."""
    rejection = signed.rejection
    if rejection.chain_id.hex() != network.chain_id:
        raise DataError("the rejection is for another chain", "wrong-chain")
    if not rejection.payer == signed.payer == duty.payer or rejection.submitter != duty.submitter:
        raise DataError("the rejection names other parties than the accepted claim", "wrong-parties")
    if rejection.commitment != duty.commitment:
        raise DataError("the rejection's commitment is not that of the accepted claim", "wrong-commitment")
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(network.pricing_keys[duty.payer]))
    try:
        key.verify(signed.signature, rejection_message(signed.body))
    except InvalidSignature:
        raise DataError("the rejection is not signed by the payer's pricing key", "bad-signature") from None
    return Evidence(duty, REJECTED, 0, signed.document, final=True)
