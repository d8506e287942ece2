"""What an edit says about a claim: a value, never an exception."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """REJECT returns the claim unprocessed; DENY adjudicates the line to zero; PEND holds it; WARN only tells."""

    REJECT = "reject"
    DENY = "deny"
    PEND = "pend"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Finding:
    """One located statement of one rule.

    `path` is a field path in the claim (`lines[2].units`); `line` the line number that it concerns, 0 for the whole
    claim; `group`, `carc` and `rarc` are adjustment codes, empty where the rule has none; `table` names the reference
    table and version that was asked. `message` never repeats names or identifiers of persons.
    """

    rule: str
    path: str
    severity: Severity
    message: str
    line: int = 0
    group: str = ""
    carc: str = ""
    rarc: str = ""
    table: str = ""
    hint: str = ""
