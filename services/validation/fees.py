"""Which row of the fee schedule is in force for a line."""

from claims.claim import ServiceLine
from claims.reference import Fee, PayerReference
from claims.transaction import Tier

DEFAULT_CLASS = "other"
"""The benefit class of a code without a fee."""


def fee_for(reference: PayerReference, line: ServiceLine, tier: Tier) -> Fee | None:
    """The fee by code and first modifier, else by code alone, in force on the line's first day."""
    for modifier in (*line.modifiers[:1], ""):
        for fee in reference.fees.get((line.procedure, modifier, tier), ()):
            if fee.first_day <= line.from_day <= fee.last_day:
                return fee
    return None
