"""Forgetting what is long over, a page at a time. A page is a range of positions, which are in the order of age."""

from __future__ import annotations

from minuet.adapters.postgres.tables import Table
from minuet.codec import timestamp

PAGE = """SELECT max(position), min(changed_at) FROM
    (SELECT position, changed_at FROM minuet_inbox WHERE position > $1::bigint ORDER BY position LIMIT $2::bigint)
    AS page"""
# Of a saga all or nothing goes: as long as something of it is due, parked or young here, it is not over.
FORGET = """DELETE FROM minuet_inbox AS old
    WHERE position > $1::bigint AND position <= $2::bigint AND state = 'done' AND changed_at < $3::float8
    AND NOT EXISTS (SELECT 1 FROM minuet_inbox AS young WHERE young.saga_id = old.saga_id AND young.saga = old.saga
        AND (young.state <> 'done' OR young.changed_at >= $3::float8))"""
PAGE_KNOWN = """SELECT max(position), min(substring(attributes from '"time":"([^"]*)"')) FROM
    (SELECT position, attributes FROM minuet_known WHERE is_first AND position > $1::bigint
        ORDER BY position LIMIT $2::bigint)
    AS page"""
FORGET_KNOWN = """DELETE FROM minuet_known WHERE (saga, saga_id) IN (
        SELECT old.saga, old.saga_id FROM minuet_known AS old
        WHERE old.is_first AND old.position > $1::bigint AND old.position <= $2::bigint
        AND NOT EXISTS (SELECT 1 FROM minuet_inbox AS entry
            WHERE entry.saga_id = old.saga_id AND entry.saga = old.saga)
        AND NOT EXISTS (SELECT 1 FROM minuet_known AS young WHERE young.saga_id = old.saga_id AND young.saga = old.saga
            AND substring(young.attributes from '"time":"([^"]*)"') >= $3::text))"""


class PostgresRetention(Table):
    def forget_entries(self, before: float, after: int, limit: int) -> int | None:
        ((last, oldest),) = self._read(PAGE, (after, limit))
        if last is None:
            return None
        self._write(FORGET, (after, last, before))
        return int(last) if oldest < before else None

    def forget_known(self, before: float, after: int, limit: int) -> int | None:
        ((last, oldest),) = self._read(PAGE_KNOWN, (after, limit))
        if last is None:
            return None
        until = timestamp(before)  # written alike everywhere, so texts compare as times do
        self._write(FORGET_KNOWN, (after, last, until))
        return int(last) if (oldest or "") < until else None
