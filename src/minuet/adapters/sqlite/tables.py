"""The store's tables, verb by verb. Each verb is one statement where it can be, with a constant text."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence

from minuet.adapters.sql.unreadable import UNREADABLE, unreadable_message
from minuet.adapters.sqlite.rows import (
    CHANGING,
    ENTRY,
    Row,
    act_of,
    changing,
    entry_of,
    instruction_of,
    instruction_row,
    literal_of,
    outgoing_of,
    parked_of,
)
from minuet.codec import attributes_to_text, envelope_from_text
from minuet.core.envelope import Envelope
from minuet.core.formula import Literal
from minuet.core.operating import Scope, Verb
from minuet.ports import Act, Entry, EntryState, Instruction, Outgoing, ParkedMessage

FIND = f"SELECT {ENTRY} FROM minuet_inbox WHERE key = ?"
ADD = f"""INSERT INTO minuet_inbox (saga, saga_id, {ENTRY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO NOTHING"""
# What changes when something came of it; the envelope mostly does not.
CHANGE = f"""UPDATE minuet_inbox SET {", ".join(f"{name} = ?" for name in CHANGING)}
    WHERE key = ? AND owner = ? AND state = 'due'"""
CHANGE_ALL = CHANGE.replace("SET ", "SET attributes = ?, body = ?, ", 1)
_WRITTEN = ("attributes", "body", *CHANGING)
SAVE = f"""INSERT INTO minuet_inbox (saga, saga_id, {ENTRY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _WRITTEN)}
    WHERE minuet_inbox.owner = ? AND minuet_inbox.state = 'due'"""
SETTLE = f"""UPDATE minuet_inbox SET {", ".join(f"{name} = ?" for name in CHANGING)}
    WHERE key = ? AND state <> 'done'"""
PARK_ENTRY = "UPDATE minuet_inbox SET state = 'parked', error = ?, owner = NULL WHERE key = ?"
RENAME = "UPDATE minuet_inbox SET key = ? WHERE key = ? AND owner = ? AND state = 'due'"
# The plus keeps SQLite from reading the whole inbox in the order of positions: few are due, and they have an index.
TAKE = f"""UPDATE minuet_inbox SET owner = ? WHERE position IN (
        SELECT position FROM minuet_inbox
        WHERE state = 'due' AND (owner IS NULL OR owner IN (SELECT value FROM json_each(?)))
        ORDER BY +position LIMIT ?)
    RETURNING position, {ENTRY}"""
OWNERS = "SELECT min(owner) FROM minuet_inbox WHERE state = 'due' AND owner > ?"
WAITING_FOR = f"""SELECT {ENTRY} FROM minuet_inbox
    WHERE waits_for IS NOT NULL AND waits_for = ? AND state = 'due' AND owner = ? ORDER BY position"""
RELEASE = "UPDATE minuet_inbox SET owner = NULL WHERE state = 'due' AND owner = ?"
REOPEN = """UPDATE minuet_inbox SET state = 'due', attempts = 0, due_at = 0, owner = NULL
    WHERE key = ? AND state = 'parked'"""
PARKED_ENTRIES = f"SELECT {ENTRY} FROM minuet_inbox WHERE state = 'parked' ORDER BY position LIMIT ?"
ENTRIES_OF = f"SELECT {ENTRY} FROM minuet_inbox WHERE saga_id = ? AND saga = ? ORDER BY position"

LEARN = """INSERT INTO minuet_known (saga, saga_id, literal, is_first, attributes, body)
    VALUES (?1, ?2, ?3, NOT EXISTS (SELECT 1 FROM minuet_known WHERE saga = ?1 AND saga_id = ?2), ?4, ?5)
    ON CONFLICT (saga, saga_id, literal) DO NOTHING RETURNING is_first"""
LEARN_MORE = """INSERT INTO minuet_known (saga, saga_id, literal, is_first, attributes, body)
    VALUES (?, ?, ?, 0, ?, ?)"""
KNOWN = "SELECT literal, attributes, body FROM minuet_known WHERE saga = ? AND saga_id = ? ORDER BY position"
RECENT = """SELECT position, saga, saga_id FROM minuet_known
    WHERE is_first AND position < ? ORDER BY position DESC LIMIT ?"""

SEND = "INSERT INTO minuet_outbox (channel, attributes, body, owner) VALUES (?, ?, ?, ?)"
SENT = "DELETE FROM minuet_outbox WHERE position = ?"
TAKE_SENDING = """UPDATE minuet_outbox SET owner = ? WHERE position IN (
        SELECT position FROM minuet_outbox
        WHERE owner IS NULL OR owner IN (SELECT value FROM json_each(?)) ORDER BY position LIMIT ?)
    RETURNING position, channel, attributes, body"""
SENDERS = "SELECT min(owner) FROM minuet_outbox WHERE owner > ?"
MINE = """SELECT position, channel, attributes, body FROM minuet_outbox
    WHERE owner = ? AND position > ? ORDER BY position LIMIT ?"""

PARK = "INSERT OR REPLACE INTO minuet_parked VALUES (?, ?, ?, ?, ?, ?)"
PARKED = "SELECT * FROM minuet_parked WHERE id = ?"
UNPARK = "DELETE FROM minuet_parked WHERE id = ?"
ALL_PARKED = "SELECT * FROM minuet_parked ORDER BY parked_at, rowid LIMIT ?"

PUT_VIEW = """INSERT INTO minuet_read_models (query, key, view, as_of) VALUES (?, ?, ?, ?)
    ON CONFLICT (query, key) DO UPDATE SET view = excluded.view, as_of = excluded.as_of
    WHERE minuet_read_models.as_of <= excluded.as_of"""
GET_VIEW = "SELECT view FROM minuet_read_models WHERE query = ? AND key = ?"

NOTE = "INSERT INTO minuet_audit (at, who, verb, what, why) VALUES (?, ?, ?, ?, ?)"
NOTED = "SELECT at, who, verb, what, why FROM minuet_audit ORDER BY position DESC LIMIT ?"

INSTRUCT = """INSERT INTO minuet_instructions (topic, saga, saga_id, service, verb, at, who, why)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (topic, saga, saga_id, service)
    DO UPDATE SET verb = excluded.verb, at = excluded.at, who = excluded.who, why = excluded.why
    WHERE excluded.at > minuet_instructions.at OR (excluded.at = minuet_instructions.at
        AND minuet_instructions.verb = 'pause' AND excluded.verb = 'resume')"""
INSTRUCTED = """SELECT saga, saga_id, service, verb, at, who, why FROM minuet_instructions
    WHERE topic = ? AND saga = ? AND saga_id = ? AND service = ?"""
IN_FORCE = """SELECT saga, saga_id, service, verb, at, who, why FROM minuet_instructions
    WHERE verb = 'pause' OR (verb = 'retry' AND at > ?) ORDER BY at"""

POSITION_MAX = 2**63 - 1
AT_HAND_MAX = 2000
"""Sagas whose known messages are kept in memory; a few kilobytes each."""


class Table:
    """All tables share one cursor: each verb reads to the end what it asks for."""

    def __init__(self, cursor: sqlite3.Cursor, instance: str, gone: Callable[[str], bool]) -> None:
        self._cursor = cursor
        self._execute = cursor.execute
        self._instance = instance
        self._gone = gone

    def _gone_owners(self, next_owner: str) -> str:
        """As JSON. Owners are few and rows may be many, so we hop from one to the next through the index."""
        owners: list[str] = []
        ((owner,),) = self._execute(next_owner, ("",)).fetchall()
        while owner is not None:
            owners.append(owner)
            ((owner,),) = self._execute(next_owner, (owner,)).fetchall()
        return json.dumps([owner for owner in owners if self._gone(owner)])


class SqliteInbox(Table):
    def find(self, key: str) -> Entry | None:
        rows = self._execute(FIND, (key,)).fetchall()
        return entry_of(rows[0]) if rows else None

    def add(self, entry: Entry) -> bool:
        return self._execute(ADD, self._row(entry)).rowcount == 1

    def save(self, entry: Entry) -> bool:
        if entry.owner is None:
            return self._execute(SAVE, (*self._row(entry), self._instance)).rowcount == 1
        if entry.written is entry.envelope:
            self._own(entry)
            return self._execute(CHANGE, (*changing(entry), entry.key, self._instance)).rowcount == 1
        self._own(entry)
        entry.written = entry.envelope
        sent = (attributes_to_text(entry.envelope), entry.envelope.body)
        return self._execute(CHANGE_ALL, (*sent, *changing(entry), entry.key, self._instance)).rowcount == 1

    def _own(self, entry: Entry) -> None:
        entry.owner = self._instance if entry.state is EntryState.DUE else None

    def _row(self, entry: Entry) -> Row:
        self._own(entry)
        envelope = entry.written = entry.envelope
        ref = (envelope.saga.name, envelope.saga.id) if envelope.saga else (None, None)
        sent = (attributes_to_text(envelope), envelope.body)
        return (*ref, entry.key, entry.handler, *sent, *changing(entry))

    def settle(self, entry: Entry) -> bool:
        self._own(entry)
        return self._execute(SETTLE, (*changing(entry), entry.key)).rowcount == 1

    def rename(self, entry: Entry, key: str) -> bool:
        return self._execute(RENAME, (key, entry.key, self._instance)).rowcount == 1

    def take(self, limit: int, *, released: bool = False) -> Sequence[Entry]:
        gone = "[]" if released else self._gone_owners(OWNERS)
        rows = self._execute(TAKE, (self._instance, gone, limit)).fetchall()
        return self._readable(row[1:] for row in sorted(rows, key=lambda row: int(row[0])))

    def waiting_for(self, what: str) -> Sequence[Entry]:
        return self._readable(self._execute(WAITING_FOR, (what, self._instance)).fetchall())

    def _readable(self, rows: Iterable[Row]) -> list[Entry]:
        """Their entries; those of due rows that cannot be read are parked, and left out."""
        found = []
        for entry in map(entry_of, rows):
            if entry.state is EntryState.PARKED:
                self._execute(PARK_ENTRY, (entry.error, entry.key))
            else:
                found.append(entry)
        return found

    def release(self) -> None:
        self._execute(RELEASE, (self._instance,))

    def reopen(self, key: str) -> bool:
        return self._execute(REOPEN, (key,)).rowcount == 1


class SqliteKnown(Table):
    """Keeps at hand what is known of the sagas that were last looked at.

    What another process writes makes all of it worthless (`forget`), and what is rolled back must not stay (`unlearn`).
    """

    def __init__(self, cursor: sqlite3.Cursor, instance: str, gone: Callable[[str], bool]) -> None:
        super().__init__(cursor, instance, gone)
        self._at_hand: dict[tuple[str, str], dict[Literal, Envelope]] = {}
        self._touched: list[tuple[str, str]] = []

    def learn(self, saga: str, saga_id: str, literal: Literal, envelope: Envelope) -> Mapping[Literal, Envelope] | None:
        ref = (saga, saga_id)
        row = (saga, saga_id, str(literal), attributes_to_text(envelope), envelope.body)
        known = self._at_hand.get(ref)
        if known is None:
            added = self._execute(LEARN, row).fetchall()
            if not added:
                return None
            known = {} if added[0][0] else self._read(ref)
            self._keep_at_hand(ref, known)
        elif literal in known:
            return None
        else:
            self._execute(LEARN_MORE, row)
        self._touched.append(ref)
        known[literal] = envelope
        return known

    def of(self, saga: str, saga_id: str) -> Mapping[Literal, Envelope]:
        ref = (saga, saga_id)
        known = self._at_hand.get(ref)
        if known is None:
            known = self._read(ref)
            if known:
                self._keep_at_hand(ref, known)
        return dict(known)

    def _read(self, ref: tuple[str, str]) -> dict[Literal, Envelope]:
        rows = self._execute(KNOWN, ref).fetchall()
        return {literal_of(literal): envelope_from_text(attributes, body) for literal, attributes, body in rows}

    def _keep_at_hand(self, ref: tuple[str, str], known: dict[Literal, Envelope]) -> None:
        if len(self._at_hand) >= AT_HAND_MAX:
            self._at_hand.pop(next(iter(self._at_hand)))
        self._at_hand[ref] = known

    def forget(self) -> None:
        self._at_hand.clear()

    def drop(self, saga: str, saga_id: str) -> None:
        """It is no longer in the table."""
        self._at_hand.pop((saga, saga_id), None)

    def unlearn(self) -> None:
        """Something of this transaction is undone.

        What was touched stays noted until the transaction ends: a saga that is read meanwhile is at hand again, with
        what others of this transaction have learnt, and all of that may be rolled back as well.
        """
        for ref in self._touched:
            self._at_hand.pop(ref, None)

    def rolled_back(self) -> None:
        self.unlearn()
        self._touched.clear()

    def committed(self) -> None:
        self._touched.clear()

    def recent(self, limit: int, before: int | None = None) -> Sequence[tuple[int, str, str]]:
        return self._execute(RECENT, (POSITION_MAX if before is None else before, limit)).fetchall()


class SqliteOutbox(Table):
    """What is added is written at the end of the transaction, all at once, or when somebody looks."""

    def __init__(self, cursor: sqlite3.Cursor, instance: str, gone: Callable[[str], bool]) -> None:
        super().__init__(cursor, instance, gone)
        self._added: list[tuple[str, Envelope]] = []
        self._positions: list[int] = []

    def add(self, channel: str, envelope: Envelope) -> None:
        self._added.append((channel, envelope))

    def remove(self, positions: Sequence[int]) -> None:
        self.write()
        self._cursor.executemany(SENT, [(position,) for position in positions])

    def take(self, limit: int) -> Sequence[Outgoing]:
        self.write()
        rows = self._execute(TAKE_SENDING, (self._instance, self._gone_owners(SENDERS), limit)).fetchall()
        return self._readable(sorted(rows), parks=True)

    def mine(self, limit: int, after: int) -> Sequence[Outgoing]:
        self.write()
        return self._readable(self._execute(MINE, (self._instance, after, limit)).fetchall(), parks=False)

    def _readable(self, rows: Iterable[Row], *, parks: bool) -> list[Outgoing]:
        """What cannot be read is left out; who takes it over parks it."""
        found = []
        for row in rows:
            try:
                found.append(outgoing_of(row))
            except UNREADABLE as error:
                if not parks:
                    continue
                position, channel, attributes, body = row
                self._execute(PARK, parked_row(unreadable_message(position, channel, attributes, body, error)))
                self._execute(SENT, (position,))
        return found

    def mark(self) -> tuple[int, int]:
        return len(self._added), len(self._positions)

    def back_to(self, mark: tuple[int, int]) -> None:
        """Forget what was added since. What was written since, though added before, is to be written again."""
        added, written = mark
        del self._added[added:]
        del self._positions[written:]

    def write(self) -> None:
        new = self._added[len(self._positions) :]
        if not new:
            return
        rows = [(channel, attributes_to_text(envelope), envelope.body, self._instance) for channel, envelope in new]
        self._cursor.executemany(SEND, rows)
        ((last,),) = self._execute("SELECT last_insert_rowid()").fetchall()
        self._positions.extend(range(last - len(new) + 1, last + 1))

    def written(self) -> Sequence[Outgoing]:
        """What was added in this transaction, which begins anew."""
        outgoing = [Outgoing(position, *added) for position, added in zip(self._positions, self._added, strict=True)]
        self.back_to((0, 0))
        return outgoing


def parked_row(message: ParkedMessage) -> Row:
    attributes = json.dumps(dict(message.attributes))
    return (message.id, message.channel, attributes, message.body, message.reason, message.parked_at)


class SqliteParked(Table):
    def add(self, message: ParkedMessage) -> None:
        self._execute(PARK, parked_row(message))

    def get(self, message_id: str) -> ParkedMessage | None:
        rows = self._execute(PARKED, (message_id,)).fetchall()
        return parked_of(rows[0]) if rows else None

    def remove(self, message_id: str) -> bool:
        return self._execute(UNPARK, (message_id,)).rowcount == 1

    def all(self, limit: int) -> Sequence[ParkedMessage]:
        return [parked_of(row) for row in self._execute(ALL_PARKED, (limit,)).fetchall()]

    def entries(self, limit: int) -> Sequence[Entry]:
        return [entry_of(row) for row in self._execute(PARKED_ENTRIES, (limit,)).fetchall()]


class SqliteReadModels(Table):
    def put(self, query: str, key: str, view: bytes, as_of: float) -> None:
        self._execute(PUT_VIEW, (query, key, view, as_of))

    def get(self, query: str, key: str) -> bytes | None:
        rows = self._execute(GET_VIEW, (query, key)).fetchall()
        return bytes(rows[0][0]) if rows else None


class SqliteRecords(Table):
    def entries_of(self, saga: str, saga_id: str) -> Sequence[Entry]:
        return [entry_of(row) for row in self._execute(ENTRIES_OF, (saga_id, saga)).fetchall()]


class SqliteAudit(Table):
    def add(self, act: Act) -> None:
        self._execute(NOTE, (act.at, act.who, act.verb, act.what, act.why))

    def recent(self, limit: int) -> Sequence[Act]:
        return [act_of(row) for row in self._execute(NOTED, (limit,)).fetchall()]


class SqliteInstructions(Table):
    def keep(self, instruction: Instruction) -> bool:
        return self._execute(INSTRUCT, instruction_row(instruction)).rowcount == 1

    def last(self, scope: Scope, verb: Verb) -> Instruction | None:
        rows = self._execute(INSTRUCTED, (verb.topic.value, scope.saga, scope.saga_id, scope.service)).fetchall()
        return instruction_of(rows[0]) if rows else None

    def in_force(self, since: float) -> Sequence[Instruction]:
        return [instruction_of(row) for row in self._execute(IN_FORCE, (since,)).fetchall()]
