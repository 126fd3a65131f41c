"""What can go wrong between us and the server, by what has to be done about it.

A work's own failure is its caller's. The others concern the whole transaction, and with it all works that share it: it
is run again, on a new connection if the old one is lost. They pass through handlers as BaseExceptions, so that nobody
who catches ``Exception`` goes on in a transaction that is gone.
"""

from __future__ import annotations

import psycopg

from minuet.adapters.postgres.connection import BoundedConnection

CONFLICTS = frozenset({"40001", "40P01", "55P03", "26000"})
"""serialization_failure, deadlock_detected, lock_not_available, and invalid_sql_statement_name: a handler has had the
server forget what we have prepared"""
LOSSES = frozenset({"25006", "25P03", "57P01", "57P02", "57P03", "57P05"})
"""read_only_sql_transaction (this server is not the one to write to, now), idle_in_transaction_session_timeout,
admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout"""
CAUSES_MAX = 10


class Unavailable(ConnectionError):
    """The database could not be reached for as long as a caller waits. Nothing was kept."""


class CommitUnknown(Unavailable):
    """The connection was lost during the commit, and the database could not be asked since: all of it is kept, or none.

    Do the same again: what was kept is found by its key.
    """


class TransactionEnded(psycopg.OperationalError):
    """A handler ended the transaction behind our back."""


class NeedsCare(BaseException):
    """Something that was run without a savepoint has to be undone alone."""


class Interrupted(BaseException):
    """The transaction cannot go on, through no fault of the work that noticed."""


class Conflict(Interrupted):
    """Two transactions cannot both go on, and this one was chosen to give way."""


class ConnectionLost(Interrupted):
    """The connection, or the server's readiness to write, is gone."""


def interruption(connection: BoundedConnection, error: BaseException) -> Interrupted | None:
    """Whether the error, whatever a handler or SQLAlchemy has wrapped it in, concerns the whole transaction."""
    if isinstance(error, Interrupted):
        return error
    made: Interrupted | None = None
    if connection.closed:
        made = ConnectionLost(str(error))
    else:
        state = _state(error)
        if state in CONFLICTS:
            made = Conflict(str(error))
        elif state in LOSSES:
            made = ConnectionLost(str(error))
    if made is not None:
        made.__cause__ = error
    return made


def cause_of(interrupted: Interrupted) -> Exception:
    """What to tell a caller in the end."""
    cause = interrupted.__cause__
    return cause if isinstance(cause, Exception) else psycopg.OperationalError(str(interrupted))


def _state(error: BaseException) -> str | None:
    one: BaseException | None = error
    for _ in range(CAUSES_MAX):
        if one is None:
            break
        if isinstance(one, psycopg.Error):
            return one.sqlstate
        wrapped = getattr(one, "orig", None)  # SQLAlchemy's
        one = wrapped if isinstance(wrapped, BaseException) else one.__cause__ or one.__context__
    return None
