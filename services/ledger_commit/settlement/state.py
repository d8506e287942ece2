"""What the ledger knows after a block: organisations, plans, members, accumulators, claims, duplicate tags, results.

Every change goes through `State.write`, in order, and the state root is the hash over the root before and these
writes; two replicas with the same history have the same root.
"""

import hashlib
from dataclasses import dataclass, replace

from claims.transaction import (
    REGISTER_ORGANISATION,
    Enrollment,
    Genesis,
    KeyUse,
    OpenLane,
    OrganisationKey,
    PricedClaim,
    PublishPlan,
    RegisterOrganisation,
)
from ledger_commit.settlement.accumulators import Account, AccumulatorName, TierLimits, limits_of
from ledger_commit.settlement.merkle import MerkleTree

ClaimKey = tuple[str, bytes, int]
"""An organisation (submitter or payer), claim_ref and version."""


@dataclass(slots=True)
class ClaimEntry:
    """A spent version; one stays for every claim, so it is small. `pending` holds the claim while it is pended.

    `paid` is (line number, cents) of each line once it is settled or denied, for a later payer's coordination.
    `linked` is the claim that held one of its tags when it was pended as a duplicate. `refused_commitments` are others
    that came under this version and were refused; a repeat of one is absorbed too.
    """

    commitment: bytes
    step: int
    pending: PricedClaim | None
    paid: tuple[tuple[int, int], ...] | None
    linked: bytes | None = None
    refused_commitments: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class KnownPlan:
    plan: PublishPlan
    limits: dict[int, TierLimits]
    """By tier."""


class State:
    """Advanced in place by `contract.apply`: only committed blocks are executed, and they are never undone."""

    def __init__(self, chain_id: bytes, governance: tuple[str, ...]) -> None:
        self.chain_id = chain_id
        self.governance = governance
        """The organisations whose two thirds govern: those that run replicas."""
        self.epoch = 0
        """The founding committee's, as long as there is no other."""
        self.lanes: dict[str, OpenLane] = {}
        """By organisation of the committee, where it is not FIRST_LANE."""
        self.height = 0
        self.round = 0
        """Of the newest block, also while it is executed."""
        self.root = bytes(32)
        self.results = MerkleTree()
        self.organisations: dict[str, RegisterOrganisation] = {}
        self.keys: dict[tuple[str, int], OrganisationKey] = {}
        self.sequences: dict[tuple[str, int], int] = {}
        self.transactions: set[bytes] = set()
        """Those that took effect, by id."""
        self.refused: set[tuple[bytes, int]] = set()
        """Transaction and reason. Not written to the root by itself: it follows from the results."""
        self.plans: dict[tuple[str, int], KnownPlan] = {}
        self.members: dict[tuple[str, int, bytes], Enrollment] = {}
        self.accumulators: dict[AccumulatorName, int] = {}
        self.claims: dict[ClaimKey, ClaimEntry] = {}
        """By submitter: what is spent."""
        self.claims_of_payer: dict[ClaimKey, ClaimEntry] = {}
        """The same entries by payer, for reviews and for coordination of benefits."""
        self.tags: dict[bytes, ClaimKey] = {}
        """Duplicate tag of a live line → the claim that holds it, by submitter."""
        self.waiting: dict[bytes, list[ClaimKey]] = {}
        """Duplicate tag → the other live claims with it, as they came; one holds it next, should its holder be denied.

        Not written to the root by itself: it follows from the claims and their outcomes.
        """
        self.positions: dict[tuple[str, str], int] = {}
        """(payer, payee) → cents settled in all; the sum over payers is the sum over payees is that of all results."""
        self._moved: dict[tuple[str, str], None] = {}
        self._writes: list[bytes] = []

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
        digest = hashlib.sha256(REGISTER_ORGANISATION.encode(registration)).digest()
        self.write(b"o", registration.organisation.encode(), digest)

    def publish(self, plan: PublishPlan, body_digest: bytes) -> None:
        self.plans[plan.plan, plan.year] = KnownPlan(plan, limits_of(plan))
        self.write(b"p", plan.plan.encode() + plan.year.to_bytes(2, "big"), body_digest)

    def enroll(self, plan: str, year: int, enrollment: Enrollment) -> None:
        self.members[plan, year, enrollment.member_ref] = enrollment
        days = enrollment.first_day.to_bytes(4, "big", signed=True) + enrollment.last_day.to_bytes(
            4, "big", signed=True
        )
        name = plan.encode() + year.to_bytes(2, "big") + enrollment.member_ref
        self.write(b"m", name, enrollment.family_ref + days)

    def use_sequence(self, organisation: str, key_id: int, sequence: int) -> None:
        self.sequences[organisation, key_id] = sequence
        self.write(b"s", organisation.encode() + key_id.to_bytes(2, "big"), sequence.to_bytes(8, "big"))

    def open_lane(self, organisation: str, opened: OpenLane) -> None:
        """Closes the incarnation before."""
        self.lanes[organisation] = opened
        value = opened.incarnation.to_bytes(4, "big") + opened.after_round.to_bytes(8, "big")
        self.write(b"l", organisation.encode(), value)

    def take_effect_once(self, transaction_id: bytes) -> None:
        """A transaction that took effect is absorbed when it comes again."""
        self.transactions.add(transaction_id)
        self.write(b"x", transaction_id, b"")

    def refuse_once(self, transaction_id: bytes, reason: int) -> bool:
        """Whether the transaction has not been refused for this reason before; from now on it has."""
        refusal = (transaction_id, reason)
        if refusal in self.refused:
            return False
        self.refused.add(refusal)
        return True

    def key_for(self, organisation: str, key_id: int, use: KeyUse, height: int) -> OrganisationKey | None:
        """The organisation's key of that use, if it is valid at the height."""
        key = self.keys.get((organisation, key_id))
        if key is None or key.use is not use or height < key.valid_from_height:
            return None
        return None if key.valid_to_height and height > key.valid_to_height else key

    def write(self, kind: bytes, key: bytes, value: bytes) -> None:
        """Takes a change into the next state root: kind(1), key and value, each behind its length(2)."""
        self._writes.append(kind + len(key).to_bytes(2, "big") + key + len(value).to_bytes(2, "big") + value)

    def hold_tag(self, tag: bytes, holder: ClaimKey | None) -> None:
        """Gives the tag to this claim, or to nobody."""
        if holder is None:
            del self.tags[tag]
            self.write(b"t", tag, b"")
            return
        self.tags[tag] = holder
        submitter, claim_ref, version = holder
        self.write(b"t", tag, submitter.encode() + claim_ref + version.to_bytes(2, "big"))

    def post_accumulators(self, accounts: list[Account]) -> None:
        """Takes over what a claim posted."""
        for account in accounts:
            self.accumulators[account.name] = account.now
            self.write(b"a", account.name, account.now.to_bytes(8, "big"))

    def post_payment(self, payer: str, payee: str, paid_cents: int) -> None:
        """What the payer owes the payee grows."""
        parties = (payer, payee)
        self.positions[parties] = self.positions.get(parties, 0) + paid_cents
        self._moved[parties] = None

    def close_block(self) -> None:
        """root = H(root before ‖ H(writes in order)); unchanged where nothing was written."""
        for payer, payee in self._moved:
            self.write(b"n", payer.encode() + b"\0" + payee.encode(), self.positions[payer, payee].to_bytes(8, "big"))
        self._moved.clear()
        if self._writes:
            self.root = hashlib.sha256(self.root + hashlib.sha256(b"".join(self._writes)).digest()).digest()
            self._writes.clear()
