"""Adjudication and duplicates once more, written plainly from the design page and sharing nothing with the contract's code.

Accumulators are one dict of what is used; limits another. All in cents.
"""

from typing import Any


class PlainLedger:
    def __init__(self, limits: dict[tuple[str, str], int], cob: str) -> None:
        self.limits = limits
        """(kind, scope) → limit; kinds deductible, oop, class1…"""
        self.cob = cob
        self.used: dict[tuple[str, str, str], int] = {}

    def left(self, kind: str, member: str) -> int | None:
        found = []
        for scope, holder in (("individual", member), ("family", "all")):
            if (kind, scope) in self.limits:
                found.append(self.limits[kind, scope] - self.used.get((kind, scope, holder), 0))
        return min(found) if found else None

    def add(self, kind: str, member: str, amount: int) -> None:
        for scope, holder in (("individual", member), ("family", "all")):
            if (kind, scope) in self.limits:
                self.used[kind, scope, holder] = self.used.get((kind, scope, holder), 0) + amount

    def share(self, line: dict[str, Any], member: str, amount: int) -> list[int]:
        deductible = 0
        if line["deductible"]:
            left = self.left("deductible", member)
            deductible = min(amount, left) if left is not None else 0
        copay = min(line["copay"], amount - deductible)
        rest = amount - deductible - copay
        exact = rest * line["bp"]
        coinsurance = exact // 10_000 + (1 if exact % 10_000 >= 5_000 else 0)
        parts = [deductible, copay, coinsurance]
        left = self.left("oop", member)
        if left is not None:
            excess = max(0, sum(parts) - left)
            for position in (2, 1, 0):
                off = min(excess, parts[position])
                parts[position] -= off
                excess -= off
        return parts

    def line(self, line: dict[str, Any], member: str) -> tuple[int, dict[str, int]]:
        """Paid, and adjustments by group and code."""
        if line["denied"]:
            return 0, {"CO-29": line["charge"]} if line["charge"] else {}
        adjusted = {"CO-45": line["charge"] - line["allowed"]}
        allowed = line["allowed"]
        if line["class"]:
            kind = f"class{line['class']}"
            left = self.left(kind, member)
            if left is not None:
                adjusted["PR-119"] = max(0, allowed - left)
                allowed = min(allowed, left)
                self.add(kind, member, allowed)
        opp = line["other"]
        if self.cob == "MAINTENANCE":
            parts = self.share(line, member, max(0, allowed - opp))
            paid = max(0, allowed - opp) - sum(parts)
        else:
            parts = self.share(line, member, allowed)
            normal = allowed - sum(parts)
            paid = max(0, normal - opp) if self.cob == "NON_DUPLICATION" else min(normal, max(0, allowed - opp))
        other = min(opp, allowed - paid)
        owed = allowed - paid - other
        adjusted["OA-23"] = other
        self.add("deductible", member, parts[0])
        self.add("oop", member, owed)
        for code, part in (("PR-1", parts[0]), ("PR-3", parts[1]), ("PR-2", parts[2])):
            adjusted[code] = min(owed, part)
            owed -= adjusted[code]
        return paid, {code: amount for code, amount in adjusted.items() if amount}


class PlainTags:
    """Which claims are live under each tag, in the order in which they came; the first of a list holds the tag."""

    def __init__(self) -> None:
        self.live: dict[str, list[str]] = {}
        self.state: dict[str, str] = {}
        self.tags: dict[str, list[str]] = {}

    def submit(self, name: str, tags: list[str], prior: list[str], *, pended: bool) -> tuple[str, str | None]:
        """What becomes of it, and the claim that it repeats."""
        linked = [other for tag in tags for other in self.live.get(tag, []) if other not in prior]
        linked += [name for tag in tags if tags.count(tag) > 1]
        for tag in dict.fromkeys(tags):
            self.live.setdefault(tag, []).append(name)
        self.tags[name] = tags
        self.state[name] = "PENDED" if linked or pended else "SETTLED"
        return self.state[name], linked[0] if linked else None

    def review(self, name: str, *, release: bool) -> str:
        """Only of a pended claim."""
        self.state[name] = "SETTLED" if release else "DENIED"
        for tag in set(self.tags[name]):
            if not release:
                self._leave(name, self.live[tag])
        return self.state[name]

    def _leave(self, name: str, live: list[str]) -> None:
        held = live[0] == name
        live.remove(name)
        settled = [other for other in live if self.state[other] == "SETTLED"]
        if held and settled:
            live.remove(settled[0])
            live.insert(0, settled[0])
