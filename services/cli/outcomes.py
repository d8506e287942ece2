"""What became of a load, as a table: one row for each planted case, one column for each way to end."""

from typing import Any, Final

from claims.status import Status
from cli.loading import NOT_ACCEPTED, Report, outcome_rows

AT_DOOR: Final = "at_door"
PLAIN: Final = "plain"


def outcome_table(report: Report) -> list[dict[str, Any]]:
    """Rows with the same keys: the case, then every outcome that occurs, in the order of a claim's life."""
    found = outcome_rows(report)
    occurring = {name for _, counts in found for name in counts}
    names = [status.name for status in Status if status.name in occurring]
    columns = {name: name.lower() for name in names} | ({NOT_ACCEPTED: AT_DOOR} if NOT_ACCEPTED in occurring else {})
    return [
        {"case": case or PLAIN, **{column: counts.get(name, 0) for name, column in columns.items()}}
        for case, counts in found
    ]
