"""What the runtime asks of the world: a store, transports, a clock, ids. The promises are in the docstrings.

Adapters keep them, and the suites in `minuet.testing` try to break them on every adapter alike.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from minuet.core.envelope import Envelope
from minuet.core.formula import Literal
from minuet.core.operating import Scope, Verb
from minuet.core.projection import Coordination

T = TypeVar("T")


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since 1970, UTC. Only for stamps and deadlines; waiting is the event loop's, with its own time."""


class Ids(Protocol):
    def new(self) -> str:
        """A name that nothing else has."""

    def chance(self) -> float:
        """A random number in [0, 1), for jitter."""


# -- the store of a service --------------------------------------------------------------------------------------------


class EntryState(StrEnum):
    DUE = "due"
    DONE = "done"
    PARKED = "parked"


@dataclass(slots=True, kw_only=True)
class Entry:
    """One line of the inbox: something that this service does exactly once, and what came of it.

    Attributes:
        key: what makes it the same thing: a second entry with this key is not added.
        handler: a command's type, or a reaction's name.
        envelope: the command or event; its body is empty while the command waits for what it is built from.
        digest: of the body under which the key was first used; empty for what a rule sent.
        attempts: begun and failed so far.
        due_at: not to be tried before, in seconds since 1970.
        owner: the store instance that works on it, or None.
        waits_for: the read-model entry that the command cannot be built without, or None.
        answer: the recorded outcome, once done.
        error: why the last attempt failed, or why it is parked.
    """

    key: str
    handler: str
    envelope: Envelope
    digest: str = ""
    state: EntryState = EntryState.DUE
    attempts: int = 0
    due_at: float = 0.0
    owner: str | None = None
    waits_for: str | None = None
    answer: Envelope | None = None
    error: str = ""
    changed_at: float = 0.0
    #: What was known of its saga when a rule made it due, as long as this process has it at hand.
    known: Mapping[Literal, Envelope] | None = field(default=None, repr=False, compare=False)
    #: The envelope that the store has of it already, so that it need not write it again. The store's own.
    written: Envelope | None = field(default=None, repr=False, compare=False)

    def copy(self) -> Entry:
        return Entry(
            key=self.key,
            handler=self.handler,
            envelope=self.envelope,
            digest=self.digest,
            state=self.state,
            attempts=self.attempts,
            due_at=self.due_at,
            owner=self.owner,
            waits_for=self.waits_for,
            answer=self.answer,
            error=self.error,
            changed_at=self.changed_at,
            known=self.known,
            written=self.written,
        )


class Inbox(Protocol):
    """What this service was asked to do, each thing once."""

    def find(self, key: str) -> Entry | None: ...

    def add(self, entry: Entry) -> bool:
        """Add it. False, and nothing changed, when the key is there already.

        As in `save`, the entry's owner becomes this instance while it is due, and None when it is not.
        """

    def save(self, entry: Entry) -> bool:
        """Write it, new or changed. False, and nothing changed, unless it is new, or due and this instance's own.

        This is the fence: an instance that was taken for dead cannot overwrite what its successor did. Nor does it
        bring back what its successor has renamed: an entry with an owner is not new, and is never added.
        """

    def settle(self, entry: Entry) -> bool:
        """Write what came of it, whoever owns it. False, and nothing changed, if it is done, or not there.

        For what is decided elsewhere; an owner that works on it finds that it has lost it.
        """

    def rename(self, entry: Entry, key: str) -> bool:
        """Give this instance's due entry another key, which nothing has yet. False as for `save`."""

    def take(self, limit: int, *, released: bool = False) -> Sequence[Entry]:
        """Make this instance the owner of up to ``limit`` due entries whose owner is None or gone; the oldest first.

        Args:
            released: only of those whose owner is None. Nobody has begun those, but for the attempts that they tell.
        """

    def waiting_for(self, what: str) -> Sequence[Entry]:
        """Due entries of this instance that wait for this read-model entry."""

    def release(self) -> None:
        """Give up every due entry of this instance, for others to take. None of them may be under way."""

    def reopen(self, key: str) -> bool:
        """Make a parked entry due again, with no attempts and no owner. False if it is not parked."""


class KnownMessages(Protocol):
    """Per saga, the messages that its rules look at."""

    def learn(self, saga: str, saga_id: str, literal: Literal, envelope: Envelope) -> Mapping[Literal, Envelope] | None:
        """Remember the message that makes the literal known; all that is known of the saga, or None if this was.

        Serialised per saga: of two transactions that learn for one saga, the later one sees what the earlier learnt.
        """

    def of(self, saga: str, saga_id: str) -> Mapping[Literal, Envelope]:
        """All that is known of the saga here."""

    def recent(self, limit: int, before: int | None = None) -> Sequence[tuple[int, str, str]]:
        """(position, saga, id) of the sagas most recently begun here or heard of first, newest first; each at most once
        on a page. ``before`` is the last position of the page before."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A committed message on its way out. ``position`` is its place in the outbox."""

    position: int
    channel: str
    envelope: Envelope


class Outbox(Protocol):
    """What was decided but may not be published yet."""

    def add(self, channel: str, envelope: Envelope) -> None:
        """Keep it, in this transaction. When it commits, the store hands it to its `Store.committed` listener."""

    def remove(self, positions: Sequence[int]) -> None:
        """Forget what the transport has confirmed."""

    def take(self, limit: int) -> Sequence[Outgoing]:
        """Make this instance the owner of up to ``limit`` messages whose owner is None or gone; in their order."""

    def mine(self, limit: int, after: int) -> Sequence[Outgoing]:
        """This instance's own messages after a position, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedMessage:
    """A message that could not be understood, with everything needed to look at it, mend it and try again."""

    id: str
    channel: str
    attributes: Mapping[str, str]
    body: bytes
    reason: str
    parked_at: float


class Parked(Protocol):
    def add(self, message: ParkedMessage) -> None:
        """Keep it. The same id again replaces it."""

    def get(self, message_id: str) -> ParkedMessage | None: ...
    def remove(self, message_id: str) -> bool: ...
    def all(self, limit: int) -> Sequence[ParkedMessage]: ...
    def entries(self, limit: int) -> Sequence[Entry]:
        """Inbox entries that are parked: they need an operator."""


class ReadModels(Protocol):
    """Local copies of other services' views, kept up to date by events."""

    def put(self, query: str, key: str, view: bytes, as_of: float) -> None:
        """Keep the view as it was at that time, in seconds since 1970, unless a later one is there.

        Not every transport keeps the order, and each may deliver an old event again.
        """

    def get(self, query: str, key: str) -> bytes | None: ...


class Records(Protocol):
    """Reading for people: what happened to a saga here."""

    def entries_of(self, saga: str, saga_id: str) -> Sequence[Entry]:
        """Every inbox entry that belongs to the saga, in the order in which they came."""


class Retention(Protocol):
    """Forgetting what is long over, page by page: of so many rows after a position, those that may go.

    Each verb returns the position of the page's last row, from which the next page goes on; None if all that comes
    after it is too young. Times are in seconds since 1970.
    """

    def forget_entries(self, before: float, after: int, limit: int) -> int | None:
        """Inbox entries that were done before then; of a saga all that are here, or none."""

    def forget_known(self, before: float, after: int, limit: int) -> int | None:
        """What was known of sagas before then, of which no entry is here any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What an operator did.

    Attributes:
        at: in seconds since 1970.
        verb: as on the command line: ``retry``, ``discard``, ``answer``, ``cancel``, ``pause``, ``resume``.
        what: it was done to.
    """

    at: float
    who: str
    verb: str
    what: str
    why: str = ""


class Audit(Protocol):
    """What operators did here. Nothing is ever taken out."""

    def add(self, act: Act) -> None: ...
    def recent(self, limit: int) -> Sequence[Act]:
        """The newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What an operator said last about something.

    Attributes:
        at: when, in seconds since 1970; of two about the same the later one counts.
    """

    scope: Scope
    verb: Verb
    at: float
    who: str
    why: str = ""


class Instructions(Protocol):
    """What operators have said of the work here, and what of it counts. Pausing and resuming are about the same."""

    def keep(self, instruction: Instruction) -> bool:
        """Keep it in the place of what was said before about the same. False, nothing changed, if that is not older.

        Of two at the same time, the one that resumes is the later. What was resumed stays known, so that an earlier
        pause that is heard late does not count.
        """

    def last(self, scope: Scope, verb: Verb) -> Instruction | None:
        """What was said last about the same."""

    def in_force(self, since: float) -> Sequence[Instruction]:
        """All that is paused, and what is to be tried again as of after that time; the oldest first."""


class Tx(Protocol):
    """One unit of work inside a transaction of the store. Synchronous; used on the store's own thread only."""

    inbox: Inbox
    known: KnownMessages
    outbox: Outbox
    parked: Parked
    read_models: ReadModels
    records: Records
    retention: Retention
    audit: Audit
    instructions: Instructions

    def handle(self, wanted: type[Any]) -> Any:
        """The user's database handle of this type, within this transaction. It cannot commit or roll back.

        Raises:
            ConfigurationError: the store has no handle of that type; says which it has.
        """

    def savepoint(self) -> AbstractContextManager[None]:
        """What is written inside is undone, alone, when the block raises."""


@dataclass(frozen=True, slots=True)
class LooksAt:
    """
    Attributes:
        keys: of inbox entries.
        sagas: (name, id) of those of which something is learnt, or asked what is known.
        records: (name, id) of those of which all entries are looked at.
    """

    keys: Sequence[str] = ()
    sagas: Sequence[tuple[str, str]] = ()
    records: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class ReadAhead(Generic[T]):
    """A work, and what it is going to look at.

    A store behind a network reads that for all works of a transaction at once, before they run; others need not ask.
    What a work looks at that is not said here is read when it looks; what it does not look at after all costs a little.

    Attributes:
        looks_at: is called once for each time that the work is run, where the work is; must not raise.
    """

    work: Callable[[Tx], T]
    looks_at: Callable[[], LooksAt]

    def __call__(self, tx: Tx) -> T:
        return self.work(tx)


class Store(Protocol):
    """A service's own database.

    Attributes:
        instance: names this opening of the store; no other opening, earlier or later, has it.
        committed: called on the event loop, in the order of commits, with what each commit added to the outbox.
        disturbed: called on the event loop when another process changed the database, or is gone, or either may have
            been missed. Who writes past the place that works on it calls it himself.
    """

    instance: str
    committed: Callable[[Sequence[Outgoing]], None]
    disturbed: Callable[[], None]

    @property
    def commits(self) -> int:
        """How many transactions with writes this instance has committed so far."""

    async def start(self) -> None:
        """Open it, and create or check the tables. Raises ConfigurationError if it cannot be used."""

    async def transact(self, work: Callable[[Tx], T], *, reads_only: bool = False, lazily: bool = False) -> T:
        """Run the work in a transaction and return its result once that is durable.

        A work must be short, and must not mind being run several times: a store may run it on the event loop, and again
        when what it wrote was undone with somebody else's.

        Several works may share a transaction and one commit; each runs under its own savepoint, so one that raises
        undoes its own writes alone, and its caller gets the exception. They run one at a time, in the order given.
        If the commit fails, every caller gets the error and nothing of it remains. A store behind a network may lose
        the connection at the commit and find no way to learn what came of it; then the error says that. So whatever is
        done twice has to be the same: that is what the inbox is for.

        Args:
            work: synchronous; it must not keep the Tx. A `ReadAhead` says what it will look at.
            reads_only: it writes nothing.
            lazily: no one waits for it; it may ride on the next transaction, within 50 ms.
        """

    async def close(self) -> None:
        """Finish what was begun and close. Other instances may take what this one owned."""


# -- transports --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """How a transport differs from others. Declared, never hidden.

    Attributes:
        ordered_per_key: what one member of a group gets of a key comes in the order in which it was published.
        ordered_across_members: the same holds when several members share a group.
        shares_lanes: members share lanes (partitions), not single messages: at most as many members get something as
            there are lanes, and when members come and go some messages come twice.
        counts_deliveries: `Delivery.deliveries` counts those to other members and to earlier connections too.
        body_bytes_max: of one message.
        survives_restart: what was confirmed is there after the broker was killed and started again.
    """

    ordered_per_key: bool = True
    ordered_across_members: bool = True
    shares_lanes: bool = False
    counts_deliveries: bool = True
    body_bytes_max: int = 1024 * 1024
    survives_restart: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What a group wants to hear. The members of a group share the messages; each group gets them all.

    Attributes:
        group: the service, or ``orchestrator``.
        wanted: for each channel, the event types, and for each the coordination in which it is wanted (None: in any).
        understood: every type the app knows. A type outside of it is delivered too, so that it can be parked.
    """

    group: str
    wanted: Mapping[str, Mapping[str, Coordination | None]]
    understood: frozenset[str] = field(default_factory=frozenset)

    def wants(self, channel: str, envelope: Envelope) -> bool:
        """Whether to deliver this. A transport that cannot filter may deliver more."""
        return self.wants_type(channel, envelope.type, envelope.coordinations)

    def wants_type(self, channel: str, kind: str, coordinations: Collection[Coordination]) -> bool:
        """The same, by the message's type and how the sagas that it belongs to are coordinated."""
        types = self.wanted.get(channel)
        if types is None:
            return False
        if kind not in types:
            return kind not in self.understood
        coordination = types[kind]
        return coordination is None or not coordinations or coordination in coordinations


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it came from the transport. ``token`` is the transport's own.

    Attributes:
        envelope: what the attributes and the body say, if the transport has it at hand; it saves the reading.
    """

    channel: str
    attributes: Mapping[str, str]
    body: bytes
    deliveries: int
    token: Any
    envelope: Envelope | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """Handled, or parked in the service's store: forget it."""


@dataclass(frozen=True, slots=True)
class Again:
    """Deliver it again after so many seconds. Other keys are not held up; later messages of its key are."""

    delay_s: float = 0.0


Settlement = Done | Again


class Transport(Protocol):
    """Carries messages between services: at least once, in order per key if its features say so."""

    features: Features

    async def start(self) -> None: ...

    async def declare(self, subscriptions: Sequence[Subscription], *, only_new: bool = False) -> None:
        """Make these groups exist: from now on each gets what it wants, also while none of its members is there.

        A group that exists wants from now on what is said here; with ``only_new`` it is left as it is.
        """

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        """Publish in the given order; for each message None once it is safely kept, or why it is not.

        When a message cannot be kept, later ones of its key in the same call are not kept either, so that the order
        per key survives their being published again. One that is too large is refused alone: it can never be kept.
        """

    async def receive(self, group: str, limit: int) -> Sequence[Delivery]:
        """At least one and at most ``limit`` messages, as soon as there are any. What is not settled comes again."""

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> None:
        """Say what became of deliveries. Returns once that is kept."""

    async def close(self) -> None:
        """Stop; what was received and not settled goes to other members."""
