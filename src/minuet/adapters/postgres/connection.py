"""Connections whose waits are bounded, and what a handler may not do with the store's."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NoReturn, TypeVar

import psycopg
from psycopg import errors, generators, pq, sql
from psycopg.abc import Transformer as Transforms
from psycopg.adapt import PyFormat, Transformer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from minuet.adapters.postgres.limits import Limits
from minuet.adapters.postgres.pipeline import Command, Prepared, in_one_go
from minuet.adapters.postgres.statements import changed_nothing, ends_transaction, names_ours, only_reads
from minuet.adapters.sql import REFUSAL
from minuet.core.errors import ConfigurationError, DefinitionError

R = TypeVar("R")
Row = tuple[Any, ...]

VERSION_MIN = 130000  # pg_current_xact_id
PREPARED_MAX = 500
LATE_S = 5.0  # beyond the server's own limit for a statement: then it is not the server that will end it


class BoundedConnection(psycopg.Connection[Row]):
    """Waits for an answer only so long: a server that is stopped, or behind a dead network, never gives one."""

    answer_s = 60.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ours = Prepared()

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.answer_s if timeout is None else timeout)
        except errors._WaitTimeout:
            if timeout is not None:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError(f"the server has not answered within {self.answer_s:g} s") from None

    def run(self, statements: bytes) -> list[pq.abc.PGresult]:
        """Run statements of ours that have no values, in one round trip. psycopg would forget what it has prepared at
        each ROLLBACK, and pass on "ROLLBACK" where a COMMIT was asked for."""
        with self.lock:
            self.pgconn.send_query(statements)
            results: list[pq.abc.PGresult] = self.wait(generators.execute(self.pgconn))
        for result in results:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(result, self.pgconn._encoding)
        return results

    def together(self, commands: Sequence[Command]) -> list[pq.abc.PGresult]:
        """Run statements of ours in one round trip.

        Returns:
            A result for each, or those up to the first that failed; nothing after that one was run.

        Raises:
            psycopg.OperationalError: the connection is lost.
        """
        pgconn = self.pgconn
        with self.lock:
            pgconn.enter_pipeline_mode()
            try:
                results: list[pq.abc.PGresult] = self.wait(in_one_go(pgconn, commands, self._ours))
                pgconn.exit_pipeline_mode()
            except BaseException:
                pgconn.finish()  # nobody could tell whose the next answers are
                raise
        return results

    def failure_of(self, result: pq.abc.PGresult) -> psycopg.Error | None:
        """What went wrong, if something did."""
        if result.status != pq.ExecStatus.FATAL_ERROR:
            return None
        error = errors.error_from_result(result, self.pgconn._encoding)
        if isinstance(error, errors.InvalidSqlStatementName | errors.FeatureNotSupported):
            self._ours.forget()  # a handler has had the server forget them, or a table was changed
        return error

    def _deallocate(self, name: bytes | None) -> Any:
        if name is None:  # psycopg forgets all that is prepared, ours too
            self._ours.forget()
        return super()._deallocate(name)

    @property
    def status(self) -> TransactionStatus:
        """Known here, without asking the server."""
        return TransactionStatus(self.pgconn.transaction_status)


class HandlersCursor(psycopg.Cursor[Any]):
    """Refuses to end the transaction, and notes whether something may have been written."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> HandlersCursor:
        connection, text = self._checked(query)
        super().execute(query, params, **options)
        results = self.pgresult
        tag = self.statusmessage if results is not None else None
        connection.note(text, tag or "")
        return self

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        connection, _ = self._checked(query)
        connection.writes += 1
        super().executemany(query, params_seq, **options)

    def stream(self, query: Any, params: Any = None, **options: Any) -> Generator[Any]:
        connection, _ = self._checked(query)
        connection.writes += 1
        yield from super().stream(query, params, **options)

    def copy(self, statement: Any, params: Any = None, **options: Any) -> Any:
        connection, _ = self._checked(statement)
        connection.writes += 1
        return super().copy(statement, params, **options)

    def _checked(self, query: Any) -> tuple[Connection, str]:
        connection = self._conn
        assert isinstance(connection, Connection)
        text = _text_of(query, connection)
        connection.check(text)
        return connection, text


class Connection(BoundedConnection):
    """The store's own connection, and what a handler gets. Ending the transaction is refused.

    Attributes:
        writes: grows with everything that a rollback may have to undo.
        has_triggers: whether the service's tables have triggers or rules, so that nothing is as harmless as it looks.
        before_looking: writes what the store has kept back. Called before a statement that may look at our tables.
    """

    writes = 0
    has_triggers = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = HandlersCursor
        self._transformer: Transforms | None = None
        self.before_looking: Callable[[], object] = lambda: None

    def cursor(self, name: str = "", **options: Any) -> Any:
        if name:  # a cursor of the server's runs a query of which we see no more
            self.before_looking()
            self.writes += 1
        return super().cursor(name, **options) if name else super().cursor(**options)

    def pipeline(self) -> Any:
        self.before_looking()  # within it nothing of ours can be sent
        return super().pipeline()

    def check(self, text: str) -> None:
        """What to do before a statement of a handler.

        Raises:
            DefinitionError: it would end the transaction, or touch a savepoint of ours.
        """
        if ends_transaction(text):
            raise DefinitionError(REFUSAL)
        if (self.has_triggers or names_ours(text)) and self._pipeline is None:
            self.before_looking()

    def note(self, text: str, tag: str) -> None:
        """What to do after it; ``tag`` is what the server calls it."""
        if tag.startswith("DEALLOCATE"):
            self._ours.forget()
        if only_reads(text) or (not self.has_triggers and changed_nothing(tag)):
            return
        self.writes += 1

    def positions_in(self, result: pq.abc.PGresult) -> list[int]:
        """Of a result whose rows are a position each."""
        return [position for (position,) in self.rows_of(result)]

    def rows_of(self, result: pq.abc.PGresult) -> list[Row]:
        """Of a result of `together`."""
        if self._transformer is None:
            self._transformer = Transformer(self)
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    def dicts_of(self, result: pq.abc.PGresult) -> list[dict[str, Any]]:
        """Of a result of `ask`."""
        transformer = Transformer(self)
        transformer.set_pgresult(result)
        names = [(result.fname(place) or b"").decode() for place in range(result.nfields)]
        return transformer.load_rows(0, result.ntuples, lambda values: dict(zip(names, values, strict=True)))

    def ask(self, text: str, values: Sequence[Any]) -> pq.abc.PGresult:
        """Run a handler's statement, whose values are $1, $2, ...

        Raises:
            psycopg.Error: it failed.
        """
        if not values or len(self._ours) >= PREPARED_MAX or self._pipeline is not None:
            # Without values it may be several statements. And who sends ever new ones needs psycopg, which forgets.
            cursor = psycopg.RawCursor(self)
            cursor.execute(text, values or None)
            assert cursor.pgresult is not None
            return cursor.pgresult
        transformer = Transformer(self)
        dumped = transformer.dump_sequence(values, [PyFormat.AUTO] * len(values))
        kinds, formats = transformer.types or (), transformer.formats
        (result,) = self.together([Command(text.encode(), dumped, kinds, formats, pq.Format.TEXT)])
        failure = self.failure_of(result)
        if failure is not None:
            raise failure
        return result

    def own_cursor(self) -> psycopg.RawCursor[Row]:
        cursor: psycopg.RawCursor[Row] = psycopg.RawCursor(self)
        cursor.format = pq.Format.BINARY
        return cursor

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise DefinitionError(REFUSAL)

    commit = rollback = close = __enter__ = __exit__ = _refuse
    tpc_begin = tpc_prepare = tpc_commit = tpc_rollback = _refuse
    _set_autocommit = _set_isolation_level = _set_read_only = _set_deferrable = _refuse
    set_autocommit = set_isolation_level = set_read_only = set_deferrable = _refuse

    def really_close(self) -> None:
        super().close()


def _text_of(query: Any, connection: psycopg.Connection[Any]) -> str:
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    if isinstance(query, sql.Composable):
        return query.as_string(connection)
    return str(query)


class Address:
    """Where the database is. It never shows its password.

    Args:
        url: a libpq URL, ``postgresql://user:password@host:port/database?sslmode=verify-full&...``

    Raises:
        ConfigurationError: it is none.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("postgresql://", "postgres://")):
            raise ConfigurationError(
                "the address of a PostgreSQL store has to look like postgresql://user:password@host:5432/database"
            )
        try:
            self._parameters = conninfo_to_dict(url)
        except psycopg.Error:  # what it says may hold a piece of the password
            raise ConfigurationError(
                "the address of a PostgreSQL store cannot be read: it has to look like "
                "postgresql://user:password@host:5432/database?sslmode=require, with special characters as %XX, and "
                "libpq's parameters after the question mark"
            ) from None

    def __repr__(self) -> str:
        return f"Address({self})"

    def __str__(self) -> str:
        get = self._parameters.get
        return f"postgresql://{get('host') or 'localhost'}:{get('port') or 5432}/{get('dbname') or ''}"

    def conninfo(self, limits: Limits, application: str) -> str:
        """With bounds for whatever the URL leaves open: nothing here may wait for ever."""
        defaults: dict[str, Any] = {
            "connect_timeout": max(2, round(limits.connect_s)),
            "application_name": application,
            "target_session_attrs": "read-write",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": round(1000 * limits.statement_s),
        }
        return make_conninfo("", **{**defaults, **self._parameters})


# What a vanished client must not hold for long, and what must not depend on the database's own settings.
SETTINGS = """SELECT set_config('search_path', $1, false), set_config('statement_timeout', $2, false),
    set_config('lock_timeout', $3, false), set_config('idle_in_transaction_session_timeout', $4, false),
    set_config('client_min_messages', 'warning', false), set_config('client_encoding', 'UTF8', false),
    set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false), set_config('synchronous_commit', $5, false)"""
SETTINGS_14 = """SELECT set_config('client_connection_check_interval', '2s', false),
    set_config('idle_session_timeout', '0', false)"""
WAITS_FOR_THE_DISK = ("on", "remote_write", "remote_apply")
C = TypeVar("C", bound=BoundedConnection)


def connect(kind: type[C], address: Address, schema_name: str, limits: Limits, application: str) -> C:
    """Open a connection whose names are those of this schema.

    Raises:
        psycopg.Error: it cannot be opened now.
        ConfigurationError: the server is too old, or the database does not keep Unicode.
    """
    connection = kind.connect(address.conninfo(limits, application), autocommit=True)
    try:
        connection.answer_s = limits.statement_s + LATE_S
        connection.prepared_max = PREPARED_MAX
        if connection.info.server_version < VERSION_MIN:
            raise ConfigurationError(f"{address} is older than PostgreSQL 13; minuet needs 13 or newer")
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise ConfigurationError(f"{address} has the encoding {encoding}; create the database with UTF8")
        cursor = psycopg.RawCursor(connection)
        path = sql.Identifier(schema_name).as_string(connection)
        milliseconds = [f"{round(1000 * each)}ms" for each in (limits.statement_s, limits.lock_s, limits.idle_s)]
        # Whoever waits for standbys too goes on to do so; nobody waits for less than the disk.
        ((commit,),) = cursor.execute("SHOW synchronous_commit").fetchall()
        commit = commit if commit in WAITS_FOR_THE_DISK else "on"
        cursor.execute(SETTINGS, (f"{path}, public", *milliseconds, commit))
        if connection.info.server_version >= 140000:
            cursor.execute(SETTINGS_14)
    except BaseException:
        psycopg.Connection.close(connection)
        raise
    return connection
