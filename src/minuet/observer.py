"""What sagas, messages and failures look like to a person. The one source for the command line and every other view.

It reads the stores of the services and puts together what each of them knows, so it needs no coordinator and nothing
that is written for its sake: in choreography it sees as much as in orchestration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from shlex import quote

from minuet.app import App
from minuet.codec import Codec, attributes_of, timestamp
from minuet.core.compile import BEGUN, Kind, Rule
from minuet.core.coordinator import Status, due, literal_of, status
from minuet.core.envelope import Envelope, SagaRef
from minuet.core.errors import MessageError, NotFound
from minuet.core.formula import Literal
from minuet.core.messages import AwaitOutcome, Event, name_of
from minuet.core.operating import Scope
from minuet.core.projection import Coordination
from minuet.core.saga import COMPENSATED, COMPLETED, Saga, Wait
from minuet.ports import Act, Entry, EntryState, Instruction, LooksAt, ParkedMessage, ReadAhead, Store, Tx

NEEDS_OPERATOR = "needs operator"
FINAL = tuple(one.value for one in Status if one.is_final)
STATUSES = (*(one.value for one in Status), NEEDS_OPERATOR)
YEAR_9999 = 253_370_764_800.0
"""What is due later than this is due when somebody says something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A step as one service sees it.

    Attributes:
        at: the service (or the orchestrator) in whose inbox it is.
        state: due, done, or needs operator.
    """

    step: str
    command: str
    at: str
    state: str
    attempts: int
    error: str
    answer: str
    changed_at: float
    due_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What a saga waits for now, from whom, and why it is not there yet.

    Attributes:
        service: who does it, or decides how long it is waited for; empty for the event that begins the saga.
    """

    step: str
    service: str
    command: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A message of a saga: who said what, and who heard it so far."""

    time: float
    type: str
    sender: str
    hearers: tuple[str, ...]
    step: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PausedView:
    """What an operator has paused: one saga (with its id), all of a type, or a service.

    Attributes:
        at: in seconds since 1970.
        places: who has heard of it, and not yet that it goes on.
    """

    what: str
    saga: str
    saga_id: str
    service: str
    at: float
    who: str
    why: str
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaView:
    """A saga, as far as anybody knows."""

    saga: str
    id: str
    status: str
    coordination: str
    definition: str
    began_at: float
    waiting: tuple[Waiting, ...]
    paused: tuple[PausedView, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    messages: tuple[Told, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedView:
    """Something that no service can go on with by itself.

    Attributes:
        id: what the operator's verbs take; the service's name, a colon, and its own id there.
        kind: ``message`` (nobody understands it) or ``command`` or ``reaction`` (its attempts are exhausted); or
            ``wait``, which nobody has parked: an operator may say in the place of the outside what is waited for.
    """

    id: str
    service: str
    kind: str
    type: str
    reason: str
    attempts: int
    parked_at: float
    channel: str
    attributes: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class _Seen:
    """All that the services know of one saga."""

    known: dict[Literal, Envelope] = field(default_factory=dict)
    heard_by: dict[Literal, list[str]] = field(default_factory=dict)
    entries: list[tuple[str, Entry]] = field(default_factory=list)


class Observer:
    """Reads the stores of an app's services.

    Args:
        stores: by service; those that are missing are simply not seen.
    """

    def __init__(self, app: App, codec: Codec, stores: Mapping[str, Store]) -> None:
        self.app = app
        self.codec = codec
        self.stores = stores

    # -- sagas ---------------------------------------------------------------------------------------------------------

    async def sagas(
        self, *, limit: int = 50, only: str | None = None, wanted: Callable[[SagaView], bool] = lambda view: True
    ) -> list[SagaView]:
        """The sagas that were begun last, newest first.

        Args:
            only: those with this status, a `Status` or `NEEDS_OPERATOR`; looked for until there are enough.
            wanted: and those of which this is true.
        """

        def is_wanted(view: SagaView) -> bool:
            return (only is None or view.status == only) and wanted(view)

        paused = await self.paused()
        views: dict[tuple[str, str], SagaView] = {}
        pages: dict[str, int | None] = dict.fromkeys(self.stores)
        found = 0
        while pages and found < limit:
            for place, before in tuple(pages.items()):
                recent = await self._recent(place, limit, before)
                for _, name, saga_id in recent:
                    # What another app has left in the same data is not ours to tell of.
                    if (name, saga_id) not in views and self.app.saga(name) is not None:
                        view = views[name, saga_id] = await self._view(name, saga_id, paused)
                        found += is_wanted(view)
                if len(recent) < limit:
                    del pages[place]
                else:
                    pages[place] = recent[-1][0]
        return sorted(filter(is_wanted, views.values()), key=lambda one: one.began_at, reverse=True)[:limit]

    async def _recent(self, place: str, limit: int, before: int | None) -> Sequence[tuple[int, str, str]]:
        return await self.stores[place].transact(lambda tx: tx.known.recent(limit, before), reads_only=True)

    async def saga(self, saga_id: str, name: str | None = None) -> SagaView:
        """One saga with all its attempts and messages.

        Raises:
            NotFound: no service knows it.
        """
        for candidate in [name] if name else list(self.app.current_sagas):
            seen = await self._seen(candidate, saga_id)
            if seen.known or seen.entries:
                return await self._view(candidate, saga_id, await self.paused(), seen)
        raise NotFound(f"no service here has heard of a saga {saga_id!r}")

    async def beginning(self, name: str, saga_id: str) -> Event | None:
        """The event that began the saga; None if nobody has heard of it."""
        envelope = (await self._seen(name, saga_id)).known.get(BEGUN)
        event = envelope and self.codec.decode(envelope)
        assert event is None or isinstance(event, Event)
        return event

    async def status(self, name: str, saga_id: str) -> Status | None:
        """Where the saga is; None if nobody has heard of it."""
        seen = await self._seen(name, saga_id)
        saga = self._definition(name, seen)
        return status(saga.rules, seen.known) if seen.known else None

    async def end_of(self, name: str, saga_id: str) -> Status | None:
        """How the saga ended; None if it goes on, as far as anybody knows. Looks no further than it must."""
        saga = self.app.saga(name)
        enders = {rule.service for rule in saga.rules.every if rule.kind is Kind.END} if saga else set()
        for store in (self.stores[one] for one in enders if one in self.stores):
            entries = await store.transact(
                ReadAhead(lambda tx: tx.records.entries_of(name, saga_id), lambda: LooksAt(records=[(name, saga_id)])),
                reads_only=True,
            )
            ends = (entry.envelope.saga.step for entry in entries if entry.answer and entry.envelope.saga)
            for end in ends:
                if end in (COMPLETED, COMPENSATED):
                    return Status(end)
        if (
            saga
            and len([rule for rule in saga.rules.every if rule.kind is Kind.END]) == 2
            and enders <= set(self.stores)
        ):
            return None
        found = await self.status(name, saga_id)
        return found if found and found.is_final else None

    async def _view(self, name: str, saga_id: str, paused: Sequence[PausedView], seen: _Seen | None = None) -> SagaView:
        seen = seen or await self._seen(name, saga_id)
        saga = self._definition(name, seen)
        ref = next(self._refs(name, seen), None)
        now = status(saga.rules, seen.known)
        times = [envelope.time for envelope in seen.known.values()]
        mine = [one for one in paused if one.saga == name and one.saga_id in ("", saga_id)] if not now.is_final else []
        waiting = tuple(self._waiting(saga, seen, [*mine, *(one for one in paused if one.service)]))
        if BEGUN not in seen.known and not seen.entries and not now.is_final:
            waiting = (_not_begun(saga),)
        waited_for = {one.service for one in waiting if one.service}
        if ref is not None and ref.coordination is Coordination.ORCHESTRATION and waiting:
            waited_for.add("orchestrator")
        return SagaView(
            saga=name,
            id=saga_id,
            status=NEEDS_OPERATOR if any(one.why.startswith(NEEDS_OPERATOR) for one in waiting) else now.value,
            coordination=ref.coordination.value if ref else "",
            definition=ref.definition if ref else saga.fingerprint,
            began_at=seen.known[BEGUN].time if BEGUN in seen.known else min(times, default=0.0),
            waiting=waiting,
            paused=(*mine, *(one for one in paused if one.service in waited_for)),
            attempts=tuple(self._attempts(seen)),
            messages=tuple(self._told(seen)),
        )

    async def _seen(self, name: str, saga_id: str) -> _Seen:
        def look(tx: Tx) -> tuple[Mapping[Literal, Envelope], Sequence[Entry]]:
            return tx.known.of(name, saga_id), tx.records.entries_of(name, saga_id)

        seen = _Seen()
        for place, store in self.stores.items():
            known, entries = await store.transact(look, reads_only=True)
            for literal, envelope in known.items():
                seen.known.setdefault(literal, envelope)
                if envelope.source != place:
                    seen.heard_by.setdefault(literal, []).append(place)
            for entry in entries:
                seen.entries.append((place, entry))
                self._add_answer(seen, entry)
        return seen

    def _add_answer(self, seen: _Seen, entry: Entry) -> None:
        # A reaction may return events too, but they answer no step.
        if entry.answer is not None and entry.envelope.saga is not None and not _is_reaction(entry):
            kind = self.codec.types.get(entry.answer.type)
            if kind is not None and issubclass(kind, Event):
                seen.known.setdefault(literal_of(entry.envelope.saga.step, kind), entry.answer)

    def _refs(self, name: str, seen: _Seen) -> Iterator[SagaRef]:
        return (ref for ref in self._refs_of(seen) if ref.name == name)

    def _refs_of(self, seen: _Seen) -> Iterator[SagaRef]:
        for envelope in [*(entry.envelope for _, entry in seen.entries), *seen.known.values()]:
            yield from (ref for ref in (envelope.saga, *envelope.begins) if isinstance(ref, SagaRef))

    def _definition(self, name: str, seen: _Seen) -> Saga:
        ref = next(self._refs(name, seen), None)
        saga = (self.app.saga(name, ref.definition) if ref else None) or self.app.saga(name)
        if saga is None:
            raise NotFound(f"app {self.app.name} has no saga {name}")
        return saga

    def _attempts(self, seen: _Seen) -> list[Attempt]:
        made = [
            Attempt(
                step=entry.envelope.saga.step if entry.envelope.saga else "",
                command=entry.handler,
                at=place,
                state=NEEDS_OPERATOR if entry.state is EntryState.PARKED else entry.state.value,
                attempts=entry.attempts + (entry.state is EntryState.DONE and not entry.error),
                error=entry.error,
                answer=entry.answer.type if entry.answer else "",
                changed_at=entry.changed_at,
                due_at=entry.due_at,
            )
            for place, entry in seen.entries
        ]
        return sorted(made, key=lambda one: one.changed_at)

    def _waiting(self, saga: Saga, seen: _Seen, paused: Sequence[PausedView]) -> list[Waiting]:
        answered = {
            entry.envelope.saga.step
            for _, entry in seen.entries
            if entry.state is EntryState.DONE and entry.envelope.saga
        }
        ref = next(self._refs_of(seen), None)
        is_orchestrated = ref is not None and ref.coordination is Coordination.ORCHESTRATION
        waiting = []
        for rule in due(saga.rules.every, seen.known):
            if rule.id not in answered:
                # How long something is waited for is decided by one place, which in orchestration is no service.
                asked = "orchestrator" if is_orchestrated else rule.service
                service = asked if rule.watch is not None else rule.service
                why = self._why(rule, seen, paused, service, asked)
                waiting.append(Waiting(step=rule.id, service=service, command=name_of(rule.command), why=why))
        return waiting

    def _why(self, rule: Rule, seen: _Seen, paused: Sequence[PausedView], service: str, asked: str) -> str:
        entries = [
            (place, entry)
            for place, entry in seen.entries
            if entry.envelope.saga and entry.envelope.saga.step == rule.id
        ]
        # What the participant itself says counts more than what the one who asks it says.
        mine = [one for one in entries if one[0] == service]
        place, entry = next(iter(mine or entries), ("", None))
        if entry is not None and entry.state is EntryState.PARKED:
            return f"{NEEDS_OPERATOR} at {place} after {entry.attempts} attempts: {entry.error}"
        for one in paused:
            if one.service in ("", place, service):
                return f"{one.what} was paused by {one.who}{f': {one.why}' if one.why else ''}"
        if entry is None:
            return f"{asked} has not heard of it yet"
        if entry.waits_for:
            return f"{place} waits for its read model to hear of {entry.waits_for}"
        if entry.attempts == 0 and not entry.error and entry.state is EntryState.DUE:
            if rule.watch is not None:
                return _waits(rule, place, entry)
            if entry.due_at > entry.changed_at:
                return f"{place} begins it at {_moment(entry.due_at)}"
        if entry.attempts:
            return f"{place} tries again after {entry.attempts} failed attempts: {entry.error}"
        if entry.error:
            return f"{place} tries again: {entry.error}"
        return f"{place} is at it"

    def _told(self, seen: _Seen) -> list[Told]:
        told: dict[str, Told] = {}
        for literal, envelope in seen.known.items():
            sender = envelope.source
            hearers = tuple(seen.heard_by.get(literal, ()))
            step = literal.step if literal != BEGUN else ""
            told[envelope.id] = Told(
                time=envelope.time, type=envelope.type, sender=sender, hearers=hearers, step=step, body=envelope.body
            )
        for place, entry in seen.entries:
            envelope = entry.envelope
            if _is_reaction(entry) and envelope.id in told:
                heard = told[envelope.id]
                told[envelope.id] = replace(heard, hearers=tuple(dict.fromkeys((*heard.hearers, place))))
            elif place == "orchestrator" and envelope.body and entry.handler != AWAITS:
                told[f"command {envelope.id}"] = Told(
                    time=envelope.time,
                    type=envelope.type,
                    sender=place,
                    hearers=(self._service_of(envelope.type),),
                    step=envelope.saga.step if envelope.saga else "",
                    body=envelope.body,
                )
        return sorted(told.values(), key=lambda one: one.time)

    def _service_of(self, command: str) -> str:
        kind = self.codec.types.get(command)
        return kind.__contract__.service if kind else ""

    # -- parked --------------------------------------------------------------------------------------------------------

    async def parked(self, *, limit: int = 200) -> list[ParkedView]:
        """Everything that waits for an operator, the oldest first."""
        views: list[ParkedView] = []
        for service, store in self.stores.items():
            messages, entries = await store.transact(
                lambda tx: (tx.parked.all(limit), tx.parked.entries(limit)), reads_only=True
            )
            views += [_message_view(service, one) for one in messages]
            views += [_entry_view(service, one) for one in entries]
        return sorted(views, key=lambda one: one.parked_at)[:limit]

    async def parked_one(self, parked_id: str) -> ParkedView:
        """One of them. Raises NotFound."""
        service, _, own = parked_id.partition(":")
        store = self._store(service, parked_id)

        def is_answerable(entry: Entry) -> bool:
            waits = entry.handler == AWAITS and entry.state is EntryState.DUE
            return waits or entry.state is EntryState.PARKED

        def look(tx: Tx) -> ParkedView | None:
            message = tx.parked.get(own)
            if message is not None:
                return _message_view(service, message)
            entry = tx.inbox.find(own)
            return _entry_view(service, entry) if entry is not None and is_answerable(entry) else None

        found = await store.transact(look, reads_only=True)
        if found is None:
            raise NotFound(f"nothing is parked as {parked_id!r}")
        return found

    async def reopen(self, parked_id: str, act: Act | None = None) -> bool:
        """Make a parked command or reaction due again; a running service takes it up by itself. False: a message.

        Args:
            act: to be kept with it, if it is done.
        """
        service, _, own = parked_id.partition(":")

        def work(tx: Tx) -> bool:
            return tx.inbox.reopen(own) and note(tx, act)

        store = self._store(service, parked_id)
        is_due = await store.transact(work)
        # Whoever works on this store in this process is told by nobody else: it does not count as another.
        store.disturbed()
        return is_due

    async def forget(self, parked_id: str, act: Act | None = None) -> ParkedView:
        """Take a parked message away for good, and return it. Raises NotFound, or MessageError if it is no message.

        Args:
            act: as for `reopen`.
        """
        view = await self.parked_one(parked_id)
        if view.kind != "message":
            raise MessageError(
                f"{parked_id} is a {view.kind} of a saga that is owed an answer; it can be retried or answered, not "
                "discarded"
            )
        own = parked_id.partition(":")[2]
        await self._store(view.service, parked_id).transact(lambda tx: tx.parked.remove(own) and note(tx, act))
        return view

    # -- paused --------------------------------------------------------------------------------------------------------

    async def paused(self) -> list[PausedView]:
        """What operators have paused, the oldest first."""
        found: dict[Scope, tuple[Instruction, list[str]]] = {}
        for service, store in self.stores.items():
            for one in await store.transact(lambda tx: tx.instructions.in_force(math.inf), reads_only=True):
                last, places = found.setdefault(one.scope, (one, []))
                found[one.scope] = (max(last, one, key=lambda each: each.at), [*places, service])
        views = [
            PausedView(
                what=str(scope),
                saga=scope.saga,
                saga_id=scope.saga_id,
                service=scope.service,
                at=one.at,
                who=one.who,
                why=one.why,
                places=tuple(places),
            )
            for scope, (one, places) in found.items()
        ]
        return sorted(views, key=lambda one: one.at)

    # -- audit ---------------------------------------------------------------------------------------------------------

    async def audit(self, *, limit: int = 200) -> list[tuple[str, Act]]:
        """What operators did, and at which service, the newest first."""
        found = [
            (service, act)
            for service, store in self.stores.items()
            for act in await store.transact(lambda tx: tx.audit.recent(limit), reads_only=True)
        ]
        return sorted(found, key=lambda one: one[1].at, reverse=True)[:limit]

    def _store(self, service: str, parked_id: str) -> Store:
        if service not in self.stores:
            raise NotFound(f"{parked_id!r} names no service; ids look like inventory:orders/1")
        return self.stores[service]


def note(tx: Tx, act: Act | None) -> bool:
    """Keep what an operator does, in the transaction that does it."""
    if act is not None:
        tx.audit.add(act)
    return True


AWAITS = name_of(AwaitOutcome)


def _waits(rule: Rule, place: str, entry: Entry) -> str:
    """What for, until when, and what an operator can do about it."""
    assert rule.watch is not None
    until = f" until {_moment(entry.due_at)}" if entry.due_at < YEAR_9999 else ""
    if isinstance(rule.watch.of, Wait):
        what = name_of(rule.watch.of.event)
        say = f"minuet parked answer {quote(f'{place}:{entry.key}')} --event {what} --body '{{...}}'"
        return f"{place} waits for {what}{until}; {say} says it in its place"
    return f"{place} waits for the outcome of {rule.watch.of.name}{until}"


def _not_begun(saga: Saga) -> Waiting:
    """Something that it waits for came before it; or came with the wrong id, and then this saga never begins."""
    event = name_of(saga.begins_with)
    why = f"no service here has heard {event}, which begins it; something came for it before, or with a wrong id"
    return Waiting(step=BEGUN.step, service="", command=event, why=why)


def _moment(time: float) -> str:
    return f"{timestamp(time)[:19]}Z"


def _is_reaction(entry: Entry) -> bool:
    return entry.key.startswith("on/")


def _message_view(service: str, message: ParkedMessage) -> ParkedView:
    return ParkedView(
        id=f"{service}:{message.id}",
        service=service,
        kind="message",
        type=message.attributes.get("type", "unknown"),
        reason=message.reason,
        attempts=0,
        parked_at=message.parked_at,
        channel=message.channel,
        attributes=message.attributes,
        body=message.body,
    )


def _entry_view(service: str, entry: Entry) -> ParkedView:
    return ParkedView(
        id=f"{service}:{entry.key}",
        service=service,
        kind="reaction" if _is_reaction(entry) else "wait" if entry.handler == AWAITS else "command",
        type=entry.handler,
        reason=entry.error,
        attempts=entry.attempts,
        parked_at=entry.changed_at,
        channel="",
        attributes=attributes_of(entry.envelope),
        body=entry.envelope.body,
    )
