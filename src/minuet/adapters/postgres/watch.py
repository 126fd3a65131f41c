"""A second connection, on a thread of its own, for what other instances say: LISTEN, and who is there.

An instance is told by NOTIFY that another has committed. That is sent here, after the commit and at most every 20 ms,
and not within the commit: PostgreSQL lets only one transaction with a NOTIFY commit at a time, in the whole server, so
neither instances nor services would share the disk's time. If the process dies in between, the others notice that.

Who is alone tells nobody. So who comes says so, once it listens: what was committed before that it sees, and what is
committed after it is heard, it is told.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import threading
import time
import zlib
from collections.abc import Callable

import psycopg
from psycopg import sql

from minuet.adapters.postgres import locks
from minuet.adapters.postgres.connection import Address, BoundedConnection, connect
from minuet.adapters.postgres.limits import Limits
from minuet.core.retry import RetryPolicy
from minuet.ports import Ids

log = logging.getLogger("minuet.postgres")

NAME_CHARACTERS_MAX = 40  # identifiers have at most 63 bytes
TELL = "SELECT pg_notify($1, $2)"
HERE = "here: "
"""What an instance that comes says is this, and its name; who has committed says its name alone."""
RECONNECT = RetryPolicy(first_s=0.05, delay_max_s=1.0)


class Watch:
    """Tells its instance, from its thread, of the others; and the others of its instance.

    Args:
        disturbed: others have committed, or one of them is gone, or we may have missed it.
        absent: our own writing session is not there.
        writer_number: the server's for that session.
    """

    def __init__(
        self,
        address: Address,
        schema_name: str,
        instance: str,
        ids: Ids,
        limits: Limits,
        disturbed: Callable[[], None],
        absent: Callable[[], None],
        writer_number: Callable[[], int | None],
    ) -> None:
        self._address = address
        self._schema_name = schema_name
        self._instance = instance
        self._ids = ids
        self._limits = limits
        self._disturbed = disturbed
        self._absent = absent
        self._channel = channel_of(schema_name)
        self._others: set[int] = set()
        self._guarded: int | None = None
        self._owes = False
        self._untold = False  # something was committed since we told
        self._is_closing = False
        self._told_at = float("-inf")
        self._looked_at = float("-inf")
        self._writer_number = writer_number
        self._is_running = False
        self._thread = threading.Thread(target=self._main, name=f"minuet watch {schema_name}", daemon=True)

    def start(self) -> None:
        self._wake_from, self._wake_to = os.pipe()
        os.set_blocking(self._wake_from, False)
        os.set_blocking(self._wake_to, False)
        self._is_running = True
        self._thread.start()

    def tell(self) -> None:
        """Let the others know that something was committed, if there are any. From any thread."""
        self._untold = True
        if self._others and self._is_running and not self._owes:
            self._owes = True
            self._wake()

    def close(self) -> None:
        """Waits for the thread; what is owed is told, if the server is there."""
        self._is_closing = True
        self._wake()
        self._thread.join()
        self._is_running = False
        os.close(self._wake_from)
        os.close(self._wake_to)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is full of wake-ups
            os.write(self._wake_to, b".")

    # -- on the thread -------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        failures = 0
        while not self._is_closing:
            try:
                connection = connect(
                    BoundedConnection,
                    self._address,
                    self._schema_name,
                    self._limits,
                    f"minuet {self._schema_name} watch",
                )
                try:
                    failures = 0
                    self._watch(connection)
                finally:
                    connection.close()
            except (psycopg.Error, OSError):
                failures += 1
                self._sleep(RECONNECT.delay_s(failures, self._ids.chance()))

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_from, selectors.EVENT_READ)
            while not self._is_closing and (left := until - time.monotonic()) > 0:
                if selector.select(left):
                    self._drain()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_from, 4096)

    def _watch(self, connection: BoundedConnection) -> None:
        cursor = psycopg.RawCursor(connection)
        cursor.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
        self._guarded = None  # by this session
        self._look(cursor, time.monotonic())
        cursor.execute(TELL, (self._channel, HERE + self._instance))
        self._disturbed()  # who knows what was said while we did not listen
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.register(self._wake_from, selectors.EVENT_READ)
            while not self._is_closing:
                selector.select(self._idle_s())
                self._drain()
                now = time.monotonic()
                if self._owes and now >= self._told_at + self._limits.notify_s:
                    self._tell(cursor, now)
                if now >= self._looked_at + self._limits.look_s:
                    self._look(cursor, now)
                heard = {one.payload for one in connection.notifies(timeout=0)} - {self._instance}
                came = {who for who in heard if who.startswith(HERE)}
                if came - {HERE + self._instance}:
                    self._look(cursor, time.monotonic())
                if heard - came:
                    self._disturbed()
        if self._owes:
            self._tell(cursor, time.monotonic())

    def _idle_s(self) -> float:
        now = time.monotonic()
        look_s = self._looked_at + self._limits.look_s - now
        tell_s = self._told_at + self._limits.notify_s - now if self._owes else look_s
        return max(0.0, min(look_s, tell_s))

    def _tell(self, cursor: psycopg.RawCursor, now: float) -> None:
        self._owes = self._untold = False
        self._told_at = now
        try:
            cursor.execute(TELL, (self._channel, self._instance), prepare=True)
        except BaseException:
            self._owes = self._untold = True
            raise

    def _look(self, cursor: psycopg.RawCursor, now: float) -> None:
        self._looked_at = now
        own = self._writer_number()
        self._guard(cursor, own)
        for number in locks.fence(cursor, self._schema_name, own, self._limits.lease_s):
            log.warning(
                "%s: an instance (session %d) showed no sign of life for %g s; it is fenced, others take over",
                self._schema_name,
                number,
                self._limits.lease_s,
            )
        there = set(locks.present(cursor, self._schema_name))
        if own not in there:
            self._absent()
        others = there - {own}
        if self._others - others:
            self._disturbed()
        somebody_came = bool(others - self._others)
        self._others = others
        # In this order, as `tell` goes the other way round: what is committed now is seen by one of the two.
        if somebody_came and self._untold:
            self._owes = True

    def _guard(self, cursor: psycopg.RawCursor, own: int | None) -> None:
        """Speak for the writing session that there is now."""
        us = locks.guards_number_of(self._schema_name)
        if own == self._guarded:
            return
        if self._guarded is not None:
            cursor.execute(locks.GUARD_NO_MORE, (us, self._guarded))
        if own is not None:
            cursor.execute(locks.GUARD, (us, own))
        self._guarded = own


def channel_of(schema_name: str) -> str:
    """The name of the schema's channel: what is left of the name, and what tells it from others."""
    return f"minuet {schema_name[:NAME_CHARACTERS_MAX].encode()[:40].decode(errors='ignore')} {_short(schema_name)}"


def _short(name: str) -> str:
    return f"{zlib.crc32(name.encode()):08x}"
