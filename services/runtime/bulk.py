"""Many rows in one statement, given as tuples: what SQLAlchemy does for each row of dicts costs more than the row itself.

A statement is compiled once for each dialect; its rows then go to the driver as they are, so values must be of types that every
driver takes (int, str, bytes, bool, None).
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

_DIALECTS: Final[dict[str, Any]] = {"sqlite": sqlite, "postgresql": postgresql}
Row = tuple[Any, ...]


class Bulk:
    """`make` gives the statement from the dialect's module; `order` are its parameters' names as rows will hold them."""

    def __init__(self, order: Sequence[str], make: Callable[[Any], Any]) -> None:
        self._order = tuple(order)
        self._make = make
        self._texts: dict[str, str] = {}

    async def run(self, connection: AsyncConnection, rows: Sequence[Row]) -> int:
        """Executes it for each row and returns the driver's count of rows touched, −1 where it does not count."""
        if not rows:
            return 0
        result = await connection.exec_driver_sql(self._text(connection.dialect), list(rows))
        return int(result.rowcount)

    def _text(self, dialect: Any) -> str:
        text = self._texts.get(dialect.name)
        if text is None:
            compiled = self._make(_DIALECTS[dialect.name]).compile(dialect=dialect, column_keys=self._order)
            assert tuple(compiled.positiontup) == self._order, f"rows are {self._order}, not {compiled.positiontup}"
            text = self._texts[dialect.name] = str(compiled)
        return text


def insert(table: Table) -> Bulk:
    """Rows of all columns in the table's order."""
    return Bulk(table.columns.keys(), lambda dialect: dialect.insert(table))


def insert_or_ignore(table: Table) -> Bulk:
    """The same; a row whose key is there already changes nothing."""
    return Bulk(table.columns.keys(), lambda dialect: dialect.insert(table).on_conflict_do_nothing())


def upsert(table: Table, newer: Callable[[Any], Any] | None = None) -> Bulk:
    """The same; a row whose primary key is there already is replaced, where `newer` (of what came) holds."""
    key = list(table.primary_key.columns.keys())

    def make(dialect: Any) -> Any:
        statement = dialect.insert(table)
        changed = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in key}
        where = newer(statement.excluded) if newer is not None else None
        return statement.on_conflict_do_update(index_elements=key, set_=changed, where=where)

    return Bulk(table.columns.keys(), make)
