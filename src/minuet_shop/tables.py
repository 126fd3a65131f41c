"""What the services' tables have in common. Each service has tables of its own, in a database of its own.

The SQL is the same on SQLite and on PostgreSQL. Money is a whole number of cents there, and a list of items JSON text.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import TypeVar

from minuet import Database, View

Shown = TypeVar("Shown", bound=View)


def to_cents(amount: Decimal) -> int:
    return int(amount * 100)


def from_cents(cents: int) -> Decimal:
    return Decimal(cents).scaleb(-2)


def to_json(items: list[str]) -> str:
    return json.dumps(items)


def from_json(text: str) -> list[str]:
    items: list[str] = json.loads(text)
    return items


def begin_with(table: str, rows: Iterable[Mapping[str, str | int]]) -> str:
    """The statement that puts these rows into a table, for its schema. A row that is there already stays as it is."""
    rows = list(rows)
    values = ", ".join(f"({', '.join(map(_literal, row.values()))})" for row in rows)
    return f"INSERT INTO {table} ({', '.join(rows[0])}) VALUES {values} ON CONFLICT DO NOTHING;"  # noqa: S608


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def page(
    db: Database,
    rows: str,
    view: Callable[..., Shown],
    *,
    key: str,
    after: str | None,
    limit: int,
    **equal: str | None,
) -> tuple[list[Shown], str | None]:
    """The rows whose key comes after ``after``, in its order; and where the next page goes on, if there is one.

    Args:
        rows: a SELECT without a WHERE.
        view: shows a row, of which it gets the columns by name.
        key: the column in whose order they come. No two rows share a value of it.
        equal: what columns have to be, unless it is None.
    """
    wanted = {column: value for column, value in equal.items() if value is not None}
    where = " AND ".join([f"{key} > :after", *(f"{column} = :{column}" for column in wanted)])
    statement = f"{rows} WHERE {where} ORDER BY {key} LIMIT :limit"
    found = db.all(statement, after=after or "", limit=limit + 1, **wanted)
    return [view(**row) for row in found[:limit]], found[limit - 1][key] if len(found) > limit else None
