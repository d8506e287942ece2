"""The deterministic contract: committed blocks in, one canonical result for each transaction out.

Pure, synchronous, integers only: no float, clock, locale, chance, set order or I/O, so that every replica comes to the same
bytes. `contract.apply` is the whole of it; `merkle` keeps the log of results.

Source: settlement.md.
"""

from ledger_commit.settlement.contract import BlockInput, Execution, apply
from ledger_commit.settlement.state import State

__all__ = ["BlockInput", "Execution", "State", "apply"]
