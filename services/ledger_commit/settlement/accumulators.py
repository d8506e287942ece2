"""Deductibles, out-of-pocket limits and limit classes: what has been used, and by whom.

An accumulator that a plan does not declare does not exist: no deductible is due, nothing caps, nothing is limited.
"""

from dataclasses import dataclass, field

from claims.quick import quick
from claims.result import Posting
from claims.transaction import AccumulatorKind, AccumulatorRule, AccumulatorScope, PublishPlan, Tier

AccumulatorName = bytes
"""Plan, year(2), kind, limit class, tier, scope, holder(16): the key of the state's accumulators.

Bytes, since every claim looks up several and an enum in a tuple costs a call to hash.
"""


def rule_name(plan: str, year: int, rule: AccumulatorRule) -> bytes:
    """An accumulator's name without its holder."""
    return plan.encode() + year.to_bytes(2, "big") + bytes((rule.kind, rule.limit_class, rule.tier, rule.scope))


@dataclass(frozen=True, slots=True)
class Limit:
    """One declared accumulator."""

    rule: AccumulatorRule
    name: bytes
    of_family: bool


@dataclass(frozen=True, slots=True)
class TierLimits:
    """What a plan declares for one network tier: individual and family, as far as declared."""

    deductible: tuple[Limit, ...]
    out_of_pocket: tuple[Limit, ...]
    classes: dict[int, tuple[Limit, ...]]


NO_LIMITS = TierLimits((), (), {})
_posting = quick(Posting)


def limits_of(plan: PublishPlan) -> dict[int, TierLimits]:
    """The plan's rules by tier, ready to be looked up."""
    return {int(tier): _tier_limits(plan, tier) for tier in Tier}


def _tier_limits(plan: PublishPlan, tier: Tier) -> TierLimits:
    def declared(kind: AccumulatorKind, limit_class: int = 0) -> tuple[Limit, ...]:
        return tuple(
            Limit(rule, rule_name(plan.plan, plan.year, rule), rule.scope is AccumulatorScope.FAMILY)
            for rule in plan.accumulators
            if (rule.kind, rule.limit_class, rule.tier) == (kind, limit_class, tier)
        )

    classes = {rule.limit_class for rule in plan.accumulators if rule.kind is AccumulatorKind.LIMIT_CLASS}
    return TierLimits(
        declared(AccumulatorKind.DEDUCTIBLE),
        declared(AccumulatorKind.OUT_OF_POCKET),
        {number: declared(AccumulatorKind.LIMIT_CLASS, number) for number in sorted(classes)},
    )


@dataclass(slots=True)
class Account:
    """One accumulator while a claim is adjudicated."""

    limit: Limit
    holder: bytes
    name: AccumulatorName
    limit_cents: int
    before: int
    now: int

    def posting(self, plan: str, year: int) -> Posting:
        rule = self.limit.rule
        return _posting(
            plan, year, rule.kind, rule.limit_class, rule.tier, rule.scope, self.holder, self.before, self.now
        )


Accounts = tuple[Account, ...]
"""The individual and family accounts of one kind; empty where the plan declares none."""


def remaining(accounts: Accounts) -> int | None:
    """The least that is left; None where nothing is declared."""
    least: int | None = None
    for account in accounts:
        left = account.limit_cents - account.now
        if least is None or left < least:
            least = left
    return least


def post(accounts: Accounts, amount_cents: int) -> None:
    """Adds to each of them."""
    for account in accounts:
        account.now += amount_cents
        assert 0 <= account.now <= account.limit_cents, "an accumulator stays within its limit"


@dataclass(slots=True)
class Ledger:
    """The accumulators of one claim while it is adjudicated: read from `used` once, written back by the caller."""

    used: dict[AccumulatorName, int]
    limits: TierLimits
    member: bytes
    family: bytes
    deductible: Accounts = ()
    out_of_pocket: Accounts = ()
    _classes: dict[int, Accounts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.deductible = self._open(self.limits.deductible)
        self.out_of_pocket = self._open(self.limits.out_of_pocket)

    def of_class(self, limit_class: int) -> Accounts:
        """The accounts of a limit class; empty where the plan does not declare it."""
        found = self._classes.get(limit_class)
        if found is None:
            found = self._classes[limit_class] = self._open(self.limits.classes.get(limit_class, ()))
        return found

    def changed(self) -> list[Account]:
        """What this claim posted to: limit classes in order of use, deductible, out-of-pocket."""
        opened = [account for accounts in self._classes.values() for account in accounts]
        return [
            account for account in (*opened, *self.deductible, *self.out_of_pocket) if account.now != account.before
        ]

    def _open(self, limits: tuple[Limit, ...]) -> Accounts:
        return tuple([self._account(limit) for limit in limits])

    def _account(self, limit: Limit) -> Account:
        holder = self.family if limit.of_family else self.member
        name = limit.name + holder
        used = self.used.get(name, 0)
        return Account(limit, holder, name, limit.rule.limit_cents, used, used)
