"""What the ledger accepts: a closed list of transactions in the fixed encoding.

Two things travel in consensus batches, told apart by the first byte of an entry: a `ScoredRecord` (many priced
claims of one payer and provider bucket under the payer's and the scorer's signatures) and a
`SignedTransaction` (everything else). Consensus treats both as opaque bytes.

Source: settlement.md, Transactions; ADR 0008 (one prefix for a record instead of one for each claim).
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Final

from claims.claim import MAX_LINES, ClaimRef, Frequency, OrganisationId
from claims.encoding import U8, U16, U32, U64, Ascii, Bytes, Cents, Codec, Day, Fixed, Hash, Many

MAX_CLAIMS_PER_RECORD: Final = 200
MAX_RECORD_BYTES: Final = 256 * 1024

PlanId = Annotated[str, Ascii(32)]
Ref = Annotated[bytes, Fixed(16)]
"""A pseudonym of 16 bytes, scoped to one relationship (plan and member, payer and provider)."""
PublicKey = Annotated[bytes, Fixed(32)]
"""An Ed25519 public key."""
Signature = Annotated[bytes, Fixed(64)]
"""An Ed25519 signature."""


class Kind(IntEnum):
    RECORD = 1
    REGISTER_ORGANISATION = 2
    PUBLISH_PLAN = 3
    ENROLL_MEMBER = 4
    REVIEW_CLAIM = 5
    REOPEN_LANE = 6


class Role(IntEnum):
    INSURER = 1
    PROVIDER = 2
    REGULATOR = 3
    CUSTODIAN = 4
    SPONSOR = 5
    MANUFACTURER = 6


class KeyUse(IntEnum):
    """What a registered Ed25519 key may sign."""

    ORGANISATION = 1
    """Transactions of the organisation."""
    PRICING = 2
    """Records of priced claims."""
    SCORING = 3
    """Pend bits beside a record."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The common beginning of everything that is signed for the ledger.

    `sequence` rises strictly for each (organisation, key_id); it is 0 and unused for records, reviews and reopened lanes,
    which have a spent rule of their own. `expires_height` is the last height at which the transaction may stand, 0 for none.
    """

    chain_id: Hash
    kind: Kind
    organisation: OrganisationId
    key_id: Annotated[int, U16]
    sequence: Annotated[int, U64]
    expires_height: Annotated[int, U64]


@dataclass(frozen=True, slots=True)
class OrganisationKey:
    key_id: Annotated[int, U16]
    use: KeyUse
    public_key: PublicKey
    valid_from_height: Annotated[int, U64]
    valid_to_height: Annotated[int, U64]
    """Last height, 0 for open-ended."""


@dataclass(frozen=True, slots=True)
class RegisterOrganisation:
    prefix: Prefix
    organisation: OrganisationId
    roles: Annotated[tuple[Role, ...], Many(6)]
    keys: Annotated[tuple[OrganisationKey, ...], Many(16)]


class AccumulatorKind(IntEnum):
    DEDUCTIBLE = 1
    OUT_OF_POCKET = 2
    LIMIT_CLASS = 3


class AccumulatorScope(IntEnum):
    INDIVIDUAL = 1
    FAMILY = 2


class Tier(IntEnum):
    """The network tier of the provider for this plan."""

    IN_NETWORK = 1
    OUT_OF_NETWORK = 2


class CobMethod(IntEnum):
    """How a later payer counts what earlier payers paid (settlement.md, step 7)."""

    STANDARD = 1
    NON_DUPLICATION = 2
    MAINTENANCE = 3


@dataclass(frozen=True, slots=True)
class AccumulatorRule:
    kind: AccumulatorKind
    limit_class: Annotated[int, U8]
    """Which limit class, 1 to 255; 0 for the other kinds."""
    tier: Tier
    scope: AccumulatorScope
    limit_cents: Cents


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """A plan for one benefit year, shared by its payers; needs a signature of each of them."""

    prefix: Prefix
    plan: PlanId
    year: Annotated[int, U16]
    payers: Annotated[tuple[OrganisationId, ...], Many(16)]
    accumulators: Annotated[tuple[AccumulatorRule, ...], Many(64)]
    cob_method: CobMethod
    rule_set_hash: Hash
    first_day: Day
    last_day: Day


@dataclass(frozen=True, slots=True)
class Enrollment:
    member_ref: Ref
    family_ref: Ref
    first_day: Day
    last_day: Day


@dataclass(frozen=True, slots=True)
class EnrollMember:
    """Members of a plan; signed by one of its payers."""

    prefix: Prefix
    plan: PlanId
    year: Annotated[int, U16]
    members: Annotated[tuple[Enrollment, ...], Many(500)]


class ReviewDecision(IntEnum):
    RELEASE = 1
    DENY = 2


class ReasonClass(IntEnum):
    """Why a claim is held or a review decided so; never free text, since blocks are for ever."""

    NONE = 0
    FRAUD_SUSPICION = 1
    DUPLICATE = 2
    EDIT = 3
    MEDICAL_NECESSITY = 4
    CLEARED = 5


@dataclass(frozen=True, slots=True)
class ReviewClaim:
    """The payer's decision on a pended claim."""

    prefix: Prefix
    claim_ref: ClaimRef
    version: Annotated[int, U16]
    decision: ReviewDecision
    reason: ReasonClass
    denial_carc: Annotated[str, Ascii(5)]
    """CARC for a denial; empty for a release."""


@dataclass(frozen=True, slots=True)
class ReopenLane:
    """The operator's statement for a member whose replica lost its record of what it has signed.

    The organisation says: what its replica signed so far is of rounds up to `last_voted_round`; from the next round on it signs
    again, never below this high QC, and its batches go into a new incarnation of its lane. Source: consensus.md §8.
    """

    prefix: Prefix
    epoch: Annotated[int, U64]
    incarnation: Annotated[int, U32]
    """One more than the member's open one; the first is 1 and needs no statement."""
    high_qc_round: Annotated[int, U64]
    high_qc_digest: Hash
    """SHA-256 of the QuorumCert's encoding."""
    last_voted_round: Annotated[int, U64]


@dataclass(frozen=True, slots=True)
class OpenLane:
    """The incarnation of a member's lane that is open, and the round behind which the member signs in it."""

    incarnation: int
    after_round: int


FIRST_LANE: Final = OpenLane(1, 0)
"""Every member's, until a statement opens another."""


class Group(IntEnum):
    """CAS01, the claim adjustment group."""

    CO = 1
    PR = 2
    OA = 3
    PI = 4


class Disposition(IntEnum):
    PAY = 1
    PEND = 2
    DENY = 3


@dataclass(frozen=True, slots=True)
class PricedLine:
    """One line as the payer priced it, without codes (settlement.md, SubmitClaim)."""

    number: Annotated[int, U16]
    charge_cents: Cents
    allowed_cents: Cents
    contractual_group: Group
    """CO or PR, for what exceeds the allowed amount."""
    limit_class: Annotated[int, U8]
    """0 for none."""
    copay_cents: Cents
    coinsurance_bp: Annotated[int, U16]
    """Basis points, 0 to 10,000."""
    deductible_applies: bool
    other_payer_paid_cents: Cents
    duplicate_tag: Hash
    denial_group: Group
    """Read only where `denial_carc` is not empty."""
    denial_carc: Annotated[str, Ascii(5)]


@dataclass(frozen=True, slots=True)
class PriorClaim:
    """A prior payer's claim on this ledger, whose result coordinates the benefits."""

    payer: OrganisationId
    claim_ref: ClaimRef
    version: Annotated[int, U16]


@dataclass(frozen=True, slots=True)
class PricedClaim:
    """SubmitClaim without its prefix, which the record carries once."""

    claim_ref: ClaimRef
    version: Annotated[int, U16]
    frequency: Frequency
    submitter: OrganisationId
    payer: OrganisationId
    payee: OrganisationId
    provider_ref: Ref
    member_ref: Ref
    plan: PlanId
    plan_year: Annotated[int, U16]
    tier: Tier
    service_day: Day
    received_day: Day
    authorization: Hash | None
    """The token of a prior authorisation (not its number)."""
    disposition: Disposition
    reason: ReasonClass
    """Why, where the disposition is PEND."""
    commitment: Hash
    envelope_digest: Hash
    prior: Annotated[tuple[PriorClaim, ...], Many(2)]
    lines: Annotated[tuple[PricedLine, ...], Many(MAX_LINES)]


@dataclass(frozen=True, slots=True)
class Record:
    """Priced claims of one payer and one provider bucket; signed as a whole and never split, merged or edited."""

    prefix: Prefix
    bucket: Annotated[int, U16]
    rule_set_hash: Hash
    claims: Annotated[tuple[PricedClaim, ...], Many(MAX_CLAIMS_PER_RECORD)]


@dataclass(frozen=True, slots=True)
class ScoredRecord:
    """A record with the payer's signature and, beside it, the scorer's pend bits.

    `pend_bits`: bit i (least significant first within a byte) turns claim i from pay into pend; ⌈n/8⌉ bytes. The
    scoring signature is over `scoring_message`, the payer's over `record_message`.
    """

    record: Annotated[bytes, Bytes(MAX_RECORD_BYTES)]
    signature: Signature
    pend_bits: Annotated[bytes, Bytes(MAX_CLAIMS_PER_RECORD // 8)]
    scoring_key_id: Annotated[int, U16]
    scoring_signature: Signature


@dataclass(frozen=True, slots=True)
class PartySignature:
    organisation: OrganisationId
    key_id: Annotated[int, U16]
    signature: Signature


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A transaction other than a record: its body's bytes and the signatures over `transaction_message(body)`."""

    kind: Kind
    body: Annotated[bytes, Bytes(64 * 1024)]
    signatures: Annotated[tuple[PartySignature, ...], Many(32)]


PRICED_CLAIM: Final = Codec(PricedClaim)
RECORD: Final = Codec(Record)
SCORED_RECORD: Final = Codec(ScoredRecord)
SIGNED_TRANSACTION: Final = Codec(SignedTransaction)
REGISTER_ORGANISATION: Final = Codec(RegisterOrganisation)
PUBLISH_PLAN: Final = Codec(PublishPlan)
ENROLL_MEMBER: Final = Codec(EnrollMember)
REVIEW_CLAIM: Final = Codec(ReviewClaim)
REOPEN_LANE: Final = Codec(ReopenLane)

ENTRY_SCORED_RECORD: Final = 1
ENTRY_TRANSACTION: Final = 2
"""First byte of a ledger entry; the encoding of the named structure follows."""


def record_message(record: bytes) -> bytes:
    """What the payer's pricing key signs: a domain label before the record's bytes."""
    return b"claimledger/v1/record" + record


def scoring_message(record_digest: bytes, pend_bits: bytes) -> bytes:
    """What the payer's scoring key signs; `record_digest` is SHA-256 of the record's bytes."""
    return b"claimledger/v1/scoring" + record_digest + pend_bits


def transaction_message(body: bytes) -> bytes:
    """What each party signs of a transaction other than a record or an operator's statement."""
    return b"claimledger/v1/transaction" + body


OPERATOR_TYPE: Final = 5
"""Of the messages of consensus (docs/ENCODING.md, section 8)."""


def operator_message(chain_id: bytes, epoch: int, body: bytes) -> bytes:
    """What the organisation signs of its statement for its replica: a message of consensus, bound to chain and epoch."""
    head = b"claimledger/v1" + bytes((OPERATOR_TYPE,)) + chain_id + epoch.to_bytes(8, "big")
    return hashlib.sha256(head + body).digest()


@dataclass(frozen=True, slots=True)
class GenesisReplica:
    """A founding member of the committee."""

    organisation: OrganisationId
    bls_public_key: Annotated[bytes, Fixed(48)]
    bls_possession: Annotated[bytes, Fixed(96)]
    """Proof of possession of the BLS key (consensus.md §2)."""
    lane_public_key: PublicKey
    """Signs the replica's batches."""


@dataclass(frozen=True, slots=True)
class Genesis:
    """Where a ledger begins. The chain id is SHA-256 of its encoding."""

    name: Annotated[str, Ascii(64)]
    currency: Annotated[str, Ascii(3)]
    time_ms: Annotated[int, U64]
    """Milliseconds since 1970-01-01 UTC."""
    replicas: Annotated[tuple[GenesisReplica, ...], Many(64)]
    organisations: Annotated[tuple[RegisterOrganisation, ...], Many(256)]
    """Registered from height 0; their prefixes have a chain id of zeros and carry no signature."""


GENESIS: Final = Codec(Genesis)


class RefusalReason(IntEnum):
    """Why the contract refused a transaction or a claim; one typed reason, changes nothing."""

    MALFORMED = 1
    WRONG_CHAIN = 2
    UNKNOWN_ORGANISATION = 3
    BAD_SIGNATURE = 4
    KEY_NOT_VALID = 5
    EXPIRED = 6
    SEQUENCE = 7
    NOT_AUTHORISED = 8
    UNKNOWN_PLAN = 9
    PLAN_LIMIT_FELL = 10
    NOT_ENROLLED = 11
    AMOUNT_OUT_OF_RANGE = 12
    ALLOWED_EXCEEDS_CHARGE = 13
    VERSION_SPENT = 14
    FREQUENCY_NOT_SUPPORTED = 15
    UNKNOWN_CLAIM = 16
    NOT_PENDED = 17
    DUPLICATE_LINE_NUMBER = 18
    RULE_SET_MISMATCH = 19
    SERVICE_DAY_OUTSIDE_PLAN = 20
    PAYER_NOT_OF_PLAN = 21
    ALREADY_REGISTERED = 22
    KIND_NOT_SUPPORTED = 23
    BAD_DISPOSITION = 24
    WRONG_EPOCH = 25
    WRONG_INCARNATION = 26
    ROUND_NOT_LATER = 27
    ROUND_NOT_REACHED = 28


UNUSED_SEQUENCE: Final = 0
