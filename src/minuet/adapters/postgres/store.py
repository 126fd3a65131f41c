"""A service's store in a schema of a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from minuet.adapters.postgres import migrations
from minuet.adapters.postgres.connection import Address, BoundedConnection
from minuet.adapters.postgres.database import PostgresDatabase
from minuet.adapters.postgres.failures import Unavailable
from minuet.adapters.postgres.limits import Limits
from minuet.core.errors import ConfigurationError
from minuet.ports import Ids, Outgoing, Tx

if TYPE_CHECKING:
    from sqlalchemy import MetaData

T = TypeVar("T")


def _nobody(*_: Any) -> None: ...


class PostgresStore:
    """An opening of a service's schema. It has two connections: one writes, one listens.

    Args:
        url: of the database, as libpq reads it: ``postgresql://user:password@host:5432/database?sslmode=verify-full``.
        schema_name: of the service's own schema, which holds minuet's tables and the service's.
        ids: names this instance; jitter.
        schema: of the service's own tables: SQL that may run at each start (``CREATE TABLE IF NOT EXISTS ...``), or a
            SQLAlchemy ``MetaData``, of which the missing tables are created.
        provision: create and update the schema and its tables at the start. Otherwise they are only checked, and
            ``schema`` is not looked at.
        limits: how long anything may take.

    Raises:
        ConfigurationError: the URL or the schema's name cannot be one.
    """

    committed: Callable[[Sequence[Outgoing]], None]
    disturbed: Callable[[], None]

    def __init__(
        self,
        url: str,
        *,
        schema_name: str,
        ids: Ids,
        schema: str | MetaData | None = None,
        provision: bool = True,
        limits: Limits = Limits(),  # noqa: B008  it is frozen
    ) -> None:
        migrations.check_name(schema_name)
        self.instance = ids.new()
        self.committed = self.disturbed = _nobody
        self._address = Address(url)
        self._schema_name = schema_name
        self._schema = schema
        self._provision = provision
        self._database = PostgresDatabase(
            self._address,
            schema_name,
            self.instance,
            ids,
            limits,
            committed=self._committed,
            disturbed=self._disturbed,
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
        try:
            await self._database.start(self._prepare)
        except Unavailable as error:
            raise ConfigurationError(
                f"{error}; check the address, that the server runs, and that the user may connect to the database"
            ) from error

    def _prepare(self, connection: BoundedConnection) -> None:
        if self._provision:
            migrations.apply(connection, self._schema_name, self._schema)
            return
        try:
            missing = migrations.missing(connection, self._schema_name)
        except psycopg.errors.InsufficientPrivilege as error:
            raise ConfigurationError(
                f"schema {self._schema_name} at {self._address} may not be used: {error}"
            ) from error
        if missing:
            raise ConfigurationError(
                f"schema {self._schema_name} at {self._address} lacks {', '.join(one.name for one in missing)}; run "
                f"`minuet store migrate` as a user who may create tables, or allow provisioning at the start"
            )

    async def transact(self, work: Callable[[Tx], T], *, reads_only: bool = False, lazily: bool = False) -> T:
        return await self._database.submit(work, reads_only=reads_only, lazily=lazily)

    async def close(self) -> None:
        await self._database.close()
