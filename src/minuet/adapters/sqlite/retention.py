"""Forgetting what is long over, a page at a time. A page is a range of positions, which are in the order of age."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from minuet.adapters.sqlite.tables import SqliteKnown, Table
from minuet.codec import timestamp

_TIME = "CASE WHEN json_valid({0}.attributes) THEN json_extract({0}.attributes, '$.time') END"

PAGE = """SELECT max(position), min(changed_at) FROM
    (SELECT position, changed_at FROM minuet_inbox WHERE position > ? ORDER BY position LIMIT ?)"""
# Of a saga all or nothing goes: as long as something of it is due, parked or young here, it is not over.
FORGET = """DELETE FROM minuet_inbox AS old WHERE position > ? AND position <= ? AND state = 'done' AND changed_at < ?
    AND NOT EXISTS (SELECT 1 FROM minuet_inbox AS young WHERE young.saga_id = old.saga_id AND young.saga = old.saga
        AND (young.state <> 'done' OR young.changed_at >= ?))"""
PAGE_KNOWN = f"""SELECT max(position), min({_TIME.format("page")}) FROM
    (SELECT position, attributes FROM minuet_known WHERE is_first AND position > ? ORDER BY position LIMIT ?) AS page"""
FORGET_KNOWN = f"""DELETE FROM minuet_known WHERE (saga, saga_id) IN (
        SELECT old.saga, old.saga_id FROM minuet_known AS old
        WHERE old.is_first AND old.position > ? AND old.position <= ?
        AND NOT EXISTS (SELECT 1 FROM minuet_inbox AS entry
            WHERE entry.saga_id = old.saga_id AND entry.saga = old.saga)
        AND NOT EXISTS (SELECT 1 FROM minuet_known AS young WHERE young.saga_id = old.saga_id AND young.saga = old.saga
            AND {_TIME.format("young")} >= ?))
    RETURNING saga, saga_id"""


class SqliteRetention(Table):
    def __init__(self, cursor: sqlite3.Cursor, instance: str, gone: Callable[[str], bool], known: SqliteKnown) -> None:
        super().__init__(cursor, instance, gone)
        self._known = known

    def forget_entries(self, before: float, after: int, limit: int) -> int | None:
        ((last, oldest),) = self._execute(PAGE, (after, limit)).fetchall()
        if last is None:
            return None
        self._execute(FORGET, (after, last, before, before))
        return int(last) if oldest < before else None

    def forget_known(self, before: float, after: int, limit: int) -> int | None:
        ((last, oldest),) = self._execute(PAGE_KNOWN, (after, limit)).fetchall()
        if last is None:
            return None
        until = timestamp(before)  # written alike everywhere, so texts compare as times do
        for saga, saga_id in self._execute(FORGET_KNOWN, (after, last, until)).fetchall():
            self._known.drop(saga, saga_id)
        return int(last) if (oldest or "") < until else None
