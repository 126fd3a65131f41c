"""The one connection to a file, and what a handler may not do with it."""

from __future__ import annotations

import sqlite3
import weakref
from pathlib import Path
from typing import Any, NoReturn, cast

from minuet.adapters.sql import REFUSAL
from minuet.core.errors import ConfigurationError, DefinitionError

VERSION_MIN = (3, 37, 0)  # STRICT tables
CACHED_STATEMENTS = 1024
OPEN_S = 5.0  # to wait for a stranger who has the file locked, when it is opened
CHECKED_BYTES_MAX = 64 * 1024 * 1024
SAVEPOINT = "minuet"
OURS = frozenset(
    {
        "journal_mode",
        "locking_mode",
        "synchronous",
        "wal_checkpoint",
        "wal_autocheckpoint",
        "query_only",
        "foreign_keys",
    }
)
SCHEMA_CHANGES = frozenset({*range(1, 9), *range(10, 18), sqlite3.SQLITE_ALTER_TABLE, 29, 30})
"""CREATE and DROP of whatever there is, of virtual tables too: https://sqlite.org/c3ref/c_alter_table.html"""


class HandlersCursor(sqlite3.Cursor):
    """Once the database has rolled everything back by itself, each statement would commit alone."""

    def execute(self, *args: Any) -> HandlersCursor:
        self._check()
        super().execute(*args)
        return self

    def executemany(self, *args: Any) -> HandlersCursor:
        self._check()
        super().executemany(*args)
        return self

    def _check(self) -> None:
        connection = self.connection
        if not connection.in_transaction and not cast("Connection", connection).unlocked:
            raise sqlite3.OperationalError("the database has rolled the transaction back")


class Connection(sqlite3.Connection):
    """What a handler gets. Ending the transaction is refused, in whichever way it is asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.unlocked = True
        self.refused = False
        self._schema_changes = 0
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()
        self.set_authorizer(self._authorize)

    def run(self, cursor: sqlite3.Cursor, statement: str) -> sqlite3.Cursor:
        """Run a statement of ours that begins or ends a transaction, or a pragma."""
        self.unlocked = True
        try:
            return cursor.execute(statement)
        finally:
            self.unlocked = False

    def _authorize(self, action: int, first: str | None, second: str | None, _: str | None, __: str | None) -> int:
        # SQLite asks when it prepares a statement. Ours are written unlike any that a handler would write, so a
        # handler's never is one of ours that is prepared already.
        ends = (
            action == sqlite3.SQLITE_TRANSACTION
            or (action == sqlite3.SQLITE_SAVEPOINT and second == SAVEPOINT)
            or (action == sqlite3.SQLITE_PRAGMA and str(first).lower() in OURS and second is not None)
        )
        if ends and not self.unlocked:
            self.refused = True
            return sqlite3.SQLITE_DENY
        self._schema_changes += action in SCHEMA_CHANGES
        return sqlite3.SQLITE_OK

    @property
    def writes(self) -> int:
        """Grows with everything that a rollback would have to undo."""
        return self.total_changes + self._schema_changes

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        made = super().cursor(*(args or (HandlersCursor,)), **kwargs)
        self._cursors.add(made)
        return made

    def execute(self, *args: Any) -> sqlite3.Cursor:
        return cast("sqlite3.Cursor", self.cursor().execute(*args))

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        return cast("sqlite3.Cursor", self.cursor().executemany(*args))

    def close_cursors(self) -> None:
        """A cursor that a handler left half read would hold on to its snapshot, and later transactions would fail."""
        while self._cursors:
            self._cursors.pop().close()

    def own_cursor(self) -> sqlite3.Cursor:
        return super().cursor()

    def lasting_cursor(self, kind: type[HandlersCursor]) -> HandlersCursor:
        """A handlers' cursor that `close_cursors` leaves open: its user reads every result to the end."""
        return super().cursor(kind)

    def explain(self, error: BaseException) -> BaseException:
        """SQLite only says "not authorized"."""
        if not self.refused:
            return error
        self.refused = False
        if not isinstance(getattr(error, "orig", error), sqlite3.DatabaseError):  # SQLAlchemy wraps it
            return error
        explained = DefinitionError(REFUSAL)
        explained.__cause__ = error
        return explained

    def _refuse(self, *_: Any) -> NoReturn:
        raise DefinitionError(REFUSAL)

    commit = rollback = close = __enter__ = executescript = _refuse

    def really_close(self) -> None:
        super().close()


def connect(path: Path) -> Connection:
    """Open the file, whoever else has it open.

    Raises:
        ConfigurationError: it cannot be opened, is not a database or is damaged.
    """
    if sqlite3.sqlite_version_info < VERSION_MIN:
        raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old; minuet needs 3.37 or newer")
    try:
        connection = sqlite3.connect(
            path,
            timeout=OPEN_S,
            isolation_level=None,
            cached_statements=CACHED_STATEMENTS,
            check_same_thread=False,  # two threads use it, never both at once: see `SqliteDatabase`
            factory=Connection,
        )
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"{path} cannot be opened ({error}); check that its folder exists and may be written to"
        ) from error
    try:
        _set_up(connection, path)
    except sqlite3.DatabaseError as error:
        connection.really_close()
        raise unusable(path, error) from error
    except BaseException:
        connection.really_close()
        raise
    connection.unlocked = False
    return connection


def _set_up(connection: Connection, path: Path) -> None:
    ((mode,),) = connection.execute("PRAGMA journal_mode = WAL").fetchall()
    if mode != "wal":
        raise ConfigurationError(f"{path} cannot have a write-ahead log (mode {mode}); put it on a local disk")
    for pragma in (
        "synchronous = FULL",
        "foreign_keys = ON",
        "wal_autocheckpoint = 0",
        "cache_size = -16000",
        "secure_delete = FAST",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    ((pages, page_bytes),) = connection.execute("SELECT * FROM pragma_page_count, pragma_page_size").fetchall()
    if pages * page_bytes <= CHECKED_BYTES_MAX:
        ((found,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
        if found != "ok":
            raise sqlite3.DatabaseError(found)


def unusable(path: Path, error: sqlite3.DatabaseError) -> ConfigurationError:
    """What to tell whoever starts, and what to do about it."""
    if isinstance(error, sqlite3.OperationalError):
        return ConfigurationError(f"{path} cannot be used: {error}; check its permissions, its disk, and who locks it")
    return ConfigurationError(
        f"{path} is not a SQLite database, or is damaged: {error}; restore it from a backup, or move it away together "
        f"with {path.name}-wal and {path.name}-shm to begin with an empty one"
    )
