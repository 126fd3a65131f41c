"""What the services' tables have in common. Each service has tables of its own, in a database of its own."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Dialect, Row, Select, Table, TypeDecorator, event

# SQLite understands PostgreSQL's ON CONFLICT, and SQLAlchemy writes it for both.
from sqlalchemy.dialects.postgresql import Insert, insert


class Cents(TypeDecorator[Decimal]):
    """Money as a whole number of cents, exact in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value * 100)

    def process_result_value(self, value: int | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value).scaleb(-2)


def insert_new(table: Table) -> Insert:
    """An INSERT that leaves a row which is there already as it is; its ``rowcount`` tells."""
    return insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


def insert_or_set(table: Table, **values: object) -> Insert:
    """An INSERT that sets these values in a row which is there already."""
    return insert(table).on_conflict_do_update(index_elements=[*table.primary_key], set_=values)


def begin_with(table: Table, rows: list[dict[str, object]]) -> None:
    """Put the rows into the table when it is created."""

    @event.listens_for(table, "after_create")
    def fill(_: Table, connection: Connection, **__: object) -> None:
        connection.execute(insert_new(table), rows)


def page(
    db: Connection, rows: Select[Any], column: Column[str], *, after: str | None, limit: int
) -> tuple[Sequence[Row[Any]], str | None]:
    """The rows whose column comes after ``after``, in its order; and where the next page goes on, if there is one."""
    found = db.execute(rows.where(column > (after or "")).order_by(column).limit(limit + 1)).all()
    return found[:limit], getattr(found[limit - 1], column.name) if len(found) > limit else None
