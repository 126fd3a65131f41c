"""What an app needs in its databases: compared, and made, without running any service. See `topology` for brokers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from minuet.app import App
from minuet.bootstrap.stores import Stores, is_postgres
from minuet.bootstrap.wiring import Wiring, wired
from minuet.core.errors import ConfigurationError
from minuet.settings import Settings

OUR_TABLES = "minuet's tables"
COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
SQLITE_SCHEMA = "schema.sql"
VERSION = f"SELECT value FROM minuet_meta WHERE name = '{SQLITE_SCHEMA}'"  # noqa: S608  a constant
TABLE = re.compile(r'\bCREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?("[^"]+"|\w+)', re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreView:
    """How a service's tables stand.

    Attributes:
        store: where they are, without user and password.
        is_kept: whether there is anything to make; not in memory.
        applied: what was created or updated. pending: what is still to be.
    """

    service: str
    store: str
    is_kept: bool = True
    applied: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


async def check_stores(app: App, settings: Settings) -> list[StoreView]:
    """What `migrate_stores` would apply; changes nothing.

    Raises:
        ConfigurationError: a setting does not fit, or a database cannot be used.
    """
    tables = _tables(wired(app, settings))
    return [one.view(pending=await one.pending()) for one in tables]


async def migrate_stores(app: App, settings: Settings, services: Sequence[str] | None = None) -> list[StoreView]:
    """Create or update the tables of each service: minuet's, and what is missing of its own.

    Raises:
        ConfigurationError: a setting does not fit, or a database cannot be used.
    """
    return [one.view(applied=await one.migrate()) for one in _tables(wired(app, settings, services))]


def _tables(wiring: Wiring) -> list[Tables]:
    found = []
    stores = Stores(wiring.settings, wiring.system.ids)
    for name in wiring.system.services:
        service = wiring.app.services.get(name)
        if service is None or service.commands or service.queries or service.reactions:
            found.append(_tables_of(stores, name, service.schema if service else ""))
    return found


def _tables_of(stores: Stores, service: str, schema: Any) -> Tables:
    url = stores.url_of(service)
    if url.startswith("sqlite:"):
        return SqliteTables(service, schema, stores)
    stores.make(service, schema)  # refuses what is of no known form; opens nothing
    return PostgresTables(service, schema, url) if is_postgres(url) else Tables(service, schema, url, is_kept=False)


class Tables:
    """The tables of one service: by itself, of a store that keeps nothing."""

    def __init__(self, service: str, schema: Any, store: str, *, is_kept: bool) -> None:
        self.service = service
        self.schema = schema
        self.store = store
        self.is_kept = is_kept

    def view(self, *, applied: Iterable[str] = (), pending: Iterable[str] = ()) -> StoreView:
        return StoreView(
            service=self.service,
            store=self.store,
            is_kept=self.is_kept,
            applied=tuple(applied),
            pending=tuple(pending),
        )

    async def pending(self) -> list[str]:
        """What `migrate` would apply."""
        return []

    async def migrate(self) -> list[str]:
        """What was applied."""
        return []


class SqliteTables(Tables):
    """Those of a SQLite file."""

    def __init__(self, service: str, schema: Any, stores: Stores) -> None:
        self._stores = stores
        self._path = stores.file_of(service)
        super().__init__(service, schema, str(self._path), is_kept=True)

    async def pending(self) -> list[str]:
        ours, there = await asyncio.to_thread(_look_into, self._path)
        return [*ours, *_missing(self.schema, there)]

    async def migrate(self) -> list[str]:
        pending = await self.pending()
        store = self._stores.make(self.service, self.schema)
        await store.start()
        await store.close()
        return pending


def _look_into(path: Path) -> tuple[list[str], set[str]]:
    """What minuet's own tables lack in the file, and the names of all tables that are there."""
    import sqlite3

    if not path.exists():
        return [OUR_TABLES], set()
    # Even a reader makes the files that a write-ahead log needs, unless it is told that nobody writes. Nobody has the
    # file open if there is no log.
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True)
        try:
            there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            found = connection.execute(VERSION).fetchone() if "minuet_meta" in there else None
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ConfigurationError(f"{path} cannot be read: {error}; is it a SQLite database?") from error
    return _lacking(path, int(found[0]) if found else 0), there


def _lacking(path: Path, version: int) -> list[str]:
    from minuet.adapters.sqlite.schema import VERSIONS

    newest = VERSIONS[SQLITE_SCHEMA]
    if version > newest:
        raise ConfigurationError(
            f"{path} has version {version} of {OUR_TABLES}, and this minuet knows {newest}; update minuet, or use "
            f"another file"
        )
    if version == newest:
        return []
    return [f"{OUR_TABLES}, version {newest}" if version else OUR_TABLES]


class PostgresTables(Tables):
    """Those of a schema in a PostgreSQL database."""

    def __init__(self, service: str, schema: Any, url: str) -> None:
        from minuet.adapters.postgres.connection import Address

        self._url = url
        self._address = Address(url)
        super().__init__(service, schema, f"{self._address} schema {service}", is_kept=True)

    async def pending(self) -> list[str]:
        from minuet.adapters.postgres import pending

        ours = await pending(self._url, self.service)  # says why, if the database cannot be used
        return [*ours, *_missing(self.schema, await asyncio.to_thread(self._look))]

    async def migrate(self) -> list[str]:
        from minuet.adapters.postgres import migrate

        before = set(await self.pending())
        applied = await migrate(self._url, self.service, schema=self.schema)
        return [*applied, *(one for one in _missing(self.schema, ()) if one in before)]

    def _look(self) -> set[str]:
        from minuet.adapters.postgres import Limits
        from minuet.adapters.postgres.connection import BoundedConnection, connect

        connection = connect(BoundedConnection, self._address, self.service, Limits(), "minuet store")
        try:
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [self.service])
            return {name for (name,) in rows}
        finally:
            connection.close()


def _missing(schema: Any, there: Iterable[str]) -> list[str]:
    """The service's own tables that are not there. What is otherwise in its SQL (indexes, rows) is not looked at."""
    known = {name.casefold() for name in there}
    return [f"table {name}" for name in _names(schema) if name.casefold() not in known]


def _names(schema: Any) -> list[str]:
    if isinstance(schema, str):
        return list(dict.fromkeys(name.strip('"') for name in TABLE.findall(COMMENT.sub(" ", schema))))
    return [table.name for table in schema.tables.values()] if schema is not None else []
