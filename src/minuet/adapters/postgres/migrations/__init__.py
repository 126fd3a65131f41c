"""Our tables: SQL files, applied in the order of their names, each once, and recorded with what was in them.

Instances of the version before may be at work while these run, so a file only adds.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from minuet.adapters.postgres.connection import Address, BoundedConnection, connect
from minuet.adapters.postgres.limits import Limits
from minuet.core.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import MetaData

NAME_BYTES_MAX = 63
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('minuet migrations ' || $1, 0))"
SCHEMA = "SELECT FROM pg_namespace WHERE nspname = $1"
TABLE = "SELECT to_regclass(quote_ident($1) || '.minuet_migrations')"
CREATE = """CREATE TABLE minuet_migrations (
    name TEXT PRIMARY KEY, checksum TEXT NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())"""
APPLIED = "SELECT name, checksum FROM minuet_migrations"
RECORD = "INSERT INTO minuet_migrations (name, checksum) VALUES ($1, $2)"


@dataclass(frozen=True)
class Migration:
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def known() -> list[Migration]:
    """All that this version of minuet has."""
    files = [file for file in resources.files(__package__).iterdir() if file.name.endswith(".sql")]
    return [
        Migration(file.name.removesuffix(".sql"), file.read_text("utf-8"))
        for file in sorted(files, key=lambda f: f.name)
    ]


async def migrate(url: str, schema_name: str, *, schema: str | MetaData | None = None) -> list[str]:
    """Bring a service's schema up to date, and create what is missing of the service's own tables.

    Several may do so at once; one of them does it.

    Returns:
        The names of what was applied.

    Raises:
        ConfigurationError: the database cannot be reached or is of a newer version, or a file cannot be applied.
    """

    def run() -> list[str]:
        with _opened(Address(url), schema_name) as connection:
            return apply(connection, schema_name, schema)

    return await asyncio.to_thread(run)


async def pending(url: str, schema_name: str) -> list[str]:
    """The names of what `migrate` would apply. Raises as `migrate`."""

    def run() -> list[str]:
        with _opened(Address(url), schema_name) as connection:
            return [one.name for one in missing(connection, schema_name)]

    return await asyncio.to_thread(run)


def check_name(schema_name: str) -> None:
    """Raise ConfigurationError if no schema can have this name."""
    if (
        not schema_name
        or "\0" in schema_name
        or len(schema_name.encode()) > NAME_BYTES_MAX
        or schema_name.startswith("pg_")
    ):
        raise ConfigurationError(
            f"{schema_name!r} cannot be the name of a PostgreSQL schema: it has 1 to {NAME_BYTES_MAX} bytes and does "
            f"not begin with pg_; name another in the settings of the service"
        )


def missing(connection: psycopg.Connection, schema_name: str) -> list[Migration]:
    """What is not applied yet.

    Raises:
        ConfigurationError: a newer minuet was here, or a file is not what was applied.
    """
    cursor = psycopg.RawCursor(connection)
    ours = known()
    if cursor.execute(TABLE, (schema_name,)).fetchone() == (None,):
        return ours
    applied: dict[str, str] = dict(cursor.execute(APPLIED).fetchall())
    newer = sorted(applied.keys() - {one.name for one in ours})
    if newer:
        raise ConfigurationError(
            f"schema {schema_name} was changed by a newer minuet ({', '.join(newer)}); update minuet, or use another "
            f"schema"
        )
    for one in ours:
        if one.name in applied and applied[one.name] != one.checksum:
            raise ConfigurationError(
                f"schema {schema_name}: what was applied as {one.name} is not what this minuet has under that name; "
                f"install the version that was released, or use another schema"
            )
    return [one for one in ours if one.name not in applied]


def apply(connection: BoundedConnection, schema_name: str, schema: str | MetaData | None) -> list[str]:
    """In one transaction: all or nothing. The connection is not in one yet."""
    cursor = psycopg.RawCursor(connection)
    connection.run(b"BEGIN ISOLATION LEVEL READ COMMITTED")
    try:
        cursor.execute(LOCK, (schema_name,))
        if not cursor.execute(SCHEMA, (schema_name,)).fetchall():  # to create it, if it is there, takes a right too
            cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema_name)))
        if cursor.execute(TABLE, (schema_name,)).fetchone() == (None,):
            cursor.execute(CREATE)
        applied = missing(connection, schema_name)
        for one in applied:
            connection.run(one.text.encode())
            cursor.execute(RECORD, (one.name, one.checksum))
        if isinstance(schema, str):
            connection.run(schema.encode())
        elif schema is not None:
            from minuet.adapters.postgres.with_sqlalchemy import handles_over

            handles_over(connection).create_all(schema)
        connection.run(b"COMMIT")
    except BaseException as error:
        if not connection.closed:
            connection.run(b"ROLLBACK")
        if isinstance(error, psycopg.Error) or type(error).__module__.startswith("sqlalchemy"):
            raise ConfigurationError(f"the tables in schema {schema_name} cannot be created: {error}") from error
        raise
    return [one.name for one in applied]


def _opened(address: Address, schema_name: str) -> BoundedConnection:
    check_name(schema_name)
    try:
        return connect(BoundedConnection, address, schema_name, Limits(statement_s=600.0), "minuet migrations")
    except psycopg.Error as error:
        raise ConfigurationError(f"{address} cannot be used: {error}") from error
