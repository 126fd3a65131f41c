"""The store's tables, verb by verb.

What can be kept back is written at the end: see `minuet.adapters.postgres.later`. What cannot is one statement, thus
one round trip, where it can be.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg

from minuet.adapters.postgres.ahead import Ahead, Known
from minuet.adapters.postgres.connection import Connection
from minuet.adapters.postgres.later import ENTRY_COLUMNS, Later, mine
from minuet.adapters.postgres.locks import owners_gone
from minuet.adapters.postgres.pipeline import BYTEA, FALSE, TEXT, TRUE, Command, Value, array, text
from minuet.adapters.postgres.rows import (
    CHANGING,
    ENTRY,
    KnownOfSaga,
    KnownRow,
    Row,
    changing,
    entry_of,
    instruction_of,
    instruction_row,
    kept,
    outgoing_of,
    parked_of,
    told,
)
from minuet.adapters.sql.unreadable import UNREADABLE, unreadable_message
from minuet.codec import attributes_to_text
from minuet.core.compile import BEGUN
from minuet.core.envelope import Envelope
from minuet.core.formula import Literal
from minuet.core.operating import Scope, Verb
from minuet.ports import Act, Entry, EntryState, Instruction, Outgoing, ParkedMessage

_VALUES = ", ".join(f"${number}" for number in range(1, len(ENTRY_COLUMNS) + 1))
_NAMES = ", ".join(ENTRY_COLUMNS)
FIND = f"SELECT {ENTRY} FROM minuet_inbox WHERE key = $1"
ADD = f"INSERT INTO minuet_inbox ({_NAMES}) VALUES ({_VALUES}) ON CONFLICT (key) DO NOTHING".encode()


def _given(columns: Sequence[str]) -> str:
    return ", ".join(f"{name} = ${place}" for place, name in enumerate(columns, 1))


_WRITTEN = ("attributes", "body", *CHANGING)
SAVE = f"""INSERT INTO minuet_inbox ({_NAMES}) VALUES ({_VALUES})
    ON CONFLICT (key) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _WRITTEN)}
    WHERE minuet_inbox.owner = ${len(ENTRY_COLUMNS) + 1} AND minuet_inbox.state = 'due'""".encode()
CHANGE = f"""UPDATE minuet_inbox SET {_given(CHANGING)}
    WHERE key = ${len(CHANGING) + 1} AND {mine(len(CHANGING) + 2)} AND state = 'due'""".encode()
CHANGE_ALL = f"""UPDATE minuet_inbox SET {_given(_WRITTEN)}
    WHERE key = ${len(_WRITTEN) + 1} AND {mine(len(_WRITTEN) + 2)} AND state = 'due'""".encode()
SETTLE = f"""UPDATE minuet_inbox SET {_given(CHANGING)} WHERE key = ${len(CHANGING) + 1} AND state <> 'done'""".encode()
PARK_ENTRY = "UPDATE minuet_inbox SET state = 'parked', error = $1, owner = NULL WHERE key = $2"
RENAME = f"UPDATE minuet_inbox SET key = $1 WHERE key = $2 AND {mine(3)} AND state = 'due'"
# The plus keeps the planner from reading all of the inbox in the order of positions: few are due, and they have an
# index.
# What is picked is locked before it is changed, and what others have just picked is left to them.
TAKE = f"""WITH picked AS MATERIALIZED (
        SELECT position FROM minuet_inbox WHERE state = 'due' AND (owner IS NULL OR owner = ANY($2::text[]))
        ORDER BY position + 0 LIMIT $3 FOR UPDATE SKIP LOCKED)
    UPDATE minuet_inbox SET owner = $1 FROM picked WHERE minuet_inbox.position = picked.position
    RETURNING minuet_inbox.position, {ENTRY}"""
OWNERS_GONE = owners_gone("minuet_inbox", "state = 'due'")
WAITING_FOR = f"""SELECT {ENTRY} FROM minuet_inbox
    WHERE waits_for = $1 AND state = 'due' AND owner = $2 ORDER BY position"""
RELEASE = "UPDATE minuet_inbox SET owner = NULL WHERE state = 'due' AND owner = $1"
REOPEN = """UPDATE minuet_inbox SET state = 'due', attempts = 0, due_at = 0, owner = NULL
    WHERE key = $1 AND state = 'parked'"""
PARKED_ENTRIES = f"SELECT {ENTRY} FROM minuet_inbox WHERE state = 'parked' ORDER BY position LIMIT $1"
ENTRIES_OF = f"SELECT {ENTRY} FROM minuet_inbox WHERE saga_id = $1 AND saga = $2 ORDER BY position"

LEARN = "SELECT minuet_learn($1::text, $2::text, $3::text, $4::text, $5::bytea)"
KNOWN = "SELECT literal, attributes, body FROM minuet_known WHERE saga = $1 AND saga_id = $2 ORDER BY position"
RECENT = """SELECT position, saga, saga_id FROM minuet_known
    WHERE is_first AND position < $1::bigint ORDER BY position DESC LIMIT $2"""

SEND = b"""INSERT INTO minuet_outbox (channel, attributes, body, owner)
    SELECT channel, attributes, body, $4
    FROM unnest($1::text[], $2::text[], $3::bytea[]) WITH ORDINALITY AS added (channel, attributes, body, place)
    ORDER BY place RETURNING position"""
SENT = "DELETE FROM minuet_outbox WHERE position = ANY($1::bigint[])"
TAKE_SENDING = """WITH picked AS MATERIALIZED (
        SELECT position FROM minuet_outbox WHERE owner IS NULL OR owner = ANY($2::text[])
        ORDER BY position + 0 LIMIT $3 FOR UPDATE SKIP LOCKED)
    UPDATE minuet_outbox SET owner = $1 FROM picked WHERE minuet_outbox.position = picked.position
    RETURNING minuet_outbox.position, channel, attributes, body"""
SENDERS_GONE = owners_gone("minuet_outbox", "TRUE")
MINE = """SELECT position, channel, attributes, body FROM minuet_outbox
    WHERE owner = $1 AND position > $2::bigint ORDER BY position LIMIT $3"""

PARK = """INSERT INTO minuet_parked (id, channel, attributes, body, reason, parked_at) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (id) DO UPDATE SET channel = excluded.channel, attributes = excluded.attributes, body = excluded.body,
        reason = excluded.reason, parked_at = excluded.parked_at"""
_PARKED = "SELECT id, channel, attributes, body, reason, parked_at FROM minuet_parked"
PARKED = f"{_PARKED} WHERE id = $1"
UNPARK = "DELETE FROM minuet_parked WHERE id = $1"
ALL_PARKED = f"{_PARKED} ORDER BY parked_at, position LIMIT $1"

PUT_VIEW = """INSERT INTO minuet_read_models (query, key, view, as_of) VALUES ($1, $2, $3, $4)
    ON CONFLICT (query, key) DO UPDATE SET view = excluded.view, as_of = excluded.as_of
    WHERE minuet_read_models.as_of <= excluded.as_of"""
GET_VIEW = "SELECT view FROM minuet_read_models WHERE query = $1 AND key = $2"

# What a transaction wrote whose end we did not hear of, and that was kept: nobody here works on it. All its rows are at
# least as young as the transaction, and only this instance writes rows that this instance owns.
FREE_SINCE = """UPDATE minuet_inbox SET owner = NULL
    WHERE owner = $1 AND state = 'due' AND age(xmin) <= age($2::text::xid8::xid)"""
FREE_SENDING_SINCE = """UPDATE minuet_outbox SET owner = NULL
    WHERE owner = $1 AND age(xmin) <= age($2::text::xid8::xid)"""

# What such a transaction has sent, if it is heard of it in time.
MINE_SINCE = """SELECT position, channel, attributes, body FROM minuet_outbox
    WHERE owner = $1 AND age(xmin) <= age($2::text::xid8::xid) ORDER BY position"""

NOTE = "INSERT INTO minuet_audit (at, who, verb, what, why) VALUES ($1, $2, $3, $4, $5)"
NOTED = "SELECT at, who, verb, what, why FROM minuet_audit ORDER BY position DESC LIMIT $1"

INSTRUCT = """INSERT INTO minuet_instructions (topic, saga, saga_id, service, verb, at, who, why)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (topic, saga, saga_id, service)
    DO UPDATE SET verb = excluded.verb, at = excluded.at, who = excluded.who, why = excluded.why
    WHERE excluded.at > minuet_instructions.at OR (excluded.at = minuet_instructions.at
        AND minuet_instructions.verb = 'pause' AND excluded.verb = 'resume')"""
INSTRUCTED = """SELECT saga, saga_id, service, verb, at, who, why FROM minuet_instructions
    WHERE topic = $1 AND saga = $2 AND saga_id = $3 AND service = $4"""
IN_FORCE = """SELECT saga, saga_id, service, verb, at, who, why FROM minuet_instructions
    WHERE verb = 'pause' OR (verb = 'retry' AND at > $1) ORDER BY at"""

POSITION_MAX = 2**63 - 1


class Table:
    """All tables share one cursor: each verb reads to the end what it asks for."""

    def __init__(
        self,
        connection: Connection,
        cursor: psycopg.RawCursor[Row],
        schema_name: str,
        instance: str,
        later: Later,
        ahead: Ahead,
    ) -> None:
        self._connection = connection
        self._cursor = cursor
        self._schema_name = schema_name
        self._instance = instance
        self._later = later
        self._ahead = ahead

    def flush(self, *more: Command) -> psycopg.pq.abc.PGresult | None:
        """Write what was kept back so far, and run what comes after it; the last result.

        Raises:
            psycopg.Error: something was not as it was thought to be, or a statement failed.
        """
        commands = self._later.commands()
        if commands:
            self._connection.writes += 1
            for key in self._later.clear():
                self._ahead.entries.pop(key, None)
        commands += more
        if not commands:
            return None
        result = self._connection.together(commands)[-1]
        failure = self._connection.failure_of(result)
        if failure is not None:
            raise failure
        return result

    def _look(self, statement: str, values: Sequence[Any]) -> list[Row]:
        """Read, or write, what has nothing to do with what is kept back."""
        return self._cursor.execute(statement, values, prepare=True).fetchall()

    def _read(self, statement: str, values: Sequence[Any]) -> list[Row]:
        self.flush()
        return self._look(statement, values)

    def _write(self, statement: str, values: Sequence[Any]) -> int:
        """How many rows were written."""
        self.flush()
        written = self._write_apart(statement, values)
        if written:
            self._ahead.forget()
        return written

    def _write_apart(self, statement: str, values: Sequence[Any]) -> int:
        """As `_write`, in a table of which nothing is kept back, or read ahead."""
        written = self._cursor.execute(statement, values, prepare=True).rowcount
        self._connection.writes += written > 0
        return written

    def _write_and_read(self, statement: str, values: Sequence[Any]) -> list[Row]:
        rows = self._read(statement, values)
        if rows:
            self._ahead.forget()
            self._connection.writes += 1
        return rows

    def _change(self, statement: bytes, *values: Value) -> bool:
        """Whether an entry was written."""
        result = self.flush(Command(statement, values))
        assert result is not None
        if result.command_tuples != 1:
            return False
        self._ahead.forget()
        self._connection.writes += 1
        return True

    def _gone(self, statement: str) -> list[str]:
        return [owner for (owner,) in self._read(statement, (self._schema_name, self._instance))]


class PostgresInbox(Table):
    def find(self, key: str) -> Entry | None:
        as_kept = kept(key)
        if self._later.has(as_kept):
            self.flush()
        elif as_kept in self._ahead.entries:
            row = self._ahead.entries[as_kept]
            return entry_of(row) if row else None
        rows = self._look(FIND, (as_kept,))
        return entry_of(rows[0]) if rows else None

    def add(self, entry: Entry) -> bool:
        row, key = self._row(entry), kept(entry.key)
        if self._is_new(key):
            self._add_later(key, entry, row)
            return True
        if self._ahead.entries.get(key) and not self._later.has(key):
            return False
        return self._change(ADD, *row)

    def _is_new(self, key: str) -> bool:
        """Whether we may take it for granted that there is no entry with this key."""
        return self._later.is_on and not self._later.has(key) and not self._ahead.entries.get(key)

    def _add_later(self, key: str, entry: Entry, row: tuple[Value, ...]) -> None:
        self._ahead.forget_records(entry)
        self._later.add(key, row)

    def save(self, entry: Entry) -> bool:
        key = kept(entry.key)
        if entry.owner is None:
            row = self._row(entry)
            if self._is_new(key):
                self._add_later(key, entry, row)
                return True
            return self._change(SAVE, *row, text(self._instance))
        self._own(entry)
        sent: tuple[Value, ...] = ()
        if entry.written is not entry.envelope:
            entry.written = entry.envelope
            sent = (text(attributes_to_text(entry.envelope)), entry.envelope.body)
        values = (*sent, *changing(entry), text(key), text(self._instance))
        if self._later.is_on and not self._later.has(key):
            self._ahead.forget_records(entry)
            self._later.change(key, values)
            return True
        return self._change(CHANGE_ALL if sent else CHANGE, *values)

    def _own(self, entry: Entry) -> None:
        entry.owner = self._instance if entry.state is EntryState.DUE else None

    def _row(self, entry: Entry) -> tuple[Value, ...]:
        self._own(entry)
        envelope = entry.written = entry.envelope
        saga = envelope.saga
        ref = (text(kept(saga.name)), text(kept(saga.id))) if saga else (None, None)
        sent = (text(attributes_to_text(envelope)), envelope.body)
        return (*ref, text(kept(entry.key)), text(entry.handler), *sent, *changing(entry))

    def settle(self, entry: Entry) -> bool:
        entry.owner = None
        return self._change(SETTLE, *changing(entry), text(kept(entry.key)))

    def rename(self, entry: Entry, key: str) -> bool:
        return self._write(RENAME, (kept(key), kept(entry.key), self._instance)) == 1

    def take(self, limit: int, *, released: bool = False) -> Sequence[Entry]:
        rows = self._write_and_read(TAKE, (self._instance, [] if released else self._gone(OWNERS_GONE), limit))
        return self._readable(row[1:] for row in sorted(rows, key=lambda row: int(row[0])))

    def waiting_for(self, what: str) -> Sequence[Entry]:
        return self._readable(self._read(WAITING_FOR, (kept(what), self._instance)))

    def _readable(self, rows: Iterable[Row]) -> list[Entry]:
        """Their entries; those of due rows that cannot be read are parked, and left out."""
        found = []
        for entry in map(entry_of, rows):
            if entry.state is EntryState.PARKED:
                self._write(PARK_ENTRY, (kept(entry.error), kept(entry.key)))
            else:
                found.append(entry)
        return found

    def release(self) -> None:
        self._write(RELEASE, (self._instance,))

    def reopen(self, key: str) -> bool:
        return self._write(REOPEN, (kept(key),)) == 1


class PostgresKnown(Table):
    def learn(self, saga: str, saga_id: str, literal: Literal, envelope: Envelope) -> Mapping[Literal, Envelope] | None:
        ref = (kept(saga), kept(saga_id))
        known = self._ahead.known.get(ref)
        if known is None and self._later.is_on and literal == BEGUN:
            # Who begins a saga mostly is the first to hear of it. If he is not, the writing of it says so.
            known = self._ahead.known[ref] = Known(is_guess=True)
        if known is None:
            return self._learn_now(saga, saga_id, literal, envelope)
        if literal in known:
            return None
        row = (text(ref[0]), text(ref[1]), text(str(literal)), FALSE if known else TRUE)
        self._later.learn((ref, literal), (*row, text(attributes_to_text(envelope)), envelope.body))
        known.add(literal, envelope)
        return known

    def _learn_now(
        self, saga: str, saga_id: str, literal: Literal, envelope: Envelope
    ) -> Mapping[Literal, Envelope] | None:
        row = (kept(saga), kept(saga_id), str(literal), attributes_to_text(envelope), envelope.body)
        ((is_first,),) = self._look(LEARN, row)
        if is_first is None:
            return None
        self._connection.writes += 1
        learnt = {literal: envelope}
        return learnt if is_first else KnownOfSaga(lambda: self._rows_of(saga, saga_id), learnt)

    def of(self, saga: str, saga_id: str) -> Mapping[Literal, Envelope]:
        known = self._ahead.known.get((kept(saga), kept(saga_id)))
        if known is not None:
            return dict(known)
        rows = self._rows_of(saga, saga_id)
        return KnownOfSaga(lambda: rows, {})

    def _rows_of(self, saga: str, saga_id: str) -> list[KnownRow]:
        return self._look(KNOWN, (kept(saga), kept(saga_id)))

    def recent(self, limit: int, before: int | None = None) -> Sequence[tuple[int, str, str]]:
        rows = self._read(RECENT, (POSITION_MAX if before is None else before, limit))
        return [(position, told(saga), told(saga_id)) for position, saga, saga_id in rows]


class PostgresOutbox(Table):
    """What is added is written at the end of the transaction, all at once, or when somebody looks.

    One connection writes an instance's messages, so among these the order of positions is the order of commits. Among
    those of several instances it is not: a message with a lower position may be committed later.
    """

    def __init__(self, *shared: Any) -> None:
        super().__init__(*shared)
        self._added: list[tuple[str, Envelope]] = []
        self._positions: list[int] = []

    def add(self, channel: str, envelope: Envelope) -> None:
        self._added.append((channel, envelope))

    def remove(self, positions: Sequence[int]) -> None:
        if self._later.is_on:
            self._later.sent(positions)
        else:
            self.write()
            self._write(SENT, (list(positions),))

    def take(self, limit: int) -> Sequence[Outgoing]:
        self.write()
        rows = self._write_and_read(TAKE_SENDING, (self._instance, self._gone(SENDERS_GONE), limit))
        return self._readable(sorted(rows, key=lambda row: int(row[0])), parks=True)

    def mine(self, limit: int, after: int) -> Sequence[Outgoing]:
        self.write()
        return self._readable(self._read(MINE, (self._instance, after, limit)), parks=False)

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
                self._write(PARK, parked_row(unreadable_message(position, told(channel), attributes, body, error)))
                self._write(SENT, ([position],))
        return found

    def mark(self) -> tuple[int, int]:
        return len(self._added), len(self._positions)

    def back_to(self, mark: tuple[int, int]) -> None:
        """Forget what was added since. What was written since, though added before, is to be written again."""
        added, written = mark
        del self._added[added:]
        del self._positions[written:]

    def write(self) -> None:
        """Write what was added, now."""
        commands = self.commands()
        if commands:
            result = self.flush(*commands)
            assert result is not None
            self._connection.writes += 1
            self.written(self._connection.positions_in(result))

    def commands(self) -> list[Command]:
        """Write what was added. The last result is for `written`."""
        new = self._added[len(self._positions) :]
        if not new:
            return []
        columns = (
            array(TEXT, [text(kept(channel)) for channel, _ in new]),
            array(TEXT, [text(attributes_to_text(envelope)) for _, envelope in new]),
            array(BYTEA, [envelope.body for _, envelope in new]),
        )
        return [Command(SEND, (*columns, text(self._instance)))]

    def written(self, positions: Iterable[int]) -> None:
        self._positions.extend(sorted(positions))

    def sending(self) -> list[Outgoing]:
        """What was added in this transaction, once it is written."""
        return [Outgoing(position, *added) for position, added in zip(self._positions, self._added, strict=True)]


def parked_row(message: ParkedMessage) -> Row:
    attributes = json.dumps(dict(message.attributes))
    row = (kept(message.id), kept(message.channel), attributes, message.body, kept(message.reason))
    return (*row, message.parked_at)


class PostgresParked(Table):
    def add(self, message: ParkedMessage) -> None:
        self._write_apart(PARK, parked_row(message))

    def get(self, message_id: str) -> ParkedMessage | None:
        rows = self._look(PARKED, (kept(message_id),))
        return parked_of(rows[0]) if rows else None

    def remove(self, message_id: str) -> bool:
        return self._write_apart(UNPARK, (kept(message_id),)) == 1

    def all(self, limit: int) -> Sequence[ParkedMessage]:
        return [parked_of(row) for row in self._look(ALL_PARKED, (limit,))]

    def entries(self, limit: int) -> Sequence[Entry]:
        return [entry_of(row) for row in self._read(PARKED_ENTRIES, (limit,))]


class PostgresReadModels(Table):
    def put(self, query: str, key: str, view: bytes, as_of: float) -> None:
        self._write_apart(PUT_VIEW, (query, kept(key), view, as_of))

    def get(self, query: str, key: str) -> bytes | None:
        rows = self._look(GET_VIEW, (query, kept(key)))
        return bytes(rows[0][0]) if rows else None


class PostgresRecords(Table):
    def entries_of(self, saga: str, saga_id: str) -> Sequence[Entry]:
        rows = self._ahead.records.get((kept(saga), kept(saga_id)))
        if rows is not None:
            return [entry_of(row) for row in rows]
        return [entry_of(row) for row in self._read(ENTRIES_OF, (kept(saga_id), kept(saga)))]


class PostgresAudit(Table):
    def add(self, act: Act) -> None:
        self._write_apart(NOTE, (act.at, kept(act.who), act.verb, kept(act.what), kept(act.why)))

    def recent(self, limit: int) -> Sequence[Act]:
        rows = self._look(NOTED, (limit,))
        return [
            Act(at=at, who=told(who), verb=verb, what=told(what), why=told(why)) for at, who, verb, what, why in rows
        ]


class PostgresInstructions(Table):
    def keep(self, instruction: Instruction) -> bool:
        return self._write(INSTRUCT, instruction_row(instruction)) == 1

    def last(self, scope: Scope, verb: Verb) -> Instruction | None:
        rows = self._read(INSTRUCTED, (verb.topic.value, kept(scope.saga), kept(scope.saga_id), kept(scope.service)))
        return instruction_of(rows[0]) if rows else None

    def in_force(self, since: float) -> Sequence[Instruction]:
        return [instruction_of(row) for row in self._read(IN_FORCE, (since,))]
