"""Random histories of claims under few tags, of reviews and of coordination: a service is paid once, or knowingly again.

A release is knowing where the claim was pended as a duplicate: whoever reviewed it saw the link.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from claims.result import ClaimResult, Outcome
from claims.transaction import PriorClaim, ReasonClass, ReviewDecision
from tests.fixtures.ledger_world import LedgerWorld, claim, line, ref, scored_entry
from tests.unit.settlement.reference import PlainTags

TAGS = ("knee", "hip", "eye")


@dataclass
class History:
    """The contract and the plain implementation, side by side; each claim is by name."""

    world: LedgerWorld = field(default_factory=LedgerWorld)
    plain: PlainTags = field(default_factory=PlainTags)
    last: dict[str, ClaimResult] = field(default_factory=dict)
    knowing: set[str] = field(default_factory=set)
    """Claims that were pended as duplicates."""
    priors: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.world.plan()
        self.world.enroll("ada")

    def submit(self, tags: list[str], prior: list[str], *, pended: bool) -> None:
        name = f"claim{len(self.last)}"
        lines = [line(n, duplicate_tag=hashlib.sha256(tag.encode()).digest()) for n, tag in enumerate(tags, 1)]
        named = tuple(PriorClaim("aurora", ref(other), 1) for other in prior)
        entry = scored_entry([claim(name, lines, prior=named)], pend=(0,) if pended else ())
        told = self._keep(name, self.world.block(entry).outcomes[-1])
        self.priors[name] = prior
        if told.reason is ReasonClass.DUPLICATE:
            self.knowing.add(name)
        state, linked = self.plain.submit(name, tags, prior, pended=pended)
        assert (told.outcome.name, told.linked) == (state, ref(linked) if linked else None)

    def review(self, name: str, *, release: bool) -> None:
        decision = ReviewDecision.RELEASE if release else ReviewDecision.DENY
        told = self._keep(name, self.world.review(name, decision, "" if release else "50").outcomes[-1])
        assert told.outcome.name == self.plain.review(name, release=release)

    def _keep(self, name: str, told: Any) -> ClaimResult:
        assert isinstance(told, ClaimResult)
        self.last[name] = told
        return told

    def of(self, outcome: Outcome) -> list[str]:
        return [name for name, told in self.last.items() if told.outcome is outcome]

    def paid_twice(self) -> list[tuple[str, str]]:
        """Pairs of settled claims under one tag, of which nobody released one knowingly and neither names the other; and such
        claims that have a tag twice themselves."""
        settled = [name for name in self.of(Outcome.SETTLED) if name not in self.knowing]
        alone = [(name, name) for name in settled if len(set(self.plain.tags[name])) < len(self.plain.tags[name])]
        return alone + [
            (first, second)
            for i, first in enumerate(settled)
            for second in settled[i + 1 :]
            if set(self.plain.tags[first]) & set(self.plain.tags[second]) and first not in self.priors[second]
        ]


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_no_service_is_paid_twice_unless_a_review_released_a_known_duplicate(data: st.DataObject) -> None:
    """And the plain implementation says the same of every claim, of every link, and of who holds each tag."""
    history = History()
    for step in data.draw(st.lists(st.sampled_from(("submit", "submit", "release", "deny")), min_size=3, max_size=16)):
        held = history.of(Outcome.PENDED)
        if step == "submit":
            tags = data.draw(st.lists(st.sampled_from(TAGS), min_size=1, max_size=2))
            known = sorted(history.last)
            prior = data.draw(st.lists(st.sampled_from(known), max_size=2, unique=True)) if known else []
            history.submit(tags, prior, pended=data.draw(st.booleans()))
        elif held:
            history.review(data.draw(st.sampled_from(held)), release=step == "release")
        assert history.paid_twice() == []
    holders = {hashlib.sha256(t.encode()).digest(): live[0] for t, live in history.plain.live.items() if live}
    assert history.world.state.tags == {tag: ("aurora", ref(name), 1) for tag, name in holders.items()}
