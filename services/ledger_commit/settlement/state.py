"""What the ledger knows after a block: organisations, plans, members, accumulators, claims, duplicate tags, results.

Every change goes through `State.write`, in order, and the state root is the hash over the root before and these
writes; two replicas with the same history have the same root.
"""

import hashlib
from dataclasses import dataclass, field, replace

from claims.result import SettledLine
from claims.transaction import (
    Enrollment,
    Genesis,
    KeyUse,
    OrganisationKey,
    PricedClaim,
    PublishPlan,
    RegisterOrganisation,
)
from ledger_commit.settlement.accumulators import Key, Limits, limits_of
from ledger_commit.settlement.merkle import MerkleTree

ClaimKey = tuple[str, bytes, int]
"""An organisation (submitter or payer), claim_ref and version."""


@dataclass(slots=True)
class ClaimEntry:
    """A spent version. `pending` holds the claim while it is pended, `lines` what was settled.

    `refused_commitments` are others that came under this version and were refused; a repeat of one is absorbed too.
    """

    commitment: bytes
    step: int
    pending: PricedClaim | None
    lines: tuple[SettledLine, ...]
    settled: bool
    refused_commitments: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class KnownPlan:
    plan: PublishPlan
    limits: Limits


class State:
    """Advanced in place by `contract.apply`: only committed blocks are executed, and they are never undone."""

    def __init__(self, chain_id: bytes, governance: tuple[str, ...]) -> None:
        self.chain_id = chain_id
        self.governance = governance
        """The organisations whose two thirds govern: those that run replicas."""
        self.height = 0
        self.root = bytes(32)
        self.results = MerkleTree()
        self.organisations: dict[str, RegisterOrganisation] = {}
        self.keys: dict[tuple[str, int], OrganisationKey] = {}
        self.sequences: dict[tuple[str, int], int] = {}
        self.transactions: set[bytes] = set()
        self.plans: dict[tuple[str, int], KnownPlan] = {}
        self.members: dict[tuple[str, int, bytes], Enrollment] = {}
        self.accumulators: dict[Key, int] = {}
        self.claims: dict[ClaimKey, ClaimEntry] = {}
        """By submitter: what is spent."""
        self.claims_of_payer: dict[ClaimKey, ClaimEntry] = {}
        """The same entries by payer, for reviews and for coordination of benefits."""
        self.tags: dict[bytes, bytes] = {}
        """Duplicate tag of a live line → the claim_ref that holds it."""
        self._writes = hashlib.sha256()
        self._written = False

    @classmethod
    def from_genesis(cls, genesis: Genesis, chain_id: bytes) -> "State":
        """The state before the first block. `chain_id` is SHA-256 of the genesis' encoding."""
        state = cls(chain_id, tuple(replica.organisation for replica in genesis.replicas))
        for registration in genesis.organisations:
            state.register(replace(registration, prefix=replace(registration.prefix, chain_id=chain_id)))
        state.close_block()
        return state

    def register(self, registration: RegisterOrganisation) -> None:
        self.organisations[registration.organisation] = registration
        for key in registration.keys:
            self.keys[registration.organisation, key.key_id] = key
        self.write(b"o", registration.organisation.encode(), b"".join(key.public_key for key in registration.keys))

    def publish(self, plan: PublishPlan, body_digest: bytes) -> None:
        self.plans[plan.plan, plan.year] = KnownPlan(plan, limits_of(plan))
        self.write(b"p", plan.plan.encode(), body_digest)

    def enroll(self, plan: str, year: int, enrollment: Enrollment) -> None:
        self.members[plan, year, enrollment.member_ref] = enrollment
        days = enrollment.first_day.to_bytes(4, "big", signed=True) + enrollment.last_day.to_bytes(
            4, "big", signed=True
        )
        self.write(b"m", plan.encode() + enrollment.member_ref, enrollment.family_ref + days)

    def key_for(self, organisation: str, key_id: int, use: KeyUse, height: int) -> OrganisationKey | None:
        """The organisation's key of that use, if it is valid at the height."""
        key = self.keys.get((organisation, key_id))
        if key is None or key.use is not use or height < key.valid_from_height:
            return None
        return None if key.valid_to_height and height > key.valid_to_height else key

    def write(self, kind: bytes, key: bytes, value: bytes) -> None:
        """Takes a change into the next state root: kind(1), key and value, each behind its length(2)."""
        self._written = True
        self._writes.update(kind + len(key).to_bytes(2, "big") + key + len(value).to_bytes(2, "big") + value)

    def post_accumulators(self, posted: dict[Key, int]) -> None:
        """Takes over what a claim posted."""
        for key, after in posted.items():
            plan, year, kind, limit_class, tier, scope, holder = key
            self.accumulators[key] = after
            name = plan.encode() + bytes((year >> 8, year & 255, kind, limit_class, tier, scope)) + holder
            self.write(b"a", name, after.to_bytes(8, "big"))

    def close_block(self) -> None:
        """root = H(root before ‖ H(writes)); unchanged where nothing was written."""
        if self._written:
            self.root = hashlib.sha256(self.root + self._writes.digest()).digest()
        self._writes = hashlib.sha256()
        self._written = False
