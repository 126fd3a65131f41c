"""Who owned which work of the orchestrators, and when: a trigger in their database writes it down.

It sees what is committed and nothing else, from outside of all processes. Of each entry it keeps who owned it and
whether it was done, and of each writer the server's own number for its session. So it is known which process did what,
although no process says so.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.acceptance.processes import Process

SCHEMA = "orchestrator"
TRIGGER = """
CREATE TABLE owned (position BIGSERIAL PRIMARY KEY, at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    session INTEGER NOT NULL DEFAULT pg_backend_pid(), key TEXT NOT NULL, was_owner TEXT, owner TEXT,
    was_state TEXT, state TEXT NOT NULL);
CREATE INDEX ON owned (was_owner) WHERE was_owner IS NOT NULL;
CREATE FUNCTION note_owner() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO orchestrator.owned (key, was_owner, owner, was_state, state)
        VALUES (NEW.key, OLD.owner, NEW.owner, OLD.state, NEW.state);
    RETURN NULL;
END $$;
CREATE TRIGGER note_owner AFTER INSERT OR UPDATE ON minuet_inbox FOR EACH ROW EXECUTE FUNCTION note_owner();
"""
WRITING = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND client_port = ANY(%s)"
OWNERS = "SELECT DISTINCT owner FROM owned WHERE session = ANY(%s) AND owner IS NOT NULL"
LEFT = "SELECT key FROM minuet_inbox WHERE state = 'due' AND owner = ANY(%s)"
TAKEN = """SELECT min(at), max(at), count(*) FROM (
        SELECT min(extract(epoch FROM at))::float8 AS at FROM owned
        WHERE key = ANY(%(keys)s) AND was_owner = ANY(%(owners)s) AND owner <> ALL(%(owners)s)
            AND at >= to_timestamp(%(since)s) GROUP BY key) AS taken"""
DONE_TWICE = (
    "SELECT key FROM owned WHERE state = 'done' AND was_state IS DISTINCT FROM 'done' GROUP BY key HAVING count(*) > 1"
)
UNDONE = "SELECT key FROM owned WHERE was_state = 'done' AND state <> 'done'"
MEDDLED = """WITH names AS (SELECT session, min(owner) AS name FROM owned WHERE owner IS NOT NULL GROUP BY session)
    SELECT key FROM owned JOIN names USING (session)
    WHERE was_owner <> name AND NOT (state = 'due' AND owner = name)"""


@dataclass(frozen=True)
class Takeover:
    """What became of the work of a process that was killed or stopped.

    Attributes:
        entries: how many of them others began.
        first_s: until one of its entries was another's. last_s: until all of them were.
    """

    entries: int
    first_s: float
    last_s: float


class Takeovers:
    """Looks into the orchestrators' database.

    Args:
        url: of the database in which they have a schema. They have started: it has its tables.
    """

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True, options=f"-c search_path={SCHEMA}")
        self._connection.execute(TRIGGER)

    def close(self) -> None:
        self._connection.close()

    def _all(self, statement: str, values: Any = None) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement.encode(), values).fetchall()

    def sessions(self, process: Process) -> set[int]:
        """The server's numbers of the sessions with which this process writes now."""
        rows = self._all(WRITING, [f"minuet {SCHEMA}", _ports(process.popen.pid)])
        return {number for (number,) in rows}

    def are_there(self, sessions: Collection[int]) -> bool:
        return bool(self._all("SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s)", [list(sessions)]))

    def owners(self, sessions: Collection[int]) -> list[str]:
        """The names under which these sessions have owned anything."""
        return [owner for (owner,) in self._all(OWNERS, [list(sessions)])]

    def left(self, owners: Sequence[str]) -> set[str]:
        """What these own and have not done."""
        return {key for (key,) in self._all(LEFT, [list(owners)])}

    def story(self, sessions: Collection[int], owners: Sequence[str]) -> str:
        """What there is to say of them when something is wrong."""
        there = self._all(
            "SELECT pid, application_name, state, wait_event, clock_timestamp() - greatest(query_start, state_change), "
            "query FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%orchestrator%'"
        )
        locks = self._all("SELECT pid, classid::int8, objid::int8, objsubid FROM pg_locks WHERE locktype = 'advisory'")
        lines = (f"  {'*' if row[0] in sessions else ' '} {row}" for row in (*there, *locks))
        return "\n".join([f"left {self.left(owners)}", *lines])

    def of(self, left: Collection[str], owners: Sequence[str], since: float) -> Takeover | None:
        """When others took over what these left behind at that time, in seconds since 1970; None if nothing."""
        values = {"keys": list(left), "owners": list(owners), "since": since}
        ((first, last, entries),) = self._all(TAKEN, values)
        return Takeover(entries, first - since, last - since) if entries else None

    def done_twice(self) -> list[str]:
        """Entries that were decided, and then decided again or not decided any more."""
        return [key for (key,) in (*self._all(DONE_TWICE), *self._all(UNDONE))]

    def meddled(self) -> list[str]:
        """Entries that somebody wrote to while they were another's, other than by taking them over."""
        return [key for (key,) in self._all(MEDDLED)]


def asked_twice(url: str, services: Sequence[str]) -> list[str]:
    """Commands that reached a participant under more than one key."""
    found = []
    with psycopg.connect(url, autocommit=True) as connection:
        for service in services:
            rows = connection.execute(
                sql.SQL(
                    "SELECT saga_id, handler, count(*) FROM {}.minuet_inbox WHERE saga_id IS NOT NULL AND handler NOT "
                    "LIKE 'on/%' GROUP BY saga_id, handler HAVING count(*) > 1"
                ).format(sql.Identifier(service))
            )
            found += [f"{service}: {handler} of {saga_id}, {times} times" for saga_id, handler, times in rows]
    return found


def _ports(pid: int) -> list[int]:
    """The local ports of the TCP connections of a process."""
    inodes = set()
    for name in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(name)
        except FileNotFoundError:
            continue  # it was closed meanwhile
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    # sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
    connections = (line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
    return [int(columns[1].rpartition(":")[2], 16) for columns in connections if columns[9] in inodes]
