"""An independent recount: from what was published alone, what became of every claim and of every cent.

It shares no arithmetic with the contract. `faults_in` names everything that is wrong; a sound network has none.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from claimledger.claims.v1 import claim_pb2
from claims.identifiers import control_number
from cli.world import World
from tests.e2e.published import Published, Step, result_of

ENDS: Final = ("SETTLED", "DENIED", "REFUSED", "PENDED")
WAYS: Final = {
    ("RECEIVED", "REJECTED"),
    *((("RECEIVED", "VALIDATED", "SCORED", "ORDERED", end)) for end in ENDS),
    *((("RECEIVED", "VALIDATED", "SCORED", "ORDERED", "PENDED", end)) for end in ("SETTLED", "DENIED")),
}
"""Every whole life of a claim. A claim that has gone another way, or only a part of one, has been lost on it."""
APART = 4
"""Heights that an idle chain may gain while its replicas are asked."""
DEDUCTIBLE, OUT_OF_POCKET = 1, 2
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Submitted:
    """What a submitter knows of an accepted claim."""

    submitter: str
    claim: claim_pb2.Claim


@dataclass(frozen=True)
class Recount:
    """What was found. `faults` is empty where everything adds up."""

    faults: tuple[str, ...]
    ends: Counter[str]
    results: int
    proofs: int
    heights: int
    charged_cents: int
    paid_cents: int
    adjusted_cents: int

    def lines(self) -> list[str]:
        """For people."""
        ends = ", ".join(f"{count} {end.lower()}" for end, count in sorted(self.ends.items()))
        money = f"charged {self.charged_cents} = paid {self.paid_cents} + adjusted {self.adjusted_cents} cents"
        return [
            f"recount: {self.ends.total()} accepted claims: {ends}",
            f"recount: {self.results} results, each once for each party; {money}",
            f"recount: {self.proofs} proofs verified; roots equal at {self.heights} heights on all replicas",
            f"recount: {len(self.faults)} faults",
            *(f"  {fault}" for fault in self.faults[:20]),
        ]


def recount(
    run: Path,
    world: World,
    accepted: Mapping[str, Submitted],
    published: Published,
    roots: Mapping[int, set[tuple[str, str]]],
) -> Recount:
    """Everything at once. `roots` is what replicas told at heights, sampled while they worked."""
    faults: list[str] = []
    results = _results(run, published, faults)
    of_claim = _by_claim(results, faults)
    ends = Counter(_ends(accepted, published, of_claim, faults))
    faults += copy_faults(published, results)
    for number, result in of_claim.items():
        faults += [f"{number}: {fault}" for fault in money_faults(result, accepted.get(number), world)]
    faults += sum_faults(list(of_claim.values()))
    faults += accumulator_faults([results[leaf] for leaf in sorted(results)], world)
    faults += stream_faults(run, published, results)
    faults += chain_faults(published, roots)
    lines = [line for result in of_claim.values() for line in result["lines"]]
    return Recount(
        tuple(faults),
        ends,
        len(results),
        sum(map(len, published.copies.values())) + sum(map(len, published.streams.values())),
        min(map(len, published.chains.values())),
        sum(line["charge_cents"] for line in lines),
        sum(line["paid_cents"] for line in lines),
        sum(a["amount_cents"] for line in lines for a in line["adjustments"]),
    )


def _results(run: Path, published: Published, faults: list[str]) -> dict[int, Result]:
    """Leaf → result, of every copy in Kafka; each proof is verified."""
    results: dict[int, Result] = {}
    bodies: dict[int, bytes] = {}
    for organisation, copies in published.copies.items():
        for copy in copies:
            try:
                results[copy.leaf] = result_of(run, copy.proof)
            except ValueError as error:
                faults.append(f"org.{organisation}.settlements: the proof of leaf {copy.leaf} does not hold: {error}")
            if bodies.setdefault(copy.leaf, copy.body) != copy.body:
                faults.append(f"leaf {copy.leaf} says one thing to {organisation} and another to others")
    return results


def _by_claim(results: Mapping[int, Result], faults: list[str]) -> dict[str, Result]:
    """Control number → the one result. A second one means that a claim was settled twice."""
    found: dict[str, Result] = {}
    for leaf, result in sorted(results.items()):
        number = control_number(bytes.fromhex(result["claim_ref"]))
        if number in found:
            faults.append(f"{number}: a second result at leaf {leaf}")
        found[number] = result
    return found


def _ends(
    accepted: Mapping[str, Submitted], published: Published, of_claim: Mapping[str, Result], faults: list[str]
) -> Iterator[str]:
    """The one end of each accepted claim, as its submitter was told and as the ledger says."""
    for number, submitted in accepted.items():
        way = published.steps[submitted.submitter].get(number, [])
        yield way[-1].status if way else "nothing"
        faults += [f"{number}: {fault}" for fault in way_faults(way)]
        result = of_claim.get(number)
        ledger_end = result["outcome"] if result else "REJECTED"
        if way and way[-1].status != ledger_end:
            faults.append(f"{number}: told {way[-1].status}, the ledger has {ledger_end}")
        if result:
            told = published.steps[result["payee"]].get(number, [])
            if [step.event for step in told] != [step.event for step in way[1:]]:
                faults.append(f"{number}: the payee was told {[step.status for step in told]}")
    faults += [f"{number}: settled and never accepted" for number in of_claim.keys() - accepted.keys()]


def way_faults(way: Sequence[Step]) -> Iterator[str]:
    """A claim's events in a topic's order: one whole legal life, each step once."""
    statuses = tuple(step.status for step in way)
    if statuses not in WAYS:
        yield f"went {' → '.join(statuses) or 'nowhere'}"
    if len({step.event for step in way}) != len(way):
        yield "was told a step twice"


def copy_faults(published: Published, results: Mapping[int, Result]) -> Iterator[str]:
    """Each result once in the topic of each party, and in no other."""
    for organisation, copies in published.copies.items():
        there = Counter(copy.leaf for copy in copies)
        due = {leaf for leaf, r in results.items() if organisation in {r["submitter"], r["payer"], r["payee"]}}
        yield from (f"org.{organisation}.settlements: leaf {leaf} {n} times" for leaf, n in there.items() if n > 1)
        yield from (f"org.{organisation}.settlements: leaf {leaf} is missing" for leaf in due - there.keys())
        yield from (f"org.{organisation}.settlements: leaf {leaf} is not theirs" for leaf in there.keys() - due)


def money_faults(result: Result, submitted: Submitted | None, world: World) -> Iterator[str]:
    """One result, against itself and against what was submitted."""
    for line in result["lines"]:
        adjusted = sum(adjustment["amount_cents"] for adjustment in line["adjustments"])
        if line["charge_cents"] != line["paid_cents"] + adjusted:
            yield f"line {line['number']}: {line['charge_cents']} ≠ {line['paid_cents']} + {adjusted}"
        if not 0 <= line["paid_cents"] <= line["allowed_cents"] <= line["charge_cents"]:
            yield f"line {line['number']}: paid, allowed, charge are out of order"
    for field in ("charge_cents", "paid_cents") if result["outcome"] != "PENDED" else ():
        if result[field] != sum(line[field] for line in result["lines"]):
            yield f"{field} is not the sum of its lines"
    if result["patient_cents"] != _adjusted(result, "PR"):
        yield "patient_cents is not the sum of group PR"
    if result["outcome"] != "SETTLED" and result["paid_cents"]:
        yield f"{result['outcome']} and paid {result['paid_cents']}"
    if submitted is not None:
        yield from _submission_faults(result, submitted, world)
        yield from repeat_faults(result, submitted.claim)


def repeat_faults(result: Result, claim: claim_pb2.Claim) -> Iterator[str]:
    """A service on two lines of one claim is paid on one of them, unless a person has released both."""
    if result["step"]:
        return
    allowed = {line["number"] for line in result["lines"] if line["allowed_cents"]}
    services = Counter(_service(line) for line in claim.lines if line.number in allowed)
    yield from (f"{service[1]} is paid on {count} lines" for service, count in services.items() if count > 1)


def _service(line: claim_pb2.ServiceLine) -> tuple[bytes, str, tuple[str, ...], str]:
    """Day, code, modifiers and tooth: with the person and the provider, which a claim has once, a service."""
    day = getattr(line, "from").SerializeToString(deterministic=True)
    return day, line.procedure, tuple(sorted(line.modifiers)), line.tooth


def _submission_faults(result: Result, submitted: Submitted, world: World) -> Iterator[str]:
    """A refused claim is not charged at all; every other one as it was submitted."""
    claim, charges = submitted.claim, [line.charge_cents for line in submitted.claim.lines]
    if result["outcome"] == "REFUSED":
        charges = []
    by_line = [line["charge_cents"] for line in result["lines"]]
    if result["charge_cents"] != sum(charges) or (by_line and by_line != charges):
        yield f"charged {result['charge_cents']}, submitted {charges}"
    payees = {provider.npi: provider.organisation for provider in world.providers}
    parties = (result["submitter"], result["payer"], result["payee"])
    if parties != (submitted.submitter, claim.header.payer, payees[claim.parties.billing_npi]):
        yield f"its parties are {parties}"


def _adjusted(result: Result, group: str, carcs: str = "") -> int:
    """Σ of a group's adjustments, of all reasons or of these one-digit CARCs."""
    adjustments = [a for line in result["lines"] for a in line["adjustments"] if a["group"] == group]
    return sum(a["amount_cents"] for a in adjustments if not carcs or a["carc"] in tuple(carcs))


def sum_faults(results: Sequence[Result]) -> Iterator[str]:
    """What payers owe is what payees are owed, pair by pair, once from the claims and once from the lines."""
    debits: Counter[str] = Counter()
    credited: Counter[str] = Counter()
    by_lines: Counter[tuple[str, str]] = Counter()
    by_claims: Counter[tuple[str, str]] = Counter()
    for result in results:
        debits[result["payer"]] += result["paid_cents"]
        credited[result["payee"]] += result["paid_cents"]
        by_claims[result["payer"], result["payee"]] += result["paid_cents"]
        for line in result["lines"]:
            adjusted = sum(a["amount_cents"] for a in line["adjustments"])
            by_lines[result["payer"], result["payee"]] += line["charge_cents"] - adjusted
    if debits.total() != credited.total():
        yield f"debits {debits.total()} ≠ credits {credited.total()}"
    for pair in by_claims.keys() | by_lines.keys():
        if by_claims[pair] != by_lines[pair]:
            yield f"{pair[0]} → {pair[1]}: {by_claims[pair]} by claims, {by_lines[pair]} by lines"


def accumulator_faults(results: Sequence[Result], world: World) -> Iterator[str]:
    """Postings in the ledger's order: each begins where the one before ended, adds what the lines say, and no
    accumulator passes its plan's limit."""
    limits = {
        (plan.plan, plan.year, rule.kind, rule.limit_class, rule.tier, rule.scope): rule.limit_cents
        for plan in world.plans.values()
        for rule in plan.accumulators
    }
    used: dict[tuple[Any, ...], int] = defaultdict(int)
    for result in results:
        added: dict[int, set[int]] = defaultdict(set)
        for posting in result["postings"]:
            rule = tuple(posting[part] for part in ("plan", "year", "kind", "limit_class", "tier", "scope"))
            key = (*rule, posting["holder"])
            if posting["before_cents"] != used[key]:
                yield f"leaf of height {result['height']}: {key} begins at {posting['before_cents']}, is {used[key]}"
            if not 0 <= posting["after_cents"] <= limits[rule]:
                yield f"{key} is at {posting['after_cents']} of {limits[rule]}"
            used[key] = posting["after_cents"]
            added[posting["kind"]].add(posting["after_cents"] - posting["before_cents"])
        yield from _addition_faults(result, added)


def _addition_faults(result: Result, added: Mapping[int, set[int]]) -> Iterator[str]:
    """Individual and family get the same: the deductible that was due (other payers may have borne a part of it), and
    what the patient owes out of pocket."""
    where = f"height {result['height']} index {result['index']}"
    deductible, owed = _adjusted(result, "PR", "1"), _adjusted(result, "PR", "123")
    posted = added.get(DEDUCTIBLE, {0})
    other_payers = result["coordination"] != "NONE"
    if len(posted) != 1 or min(posted) < deductible or (max(posted) > deductible and not other_payers):
        yield f"{where}: deductible {deductible}, posted {posted}"
    if added.get(OUT_OF_POCKET, {0}) != {owed}:
        yield f"{where}: out of pocket {owed}, posted {added.get(OUT_OF_POCKET)}"


def stream_faults(run: Path, published: Published, results: Mapping[int, Result]) -> Iterator[str]:
    """Every replica tells the same results, each provable."""
    bodies = {copy.leaf: copy.body for copies in published.copies.values() for copy in copies}
    for replica, stream in published.streams.items():
        if stream.keys() != results.keys():
            missing, more = results.keys() - stream.keys(), stream.keys() - results.keys()
            yield f"{replica} streams {len(missing)} results less and {len(more)} more than Kafka has"
        for leaf, copy in stream.items():
            if copy.body != bodies.get(leaf, copy.body):
                yield f"{replica} tells another leaf {leaf} than Kafka"
            try:
                result_of(run, copy.proof)
            except ValueError as error:
                yield f"{replica}: the proof of leaf {leaf} does not hold: {error}"


def chain_faults(published: Published, roots: Mapping[int, set[tuple[str, str]]]) -> Iterator[str]:
    """One block at each height, one root after each, in Kafka and on all replicas.

    Replicas are asked one after the other and an idle chain goes on every few seconds with blocks that change no root, so ends may
    lie a few heights apart; up to the lowest of them everything is compared.
    """
    ends = [len(chain) for chain in published.chains.values()]
    tips = {tip[1:] for tip in published.tips.values()}
    if len(tips) != 1 or max(ends) - min(ends) > APART:
        yield f"replicas end differently: {published.tips}"
    for height in range(1, min(ends) + 1):
        ids = {chain.get(height) for chain in published.chains.values()}
        ids |= {published.blocks[height]} if height in published.blocks else set()
        if len(ids) != 1:
            yield f"height {height}: {len(ids)} different blocks, or a replica without one"
    yield from (f"ledger.blocks has height {height} again" for height in published.repeated_blocks)
    yield from (f"height {height}: roots {told}" for height, told in roots.items() if len(told) != 1)
