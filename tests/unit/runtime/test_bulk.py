"""Rows as tuples: what is written is what SQLAlchemy would have written, in the order that the statement has."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Column, Integer, LargeBinary, MetaData, String, Table, bindparam, delete, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from runtime.bulk import Bulk, insert, insert_or_ignore, upsert

TABLE = Table(
    "thing",
    MetaData(),
    Column("owner", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("value", LargeBinary),
)
ROWS = [("a", 1, b"one"), ("a", 2, b"two"), ("b", 1, b"")]


@pytest.fixture
async def connection() -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as opened:
        await opened.run_sync(TABLE.metadata.create_all)
        yield opened
    await engine.dispose()


async def stored(connection: AsyncConnection) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await connection.execute(select(TABLE).order_by(TABLE.c.owner, TABLE.c.number))]


async def test_rows_are_stored_and_counted(connection: AsyncConnection) -> None:
    assert await insert(TABLE).run(connection, ROWS) == 3
    assert await stored(connection) == ROWS
    assert await insert(TABLE).run(connection, []) == 0
    assert await insert(TABLE).run(connection, [("c", 1, b"alone")]) == 1


async def test_a_key_that_is_there_is_left_or_replaced(connection: AsyncConnection) -> None:
    await insert(TABLE).run(connection, ROWS)
    assert await insert_or_ignore(TABLE).run(connection, [("a", 1, b"other"), ("c", 1, b"new")]) == 1
    assert await stored(connection) == [*ROWS, ("c", 1, b"new")]
    await upsert(TABLE).run(connection, [("a", 1, b"other")])
    assert (await stored(connection))[0] == ("a", 1, b"other")


async def test_a_row_is_replaced_only_by_a_newer_one_where_that_is_asked_for(connection: AsyncConnection) -> None:
    newer = upsert(TABLE, newer=lambda came: TABLE.c.value < came.value)
    await newer.run(connection, [("a", 1, b"m"), ("b", 1, b"m")])
    await newer.run(connection, [("a", 1, b"l"), ("b", 1, b"n")])
    assert await stored(connection) == [("a", 1, b"m"), ("b", 1, b"n")]


async def test_rows_name_what_is_to_be_deleted(connection: AsyncConnection) -> None:
    await insert(TABLE).run(connection, ROWS)
    where = (TABLE.c.number == bindparam("n"), TABLE.c.owner == bindparam("o"))
    await Bulk(("n", "o"), lambda _: delete(TABLE).where(*where)).run(connection, [(1, "a"), (1, "b")])
    assert await stored(connection) == [ROWS[1]]


def test_an_order_that_is_not_the_statements_is_found_at_its_first_use() -> None:
    dialect = postgresql.asyncpg.dialect()  # type: ignore[no-untyped-call]
    where = (TABLE.c.number == bindparam("n"), TABLE.c.owner == bindparam("o"))
    with pytest.raises(AssertionError, match=r"rows are \('o', 'n'\)"):
        Bulk(("o", "n"), lambda _: delete(TABLE).where(*where))._text(dialect)
    assert insert(TABLE)._text(dialect).startswith("INSERT INTO thing (owner, number, value) VALUES ($1")
