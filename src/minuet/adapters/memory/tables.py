"""What a `MemoryStore` writes to, with an undo log: every change says how to take it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from minuet.core.envelope import Envelope
from minuet.core.errors import ConfigurationError
from minuet.core.formula import Literal
from minuet.core.operating import Scope, Verb
from minuet.ports import (
    Act,
    Audit,
    Entry,
    EntryState,
    Inbox,
    Instruction,
    Instructions,
    KnownMessages,
    Outbox,
    Outgoing,
    Parked,
    ParkedMessage,
    ReadModels,
    Records,
    Retention,
)

if TYPE_CHECKING:
    from minuet.adapters.memory.store import MemoryStore

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class Kept:
    """An outbox row."""

    message: Outgoing
    owner: str | None


@dataclass(slots=True)
class Heard:
    """What is known of a saga, and the place at which it was heard of first."""

    position: int
    messages: dict[Literal, Envelope]


@dataclass(eq=False)
class MemoryDatabase:
    """What a database file is to processes. Dictionaries keep the order of insertion, which is the order of age."""

    entries: dict[str, Entry] = field(default_factory=dict)
    known: dict[tuple[str, str], Heard] = field(default_factory=dict)
    outbox: dict[int, Kept] = field(default_factory=dict)
    parked: dict[str, ParkedMessage] = field(default_factory=dict)
    views: dict[tuple[str, str], tuple[bytes, float]] = field(default_factory=dict)
    acts: dict[int, Act] = field(default_factory=dict)
    instructions: dict[tuple[Scope, Verb], Instruction] = field(default_factory=dict)
    openings: dict[str, MemoryStore] = field(default_factory=dict)
    position: int = 0
    undo: list[Callable[[], None]] = field(default_factory=list)

    def next_position(self) -> int:
        """Never given twice, also after a rollback."""
        self.position += 1
        return self.position

    def put(self, table: dict[K, V], key: K, value: V) -> None:
        if key in table:
            before = table[key]
            self.undo.append(lambda: table.__setitem__(key, before))
        else:
            self.undo.append(lambda: table.__delitem__(key))
        table[key] = value

    def drop(self, table: dict[K, V], key: K) -> bool:
        if key not in table:
            return False
        self.keep_copy(table)
        del table[key]
        return True

    def keep_copy(self, table: dict[K, V]) -> None:
        """Undo the next change by putting all of it back: one row alone would come last."""
        before = dict(table)

        def put_back() -> None:
            table.clear()
            table.update(before)

        self.undo.append(put_back)

    def roll_back(self, mark: int) -> None:
        while len(self.undo) > mark:
            self.undo.pop()()


class MemoryInbox:
    def __init__(self, database: MemoryDatabase, instance: str) -> None:
        self._database = database
        self._table = database.entries
        self._instance = instance

    def find(self, key: str) -> Entry | None:
        found = self._table.get(key)
        return replace(found) if found else None

    def add(self, entry: Entry) -> bool:
        if entry.key in self._table:
            return False
        entry.owner = None if entry.state is EntryState.DONE else self._instance
        self._database.put(self._table, entry.key, replace(entry))
        return True

    def save(self, entry: Entry) -> bool:
        found = self._table.get(entry.key)
        if found is None:
            return entry.owner is None and self.add(entry)
        if found.owner != self._instance or found.state is not EntryState.DUE:
            return False
        entry.owner = self._instance if entry.state is EntryState.DUE else None
        self._database.put(self._table, entry.key, replace(entry, handler=found.handler))
        return True

    def settle(self, entry: Entry) -> bool:
        found = self._table.get(entry.key)
        if found is None or found.state is EntryState.DONE:
            return False
        entry.owner = None
        self._database.put(self._table, entry.key, replace(entry, handler=found.handler, envelope=found.envelope))
        return True

    def rename(self, entry: Entry, key: str) -> bool:
        found = self._table.get(entry.key)
        if found is None or found.owner != self._instance or found.state is not EntryState.DUE:
            return False
        self._database.keep_copy(self._table)
        entries = list(self._table.values())
        self._table.clear()
        for one in entries:  # it keeps its place
            name = key if one is found else one.key
            self._table[name] = replace(one, key=name)
        return True

    def take(self, limit: int, *, released: bool = False) -> Sequence[Entry]:
        alive = {one.owner for one in self._table.values() if one.owner} if released else self._database.openings
        free = [one for one in self._table.values() if one.state is EntryState.DUE and one.owner not in alive]
        return [replace(self._set(one, owner=self._instance)) for one in free[:limit]]

    def waiting_for(self, what: str) -> Sequence[Entry]:
        return [replace(one) for one in self._mine() if one.waits_for == what]

    def release(self) -> None:
        for one in list(self._mine()):
            self._set(one, owner=None)

    def reopen(self, key: str) -> bool:
        found = self._table.get(key)
        if found is None or found.state is not EntryState.PARKED:
            return False
        self._set(found, state=EntryState.DUE, attempts=0, owner=None, due_at=0.0)
        return True

    def _mine(self) -> Iterator[Entry]:
        return (one for one in self._table.values() if one.state is EntryState.DUE and one.owner == self._instance)

    def _set(self, entry: Entry, **changes: Any) -> Entry:
        changed = replace(entry, **changes)
        self._database.put(self._table, entry.key, changed)
        return changed


class MemoryKnown:
    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._table = database.known

    def learn(self, saga: str, saga_id: str, literal: Literal, envelope: Envelope) -> Mapping[Literal, Envelope] | None:
        heard = self._table.get((saga, saga_id))
        if heard is None:
            heard = Heard(self._database.next_position(), {})
            self._database.put(self._table, (saga, saga_id), heard)
        if literal in heard.messages:
            return None
        self._database.put(heard.messages, literal, envelope)
        return dict(heard.messages)

    def of(self, saga: str, saga_id: str) -> Mapping[Literal, Envelope]:
        heard = self._table.get((saga, saga_id))
        return dict(heard.messages) if heard else {}

    def recent(self, limit: int, before: int | None = None) -> Sequence[tuple[int, str, str]]:
        page = [
            (heard.position, *saga) for saga, heard in self._table.items() if before is None or heard.position < before
        ]
        return sorted(page, reverse=True)[:limit]


class MemoryOutbox:
    def __init__(self, database: MemoryDatabase, instance: str) -> None:
        self._database = database
        self._table = database.outbox
        self._instance = instance

    def add(self, channel: str, envelope: Envelope) -> None:
        message = Outgoing(self._database.next_position(), channel, envelope)
        self._database.put(self._table, message.position, Kept(message, self._instance))

    def remove(self, positions: Sequence[int]) -> None:
        for position in positions:
            self._database.drop(self._table, position)

    def take(self, limit: int) -> Sequence[Outgoing]:
        alive = self._database.openings
        taken = [kept.message for kept in self._table.values() if kept.owner not in alive][:limit]
        for message in taken:
            self._database.put(self._table, message.position, Kept(message, self._instance))
        return taken

    def mine(self, limit: int, after: int) -> Sequence[Outgoing]:
        own = (kept.message for kept in self._table.values() if kept.owner == self._instance)
        return [message for message in own if message.position > after][:limit]


class MemoryParked:
    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._table = database.parked

    def add(self, message: ParkedMessage) -> None:
        self._database.put(self._table, message.id, message)

    def get(self, message_id: str) -> ParkedMessage | None:
        return self._table.get(message_id)

    def remove(self, message_id: str) -> bool:
        return self._database.drop(self._table, message_id)

    def all(self, limit: int) -> Sequence[ParkedMessage]:
        return sorted(self._table.values(), key=lambda one: one.parked_at)[:limit]

    def entries(self, limit: int) -> Sequence[Entry]:
        found = (replace(one) for one in self._database.entries.values() if one.state is EntryState.PARKED)
        return list(found)[:limit]


class MemoryReadModels:
    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    def put(self, query: str, key: str, view: bytes, as_of: float) -> None:
        known = self._database.views.get((query, key))
        if known is None or known[1] <= as_of:
            self._database.put(self._database.views, (query, key), (view, as_of))

    def get(self, query: str, key: str) -> bytes | None:
        known = self._database.views.get((query, key))
        return known and known[0]


class MemoryRecords:
    def __init__(self, database: MemoryDatabase) -> None:
        self._table = database.entries

    def entries_of(self, saga: str, saga_id: str) -> Sequence[Entry]:
        refs = ((one, one.envelope.saga) for one in self._table.values())
        return [replace(one) for one, ref in refs if ref and ref.name == saga and ref.id == saga_id]


class MemoryAudit:
    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    def add(self, act: Act) -> None:
        self._database.put(self._database.acts, self._database.next_position(), act)

    def recent(self, limit: int) -> Sequence[Act]:
        return list(reversed(self._database.acts.values()))[:limit]


class MemoryInstructions:
    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._table = database.instructions

    def keep(self, instruction: Instruction) -> bool:
        last = self.last(instruction.scope, instruction.verb)
        if last is not None and _when(instruction) <= _when(last):
            return False
        self._database.put(self._table, (instruction.scope, instruction.verb.topic), instruction)
        return True

    def last(self, scope: Scope, verb: Verb) -> Instruction | None:
        return self._table.get((scope, verb.topic))

    def in_force(self, since: float) -> Sequence[Instruction]:
        found = [
            one for one in self._table.values() if one.verb is Verb.PAUSE or (one.verb is Verb.RETRY and one.at > since)
        ]
        return sorted(found, key=lambda one: one.at)


def _when(instruction: Instruction) -> tuple[float, bool]:
    return instruction.at, instruction.verb is not Verb.PAUSE


class MemoryRetention:
    """Looks at everything at once: in memory nobody keeps so much that pages would matter."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    def forget_entries(self, before: float, after: int, limit: int) -> int | None:
        table = self._database.entries

        def is_old(entry: Entry) -> bool:
            return entry.state is EntryState.DONE and entry.changed_at < before

        living = {_saga_of(entry) for entry in table.values() if not is_old(entry)} - {None}
        for entry in [one for one in table.values() if is_old(one) and _saga_of(one) not in living]:
            self._database.drop(table, entry.key)
        return None

    def forget_known(self, before: float, after: int, limit: int) -> int | None:
        table = self._database.known
        here = {_saga_of(entry) for entry in self._database.entries.values()}
        for saga, heard in list(table.items()):
            if saga not in here and all(one.time < before for one in heard.messages.values()):
                self._database.drop(table, saga)
        return None


def _saga_of(entry: Entry) -> tuple[str, str] | None:
    ref = entry.envelope.saga
    return (ref.name, ref.id) if ref else None


class MemoryTx:
    """One unit of work on the tables."""

    def __init__(self, database: MemoryDatabase, instance: str) -> None:
        self._database = database
        self.inbox: Inbox = MemoryInbox(database, instance)
        self.known: KnownMessages = MemoryKnown(database)
        self.outbox: Outbox = MemoryOutbox(database, instance)
        self.parked: Parked = MemoryParked(database)
        self.read_models: ReadModels = MemoryReadModels(database)
        self.records: Records = MemoryRecords(database)
        self.audit: Audit = MemoryAudit(database)
        self.instructions: Instructions = MemoryInstructions(database)
        self.retention: Retention = MemoryRetention(database)

    def handle(self, wanted: type[Any]) -> Any:
        raise ConfigurationError(
            f"a store in memory has no {wanted.__module__}.{wanted.__qualname__} for a handler; use a sqlite store"
        )

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        mark = len(self._database.undo)
        try:
            yield
        except BaseException:
            self._database.roll_back(mark)
            raise
