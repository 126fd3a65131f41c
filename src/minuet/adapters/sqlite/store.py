"""A service's store on a SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from minuet.adapters.sqlite.connection import Connection
from minuet.adapters.sqlite.database import SqliteDatabase
from minuet.adapters.sqlite.schema import install, run_script
from minuet.adapters.sqlite.transaction import Rider
from minuet.adapters.sqlite.tx import SqliteTx
from minuet.adapters.sqlite.wal import FRAMES_MAX
from minuet.core.errors import ConfigurationError
from minuet.ports import Ids, Outgoing, Tx

if TYPE_CHECKING:
    from sqlalchemy import MetaData

T = TypeVar("T")


def _nobody(*_: Any) -> None: ...


class SqliteStore:
    """An opening of a service's database file.

    Args:
        path: of the file.
        ids: names this instance.
        schema: of the service's own tables: SQL that may run at each start (``CREATE TABLE IF NOT EXISTS ...``), or a
            SQLAlchemy ``MetaData``, of which the missing tables are created.
        inline: without a thread, for simulations.
        frames_max: how long the write-ahead log may get before it is checkpointed, in pages.
    """

    committed: Callable[[Sequence[Outgoing]], None]
    disturbed: Callable[[], None]

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        ids: Ids,
        schema: str | MetaData | None = None,
        inline: bool = False,
        frames_max: int = FRAMES_MAX,
    ) -> None:
        self.instance = ids.new()
        self.committed = self.disturbed = _nobody
        self._schema = schema
        self._database = SqliteDatabase(
            Path(path),
            instance=self.instance,
            disturbed=self._disturbed,
            bereft=self._disturbed,
            inline=inline,
            frames_max=frames_max,
        )

    @property
    def commits(self) -> int:
        return self._database.commits

    # The listeners are set after we were made, so they are looked up when they are called.

    def _disturbed(self) -> None:
        self.disturbed()

    def _committed(self, outgoing: Sequence[Outgoing]) -> None:
        self.committed(outgoing)

    async def start(self) -> None:
        await self._database.start(self._prepare)

    def _prepare(self, connection: Connection) -> Rider:
        install(connection, "schema.sql")
        self._tx = SqliteTx(connection, self.instance, self._database.instances.gone, self._committed)
        try:
            self._install_schema(connection)
        except Exception as error:
            if isinstance(error, sqlite3.Error) or type(error).__module__.startswith("sqlalchemy"):
                raise ConfigurationError(f"the schema for {self._database.path} cannot be applied: {error}") from error
            raise
        return self._tx

    def _install_schema(self, connection: Connection) -> None:
        if isinstance(self._schema, str):
            run_script(connection, self._schema)
        elif self._schema is not None:
            self._tx.sqlalchemy().create_all(self._schema)

    async def transact(self, work: Callable[[Tx], T], *, reads_only: bool = False, lazily: bool = False) -> T:
        return await self._database.submit(partial(work, self._tx), reads_only=reads_only, lazily=lazily)

    async def close(self) -> None:
        await self._database.close()
