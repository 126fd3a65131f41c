"""Who is there: each instance's writing session holds advisory locks, and the server frees them when it ends.

One lock, on the instance's name, says who owns what: an owner is gone when nobody holds the lock of its name. It is
held by the very session that writes for the instance, so an instance that cannot write any more owns nothing.

Another, shared, on the schema and the session's number, lets all others see in one look who is there.

The third is the lease. An instance's second connection looks around again and again, and holds a lock with the number
of the writing session that it speaks for. When the server has heard nothing from either for the time of the lease, the
others have the server end both sessions. That is the fence: whoever wakes up later has no session to write with, opens
a new one, and finds that what it owned is another's. Only the server's clock counts.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from typing import Any

import psycopg

_OURS = "locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
_KEY = "hashtextextended('minuet ' || $1::text || ' ' || {owner}, 0)"
# pg_locks shows the two halves of a 64-bit key as numbers of their own.
_HELD = f"""SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE {_OURS} AND objsubid = 1 AND granted"""

HOLD = f"SELECT pg_try_advisory_lock({_KEY.format(owner='$2::text')})"
APPEAR = "SELECT pg_advisory_lock_shared($1::int, pg_backend_pid())"
PRESENT = f"""SELECT objid::bigint FROM pg_locks
    WHERE {_OURS} AND objsubid = 2 AND classid::bigint = $1::bigint AND granted"""
LEAVE = b"SELECT pg_advisory_unlock_all()"
# Our own session of before may linger: the server has not noticed yet that its client is gone.
GUARD = "SELECT pg_advisory_lock_shared($1::int, $2::int)"
GUARD_NO_MORE = "SELECT pg_advisory_unlock_shared($1::int, $2::int)"
# An instance's signs of life are those of the session that writes and of whoever speaks for it.
FENCE = f"""WITH held AS (SELECT pid, classid::bigint AS what, objid::bigint AS session FROM pg_locks
            WHERE {_OURS} AND objsubid = 2 AND granted),
        instances AS (SELECT session FROM held WHERE what = $1::bigint AND pid = session AND session <> $4::bigint),
        speakers AS (SELECT session, session AS pid FROM instances
            UNION SELECT session, held.pid FROM held JOIN instances USING (session) WHERE what = $2::bigint),
        silent AS (SELECT session FROM speakers JOIN pg_stat_activity ON pg_stat_activity.pid = speakers.pid
            GROUP BY session HAVING max(greatest(query_start, state_change, backend_start))
                < clock_timestamp() - make_interval(secs => $3::float8))
    SELECT pg_terminate_backend(speakers.pid::int), session FROM speakers JOIN silent USING (session)"""
END_OLD = f"""SELECT pg_terminate_backend(pid) FROM pg_locks
    WHERE {_OURS} AND objsubid = 1 AND granted AND pid <> pg_backend_pid()
        AND ((classid::bigint << 32) | objid::bigint) = {_KEY.format(owner="$2::text")}"""


def owners_gone(table: str, condition: str) -> str:
    """A statement for the owners named in a table that are gone, given the schema's name and one's own.

    Owners are few and rows may be many, so it hops from one to the next through the index.
    """
    return f"""WITH RECURSIVE owners (owner) AS (
            SELECT min(owner) FROM {table} WHERE {condition}
        UNION ALL
            SELECT (SELECT min(t.owner) FROM {table} t WHERE {condition} AND t.owner > owners.owner) FROM owners
            WHERE owners.owner IS NOT NULL)
        SELECT owner FROM owners
        WHERE owner <> $2 AND {_KEY.format(owner="owner")} NOT IN ({_HELD})"""


def number_of(schema_name: str) -> int:
    """The schema's number in the second lock: two schemas with one number only look more often than needed."""
    return zlib.crc32(schema_name.encode()) & 0x7FFF_FFFF


def guards_number_of(schema_name: str) -> int:
    """The schema's number in the third lock."""
    return zlib.crc32(b"lease " + schema_name.encode()) & 0x7FFF_FFFF


def fence(
    cursor: psycopg.RawCursor[tuple[Any, ...]], schema_name: str, own: int | None, lease_s: float
) -> Collection[int]:
    """End the sessions of other instances that show no sign of life; the numbers of those that wrote."""
    numbers = (number_of(schema_name), guards_number_of(schema_name), lease_s, own or 0)
    return {number for _, number in cursor.execute(FENCE, numbers, prepare=True).fetchall()}


def present(cursor: psycopg.RawCursor[tuple[Any, ...]], schema_name: str) -> Sequence[int]:
    """The numbers of the writing sessions of all instances."""
    return [number for (number,) in cursor.execute(PRESENT, (number_of(schema_name),), prepare=True).fetchall()]
