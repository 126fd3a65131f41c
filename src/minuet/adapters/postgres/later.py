"""What a transaction writes, sent all at once at its end, together with the COMMIT.

Nobody looks at most of it before the commit, and nearly always it can be written as whoever writes it expects: what is
new is not there yet, what this instance owns is still its own. So the verbs say yes, what they write is kept here, and
the last round trip writes it, looks whether it was so, and commits. If it was not, that statement fails, nothing is
committed, and the transaction is done over **carefully**: each statement at once, in its work, under its savepoint. So
a wrong guess costs time and nothing else, and it is the right work that hears of it.

Any statement of ours that is not kept back, and any of a handler that names a table of ours, has all of this written
first.
"""

from __future__ import annotations

from collections.abc import Sequence

from minuet.adapters.postgres.pipeline import (
    BIGINT,
    BOOLEAN,
    BYTEA,
    DOUBLE,
    TEXT,
    Command,
    Value,
    array,
    arrays,
    bigint,
)
from minuet.adapters.postgres.rows import CHANGING
from minuet.core.formula import Literal

Row = tuple[Value, ...]
Mark = tuple[int, int, int, int]
Learnt = tuple[tuple[str, str], Literal]
"""Of which saga, and what."""

ENTRY_COLUMNS = {
    "saga": TEXT,
    "saga_id": TEXT,
    "key": TEXT,
    "handler": TEXT,
    "attributes": TEXT,
    "body": BYTEA,
    "digest": TEXT,
    "state": TEXT,
    "attempts": BIGINT,
    "due_at": DOUBLE,
    "owner": TEXT,
    "waits_for": TEXT,
    "answer_attributes": TEXT,
    "answer_body": BYTEA,
    "error": TEXT,
    "changed_at": DOUBLE,
}
KNOWN_COLUMNS = {
    "saga": TEXT,
    "saga_id": TEXT,
    "literal": TEXT,
    "is_first": BOOLEAN,
    "attributes": TEXT,
    "body": BYTEA,
}
_NAMES = {TEXT: "text", BYTEA: "bytea", BIGINT: "bigint", DOUBLE: "float8", BOOLEAN: "boolean"}
KEY = tuple(ENTRY_COLUMNS).index("key")


def mine(place: int) -> str:
    """A condition on an entry that is found by its key: that this is its owner.

    Written so that the index on owners cannot be used: the planner takes it for as good as that on keys, and then all
    that is due here is gone through for each entry.
    """
    return f"(minuet_inbox.owner = ${place}) IS TRUE"


def _insert(table: str, columns: dict[str, int]) -> bytes:
    """A statement that adds rows, given as an array for each column, and fails unless that many can be added."""
    given = ", ".join(f"${place}::{_NAMES[kind]}[]" for place, kind in enumerate(columns.values(), 1))
    names = ", ".join(columns)
    return f"""WITH added AS (INSERT INTO {table} ({names})
            SELECT {names} FROM unnest({given}) WITH ORDINALITY AS new ({names}, place) ORDER BY place
            ON CONFLICT DO NOTHING RETURNING 1)
        SELECT 1 / (count(*) = ${len(columns) + 1}::bigint)::int FROM added""".encode()


def _update(columns: Sequence[str]) -> bytes:
    """A statement that changes an entry of the owner, and fails unless it is there, and due."""
    given = ", ".join(f"{name} = ${place}" for place, name in enumerate(columns, 1))
    return f"""WITH changed AS (UPDATE minuet_inbox SET {given}
            WHERE key = ${len(columns) + 1} AND {mine(len(columns) + 2)} AND state = 'due' RETURNING 1)
        SELECT 1 / count(*)::int FROM changed""".encode()


ADD_ALL = _insert("minuet_inbox", ENTRY_COLUMNS)
LEARN_ALL = _insert("minuet_known", KNOWN_COLUMNS)
CHANGE = _update(CHANGING)
CHANGE_ENVELOPE = _update(("attributes", "body", *CHANGING))
SENT_ALL = b"DELETE FROM minuet_outbox WHERE position = ANY($1::bigint[])"


class Later:
    """
    Attributes:
        is_on: whether anything is kept back; not in a careful transaction, nor in one that only reads.
    """

    def __init__(self) -> None:
        self.is_on = False
        self._added: list[Row] = []
        self._changed: list[tuple[str, Command]] = []
        self._learnt: list[tuple[Learnt, Row]] = []
        self._sent: list[int] = []
        self._keys: dict[str, None] = {}

    def add(self, key: str, row: Row) -> None:
        self._keys[key] = None
        self._added.append(row)

    def change(self, key: str, row: Row) -> None:
        """``row`` has the columns of `CHANGE` or of `CHANGE_ENVELOPE`, the key, and the owner."""
        self._keys[key] = None
        statement = CHANGE if len(row) == len(CHANGING) + 2 else CHANGE_ENVELOPE
        self._changed.append((key, Command(statement, row)))

    def learn(self, learnt: Learnt, row: Row) -> None:
        self._learnt.append((learnt, row))

    def sent(self, positions: Sequence[int]) -> None:
        self._sent.extend(positions)

    def has(self, key: str) -> bool:
        """Whether something is to be written to the entry with this key."""
        return key in self._keys

    @property
    def is_empty(self) -> bool:
        return not (self._added or self._changed or self._learnt or self._sent)

    def mark(self) -> Mark:
        return len(self._added), len(self._changed), len(self._learnt), len(self._sent)

    def back_to(self, mark: Mark) -> list[Learnt]:
        """Forget what came since; what was learnt of it. What was written is not taken back."""
        added, changed, learnt, sent = mark
        unlearnt = [one for one, _ in self._learnt[learnt:]]
        if len(self._added) > added or len(self._changed) > changed:
            del self._added[added:]
            del self._changed[changed:]
            kept = [row[KEY].decode() for row in self._added if row[KEY] is not None]  # type: ignore[union-attr]
            self._keys = dict.fromkeys(kept + [key for key, _ in self._changed])
        del self._learnt[learnt:]
        del self._sent[sent:]
        return unlearnt

    def commands(self) -> list[Command]:
        """Write all of it."""
        commands = []
        if self._learnt:
            rows = [row for _, row in self._learnt]
            commands.append(Command(LEARN_ALL, (*arrays(list(KNOWN_COLUMNS.values()), rows), bigint(len(rows)))))
        if self._added:
            columns = arrays(list(ENTRY_COLUMNS.values()), self._added)
            commands.append(Command(ADD_ALL, (*columns, bigint(len(self._added)))))
        commands += [command for _, command in self._changed]
        if self._sent:
            commands.append(Command(SENT_ALL, (array(BIGINT, list(map(bigint, self._sent))),)))
        return commands

    def clear(self) -> list[str]:
        """All is written, or to be forgotten; the keys of the entries that were."""
        keys = list(self._keys)
        self._added.clear()
        self._changed.clear()
        self._learnt.clear()
        self._sent.clear()
        self._keys.clear()
        return keys
