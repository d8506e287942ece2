"""Deductibles, out-of-pocket limits and limit classes: what has been used, and by whom.

An accumulator that a plan does not declare does not exist: no deductible is due, nothing caps, nothing is limited.
"""

from dataclasses import dataclass, field

from claims.result import Posting
from claims.transaction import AccumulatorKind, AccumulatorScope, PublishPlan, Tier

Key = tuple[str, int, AccumulatorKind, int, Tier, AccumulatorScope, bytes]
"""Plan, year, kind, limit class, tier, scope, holder (member_ref or family_ref)."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One declared accumulator."""

    scope: AccumulatorScope
    limit_cents: int


Limits = dict[tuple[AccumulatorKind, int, Tier], tuple[Limit, ...]]
"""By kind, limit class and tier: the individual and the family accumulator, as far as declared."""


def limits_of(plan: PublishPlan) -> Limits:
    """The plan's rules, ready to be looked up."""
    found: dict[tuple[AccumulatorKind, int, Tier], list[Limit]] = {}
    for rule in plan.accumulators:
        found.setdefault((rule.kind, rule.limit_class, rule.tier), []).append(Limit(rule.scope, rule.limit_cents))
    return {key: tuple(limits) for key, limits in found.items()}


@dataclass(slots=True)
class Ledger:
    """The accumulators of one claim while it is adjudicated: reads go through to `used`, posts stay here."""

    used: dict[Key, int]
    limits: Limits
    plan: str
    year: int
    tier: Tier
    member: bytes
    family: bytes
    posted: dict[Key, int] = field(default_factory=dict)

    def remaining(self, kind: AccumulatorKind, limit_class: int = 0) -> int | None:
        """The least that is left of the individual and family accumulators; None where neither is declared."""
        limits = self.limits.get((kind, limit_class, self.tier))
        if not limits:
            return None
        return min(limit.limit_cents - self._value(self._key(kind, limit_class, limit.scope)) for limit in limits)

    def post(self, kind: AccumulatorKind, amount_cents: int, limit_class: int = 0) -> None:
        """Adds to each declared accumulator of this kind."""
        if not amount_cents:
            return
        for limit in self.limits.get((kind, limit_class, self.tier), ()):
            key = self._key(kind, limit_class, limit.scope)
            after = self._value(key) + amount_cents
            assert 0 <= after <= limit.limit_cents, "an accumulator stays within its limit"
            self.posted[key] = after

    def postings(self) -> tuple[Posting, ...]:
        """What this claim changed, each accumulator before and after, in the order of first posting."""
        return tuple(Posting(*key, self.used.get(key, 0), after) for key, after in self.posted.items())

    def _key(self, kind: AccumulatorKind, limit_class: int, scope: AccumulatorScope) -> Key:
        holder = self.member if scope is AccumulatorScope.INDIVIDUAL else self.family
        return (self.plan, self.year, kind, limit_class, self.tier, scope, holder)

    def _value(self, key: Key) -> int:
        return self.posted[key] if key in self.posted else self.used.get(key, 0)
