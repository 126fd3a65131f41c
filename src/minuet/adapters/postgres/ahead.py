"""What a transaction's works will look at, read for all of them when it begins, in the round trip of the BEGIN itself.

**Entries** are as they were when the transaction began. Whoever decides by that on what to write finds out when it is
written: see `minuet.adapters.postgres.later`.

**Known messages** are as they are: the first row of each saga is locked before the others are read, as `minuet_learn`
does it, so nobody else learns for that saga until the transaction ends. Of a saga that has no row yet nothing can be
locked; two that make its first row at the same time meet at the index on first rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from minuet.adapters.postgres.pipeline import TEXT, Command, Value, array
from minuet.adapters.postgres.rows import ENTRY, Row, kept, literal_of
from minuet.codec import envelope_from_text
from minuet.core.envelope import Envelope
from minuet.core.formula import Literal
from minuet.ports import Entry, ReadAhead

# LATERAL and OFFSET 0 make one search in the index of each: the plan is made once, perhaps for a table that is still
# empty, where reading all of it would look cheap.
FIND_ALL = f"""SELECT entry.* FROM unnest($1::text[]) AS asked (key),
    LATERAL (SELECT {ENTRY} FROM minuet_inbox WHERE minuet_inbox.key = asked.key OFFSET 0) AS entry""".encode()
_ASKED = "unnest($1::text[], $2::text[]) AS asked (saga, saga_id)"
# In one order for all, so that two instances do not wait for each other.
LOCK_ALL = f"""SELECT asked.* FROM {_ASKED}, LATERAL (SELECT FROM minuet_known
        WHERE minuet_known.saga = asked.saga AND minuet_known.saga_id = asked.saga_id AND is_first
        FOR NO KEY UPDATE) AS first""".encode()
KNOWN_ALL = f"""SELECT known.* FROM {_ASKED}, LATERAL (SELECT saga, saga_id, literal, attributes, body FROM minuet_known
        WHERE minuet_known.saga = asked.saga AND minuet_known.saga_id = asked.saga_id
        ORDER BY position OFFSET 0) AS known""".encode()

RECORDS_ALL = f"""SELECT asked.*, entry.* FROM {_ASKED}, LATERAL (SELECT {ENTRY} FROM minuet_inbox
        WHERE minuet_inbox.saga_id = asked.saga_id AND minuet_inbox.saga = asked.saga
        ORDER BY position OFFSET 0) AS entry""".encode()

Saga = tuple[str, str]
"""The name and the id, as they are kept."""


class Known(Mapping[Literal, Envelope]):
    """What is known of a saga. An envelope is made of its row when somebody looks at it.

    Args:
        is_guess: nobody has looked; it is taken for granted that nothing was known.
    """

    def __init__(self, *, is_guess: bool = False) -> None:
        self.is_guess = is_guess
        self._found: dict[Literal, Envelope | tuple[str, bytes]] = {}

    def add(self, literal: Literal, envelope: Envelope | tuple[str, bytes]) -> None:
        self._found[literal] = envelope

    def remove(self, literal: Literal) -> None:
        del self._found[literal]

    def __getitem__(self, literal: Literal) -> Envelope:
        found = self._found[literal]
        if isinstance(found, tuple):
            found = self._found[literal] = envelope_from_text(*found)
        return found

    def __contains__(self, literal: object) -> bool:
        return literal in self._found

    def __iter__(self) -> Iterator[Literal]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self)!r})"


class Ahead:
    """What was read ahead in this transaction.

    Attributes:
        entries: by key; None for those that were not there.
        known: by saga.
        records: all entries of a saga.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Row | None] = {}
        self.known: dict[Saga, Known] = {}
        self.records: dict[Saga, list[Row]] = {}
        self._takes: list[Callable[[list[Row]], object]] = []
        self._locked: set[Row] = set()

    def forget(self) -> None:
        self.entries.clear()
        self.known.clear()
        self.records.clear()

    def forget_records(self, entry: Entry) -> None:
        """It is being added or changed, so what was read of its saga is no longer true."""
        saga = entry.envelope.saga
        if saga is not None and self.records:
            self.records.pop((kept(saga.name), kept(saga.id)), None)

    def unlearn(self, learnt: Iterable[tuple[Saga, Literal]]) -> None:
        """What was learnt in this transaction is undone."""
        for saga, literal in learnt:
            known = self.known.get(saga)
            if known is not None:
                known.remove(literal)
                if known.is_guess and not known:
                    del self.known[saga]

    def ask(self, works: Iterable[object]) -> list[Command]:
        """The commands that read what these works will look at."""
        keys: set[str] = set()
        sagas: set[Saga] = set()
        records: set[Saga] = set()
        for work in works:
            if isinstance(work, ReadAhead):
                looks_at = work.looks_at()
                keys.update(map(kept, looks_at.keys))
                sagas.update((kept(name), kept(saga_id)) for name, saga_id in looks_at.sagas)
                records.update((kept(name), kept(saga_id)) for name, saga_id in looks_at.records)
        self.entries = {key: None for key in keys if _is_text(key)}
        self.known = {saga: Known() for saga in sorted(filter(_are_text, sagas))}
        self.records = {saga: [] for saga in filter(_are_text, records)}
        asked: list[tuple[Command, Callable[[list[Row]], object]]] = []
        if self.known:  # first: what is read after a lock sees what the lock was waited for
            columns = _columns(self.known)
            asked += [(Command(LOCK_ALL, columns), self._locks), (Command(KNOWN_ALL, columns), self._knew)]
        if self.entries:
            asked.append((Command(FIND_ALL, (array(TEXT, [key.encode() for key in self.entries]),)), self._found))
        if self.records:
            asked.append((Command(RECORDS_ALL, _columns(self.records)), self._recorded))
        self._takes = [take for _, take in asked]
        return [command for command, _ in asked]

    def answered(self, results: Iterable[list[Row]]) -> None:
        """Take in the rows that the commands have read."""
        for take, rows in zip(self._takes, results, strict=True):
            take(rows)

    def _found(self, rows: list[Row]) -> None:
        for row in rows:
            self.entries[row[0]] = row

    def _locks(self, rows: list[Row]) -> None:
        self._locked = set(rows)

    def _knew(self, rows: list[Row]) -> None:
        for name, saga_id, literal, attributes, body in rows:
            self.known[name, saga_id].add(literal_of(literal), (attributes, body))
        for saga in [saga for saga, known in self.known.items() if known and saga not in self._locked]:
            # Somebody has begun it just between the two statements, and nothing keeps others from going on.
            del self.known[saga]

    def _recorded(self, rows: list[Row]) -> None:
        for name, saga_id, *row in rows:
            self.records[name, saga_id].append(tuple(row))


def _columns(sagas: Iterable[Saga]) -> list[Value]:
    return [array(TEXT, [part.encode() for part in column]) for column in zip(*sagas, strict=True)]


def _are_text(saga: Saga) -> bool:
    return all(map(_is_text, saga))


def _is_text(value: str) -> bool:
    """Whether the server takes it. What it does not take fails when it is looked for, in its own work."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
