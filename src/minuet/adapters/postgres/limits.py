"""How long anything may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """All in seconds.

    Attributes:
        patience_s: a caller waits at most so long for a database that is away, and then gets `Unavailable`.
        connect_s: to open a connection.
        statement_s: for one statement; the server ends it then. A handler's statements should take milliseconds.
        lock_s: to wait for a lock that another transaction holds; then the transaction is begun anew.
        idle_s: a transaction in which nothing happens for so long is ended by the server. So a process that is stopped
            or cut off in the middle of one gives its locks back, and loses what it owns to others. A handler that
            computes for longer than this between two statements loses its transaction too.
        lease_s: an instance that shows no sign of life for so long (its process is stopped, its machine is cut off) is
            fenced: the server ends its sessions, so that it writes nothing any more, and others take over.
        look_s: how often to look whether another instance is gone.
        notify_s: other instances are told of commits at most this often.
    """

    patience_s: float = 10.0
    connect_s: float = 5.0
    statement_s: float = 30.0
    lock_s: float = 15.0
    idle_s: float = 10.0
    lease_s: float = 10.0
    look_s: float = 1.0
    notify_s: float = 0.02
