"""What is paid for one line, and who bears the rest.

The numbers of the steps are those of settlement.md. Every step takes amounts off the charge under a group and a CARC, so that
at the end the charge is exactly what is paid plus the adjustments.

Source: settlement.md, Adjudication of one line; CARC 1, 2, 3, 23, 45, 119 of the X12 list.
"""

from dataclasses import dataclass

from claims.money import share_of
from claims.quick import quick
from claims.result import Adjustment, SettledLine
from claims.transaction import CobMethod, Group, PricedLine
from ledger_commit.settlement.accumulators import Ledger, post, remaining

CARC_DEDUCTIBLE = "1"
CARC_COINSURANCE = "2"
CARC_COPAY = "3"
CARC_OTHER_PAYER = "23"
CARC_FEE_SCHEDULE = "45"
CARC_LIMIT_REACHED = "119"


@dataclass(frozen=True, slots=True)
class Share:
    """The patient's part of an allowed amount, steps 3 to 6."""

    deductible: int
    copay: int
    coinsurance: int

    @property
    def total(self) -> int:
        return self.deductible + self.copay + self.coinsurance


_adjustment, _settled_line, _share = quick(Adjustment), quick(SettledLine), quick(Share)


def adjudicate_line(line: PricedLine, ledger: Ledger, cob: CobMethod, other_paid_cents: int) -> SettledLine:
    """Adjudicates one line and posts to the accumulators in `ledger`.

    `other_paid_cents` is what earlier payers paid for it. The line's amounts have been checked to be in range.
    """
    if line.denial_carc:  # step 1
        return deny_line(line, line.denial_group, line.denial_carc)
    allowed, adjustments = _allowed(line, ledger)  # step 2
    share, paid = _coordinate(line, ledger, cob, allowed, other_paid_cents)  # steps 3 to 7
    other = min(other_paid_cents, allowed - paid)
    owed = allowed - paid - other
    assert 0 <= owed <= share.total, "the patient never owes more than the share"
    adjustments += _patient_adjustments(share, owed)
    if other:
        adjustments.append(_adjustment(Group.OA, CARC_OTHER_PAYER, other))
    post(ledger.deductible, share.deductible)
    post(ledger.out_of_pocket, owed)
    return _balanced(line, allowed, paid, adjustments)  # step 8


def deny_line(line: PricedLine, group: Group, carc: str) -> SettledLine:
    """The whole charge is adjusted; a line without a charge has nothing to adjust."""
    adjustments = [_adjustment(group, carc, line.charge_cents)] if line.charge_cents else []
    return _balanced(line, 0, 0, adjustments)


def _allowed(line: PricedLine, ledger: Ledger) -> tuple[int, list[Adjustment]]:
    adjustments = []
    allowed = line.allowed_cents
    if line.charge_cents > allowed:
        adjustments.append(_adjustment(line.contractual_group, CARC_FEE_SCHEDULE, line.charge_cents - allowed))
    if line.limit_class:
        accounts = ledger.of_class(line.limit_class)
        left = remaining(accounts)
        if left is not None and allowed > left:
            adjustments.append(_adjustment(Group.PR, CARC_LIMIT_REACHED, allowed - left))
            allowed = left
        post(accounts, allowed)
    return allowed, adjustments


def patient_share(line: PricedLine, ledger: Ledger, allowed: int) -> Share:
    """Steps 3 to 6 on an allowed amount."""
    deductible = 0
    if line.deductible_applies:
        deductible = min(allowed, remaining(ledger.deductible) or 0)
    copay = min(line.copay_cents, allowed - deductible)
    coinsurance = share_of(allowed - deductible - copay, line.coinsurance_bp)
    left = remaining(ledger.out_of_pocket)
    excess = 0 if left is None else deductible + copay + coinsurance - left
    if excess <= 0:
        return _share(deductible, copay, coinsurance)
    off_coinsurance = min(excess, coinsurance)
    off_copay = min(excess - off_coinsurance, copay)
    off_deductible = excess - off_coinsurance - off_copay
    return _share(deductible - off_deductible, copay - off_copay, coinsurance - off_coinsurance)


def _coordinate(line: PricedLine, ledger: Ledger, cob: CobMethod, allowed: int, other_paid: int) -> tuple[Share, int]:
    """Step 7: the share that counts, and what this payer pays beside earlier payers."""
    if cob is CobMethod.MAINTENANCE:
        base = max(0, allowed - other_paid)
        share = patient_share(line, ledger, base)
        return share, base - share.total
    share = patient_share(line, ledger, allowed)
    normal = allowed - share.total
    if cob is CobMethod.NON_DUPLICATION:
        return share, max(0, normal - other_paid)
    return share, min(normal, max(0, allowed - other_paid))


def _patient_adjustments(share: Share, owed: int) -> list[Adjustment]:
    """What the patient owes, kept as deductible first, then copay, then coinsurance."""
    adjustments = []
    for carc, amount in (
        (CARC_DEDUCTIBLE, share.deductible),
        (CARC_COPAY, share.copay),
        (CARC_COINSURANCE, share.coinsurance),
    ):
        part = min(owed, amount)
        if part:
            adjustments.append(_adjustment(Group.PR, carc, part))
            owed -= part
    return adjustments


def _balanced(line: PricedLine, allowed: int, paid: int, adjustments: list[Adjustment]) -> SettledLine:
    adjusted = sum(adjustment.amount_cents for adjustment in adjustments)
    assert line.charge_cents == paid + adjusted, "a line balances to the cent"
    return _settled_line(line.number, line.charge_cents, allowed, paid, tuple(adjustments))
