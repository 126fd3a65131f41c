"""Does each entry of the inbox once, and records what came of it.

* A ``def`` handler runs inside the transaction that keeps the entry: rows, outcome and messages commit together.
* An ``async def`` handler runs outside of any transaction, on an entry that is kept already. What it did is recorded in
  one transaction afterwards. After a crash it is called again with the same idempotency key.
* A refusal, or an exception, takes back what the handler wrote. An exception is tried again later; when the attempts
  are exhausted the participant refuses, if the saga may still be refused, and if it can be sure that nothing of its
  remains. Otherwise the entry is parked and needs an operator.

Everything here runs inside a transaction. `After` carries what is to be done once that is durable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from minuet.app import Handler, IdempotencyKey, NewId, Now
from minuet.codec import Codec, explain, remember
from minuet.core.coordinator import SAGA_DEADLINE_PASSED, TIME_IS_UP, Ends, decision_of, ends, why_abandoned
from minuet.core.envelope import Envelope
from minuet.core.errors import Conflict, DefinitionError, MessageError, NotYet, Rejected
from minuet.core.messages import (
    AwaitOutcome,
    Command,
    Event,
    Refusal,
    StepRefused,
    channel_of,
    name_of,
    refusals,
)
from minuet.core.operating import Scope
from minuet.core.retry import RetryPolicy
from minuet.core.saga import COMPENSATED, COMPLETED
from minuet.ports import Clock, Entry, EntryState, Ids, Instruction, Tx
from minuet.runtime.instructions import InForce
from minuet.runtime.reactor import IS_CANCELLED, NEVER, Reactor, business_key, step_key

REACTION = "on/"
AWAITS = name_of(AwaitOutcome)
"""The handler of every entry in which nothing is done but waited. It is a service's, or the orchestrator's."""
# So many steps of one service may follow each other in one transaction; more would be a deep recursion.
DEPTH_MAX = 16


@dataclass(slots=True)
class After:
    """What the event loop does when the transaction is durable."""

    start: list[Entry] = field(default_factory=list)
    decided: list[Entry] = field(default_factory=list)
    failed: list[Entry] = field(default_factory=list)
    faults: list[tuple[Entry, Exception]] = field(default_factory=list)
    cancelled: list[Entry] = field(default_factory=list)
    instructed: list[Instruction] = field(default_factory=list)
    depth: int = 0

    def add(self, other: After) -> None:
        self.start += other.start
        self.decided += other.decided
        self.failed += other.failed
        self.faults += other.faults
        self.cancelled += other.cancelled
        self.instructed += other.instructed


class Lost(Exception):
    """Another instance has taken the entry over; what this one did with it is rolled back."""


class Performer:
    """What is done with the entries of one place.

    Args:
        handlers: by command type, and by reaction name behind ``on/``.
        provided: what handlers may ask for by type, besides the database handle.
        publishes: False in the orchestrator, whose outcomes are published by the participants already.
        body_bytes_max: the largest body that the transport of a channel takes. What is larger is refused when it is to
            be written down; in the outbox it would be stuck for ever.
    """

    def __init__(
        self,
        reactor: Reactor,
        codec: Codec,
        clock: Clock,
        ids: Ids,
        handlers: Mapping[str, Handler],
        *,
        publishes: bool = True,
        body_bytes_max: Callable[[str], float] = lambda channel: math.inf,
    ) -> None:
        self.reactor = reactor
        self.codec = codec
        self.clock = clock
        self.ids = ids
        self.handlers = {**handlers, AWAITS: _waiting(reactor.place)}
        self.provided: dict[type[Any], Any] = {}
        self.publishes = publishes
        self.body_bytes_max = body_bytes_max
        self.place = reactor.place
        self.in_force = InForce(self.place)
        # With a rate limit nothing is done at once: what waits has its turn first.
        self.is_paced = False

    # -- doing it ------------------------------------------------------------------------------------------------------

    def _begin(self, tx: Tx, entry: Entry, after: After) -> None:
        if entry.handler == AWAITS:
            self._wait(tx, entry, after)
            return
        if self._is_for_later(entry, after) and tx.inbox.add(entry):
            after.start.append(entry)
            return
        known = tx.inbox.find(entry.key)
        if known is not None and entry.key.startswith(REACTION):
            return  # the same message, be it in another saga's name: heard once is enough
        if known is not None and entry.envelope.saga not in (None, known.envelope.saga):
            # The business key is somebody else's already. The saga's step is an entry of its own; `built` answers it.
            assert entry.envelope.saga is not None
            entry = replace(entry, key=step_key(entry.envelope.saga), envelope=replace(entry.envelope, body=b""))
            known = tx.inbox.find(entry.key)
        if known is None:
            self._start(tx, entry, after)
        elif known.state is EntryState.DUE and entry.envelope.cancelled and not known.envelope.cancelled:
            self._mark_cancelled(tx, known, after)

    def _start(self, tx: Tx, entry: Entry, after: After) -> None:
        """Begin what is not in the inbox yet."""
        if entry.handler not in self.handlers:
            raise MessageError(f"{self.place} has no handler for {entry.handler}")
        if self._is_for_later(entry, after):
            tx.inbox.add(entry)
            after.start.append(entry)
        else:
            after.depth += 1
            self.perform(tx, entry, after)
            after.depth -= 1

    def _is_for_later(self, entry: Entry, after: After) -> bool:
        """Whether it cannot be done within the transaction that keeps it."""
        handler = self.handlers.get(entry.handler)
        return handler is not None and (
            handler.is_async
            or not entry.envelope.body
            or after.depth >= DEPTH_MAX
            or self.is_planned(entry)
            or self.is_paced
            or self.paused_by(entry) is not None
        )

    def is_planned(self, entry: Entry) -> bool:
        """Whether its time has not come yet, so that nobody can have begun it."""
        return not entry.attempts and not entry.error and entry.due_at > self.clock.now()

    def paused_by(self, entry: Entry) -> Scope | None:
        """What of it an operator has paused, if anything."""
        return self.in_force.pausing(entry, self.service_of(entry))

    def perform(self, tx: Tx, entry: Entry, after: After) -> None:
        """Call the ``def`` handler of a due entry and record what comes of it."""
        if entry.handler == AWAITS:
            if not self._decide(tx, entry, after, is_over=True):
                raise Lost(entry.key)
            return
        handler = self.handlers[entry.handler]
        if self.is_late(entry):
            self.refuse(tx, entry, self.why_late(entry), after)
            return
        outcome: tuple[Event, ...] = ()
        answers: list[Envelope] = []
        try:
            message = self.codec.decode(entry.envelope)
            with tx.savepoint():
                returned = handler.function(message, **self.arguments(handler, entry, tx))
                outcome = self.checked(handler, returned)
                answers = self.envelopes_for(outcome, entry)
                if isinstance(outcome[0] if outcome else None, Refusal):
                    raise _Refused
        except _Refused:
            pass
        except Exception as error:
            if isinstance(error, Rejected) and entry.envelope.saga is None and not entry.key.startswith(REACTION):
                raise  # the mistake is the asker's: nothing of it is kept, and nobody else is bound by it
            self.fail(tx, entry, error, after)
            return
        self.record(tx, entry, outcome, answers, after)

    def arguments(self, handler: Handler, entry: Entry, tx: Tx | None) -> dict[str, Any]:
        """What the handler asks for by annotation."""
        found: dict[str, Any] = {}
        for name, wanted in handler.wants.items():
            if wanted in self.provided:
                found[name] = self.provided[wanted]
            elif wanted is IdempotencyKey:
                found[name] = IdempotencyKey(entry.key)
            elif wanted is NewId:
                found[name] = NewId(self.ids.new())
            elif wanted is Now:
                found[name] = Now(self.clock.now())
            elif tx is not None:
                found[name] = tx.handle(wanted)
            else:
                raise TypeError(
                    f"{handler.name} asks for {wanted.__name__}, but nothing provides one outside of a transaction"
                )
        return found

    def checked(self, handler: Handler, returned: Any) -> tuple[Event, ...]:
        outcome = returned if isinstance(returned, tuple) else () if returned is None else (returned,)
        if not all(isinstance(one, Event) for one in outcome):
            raise DefinitionError(f"{handler.name} returned {returned!r}, which is not an event; mend it and retry")
        if issubclass(handler.message, Command) and (not outcome or type(outcome[0]) not in handler.answers):
            names = ", ".join(one.__name__ for one in handler.answers)
            raise DefinitionError(
                f"{handler.name} returned {type(returned).__name__}, but {name_of(handler.message)} is answered by "
                f"{names}; mend it, or add that answer, and retry"
            )
        return outcome

    def built(self, tx: Tx, entry: Entry, command: Command, after: After) -> bool:
        """Keep the command that was built from queries, before anyone sees it. False: it was decided long ago."""
        body = self.codec.encode(command, time=entry.envelope.time)
        entry.envelope, entry.waits_for = remember(replace(entry.envelope, body=body), command), None
        # What failed until now was the building. The handler has its own attempts, and was not begun.
        entry.attempts, entry.error = 0, ""
        key = (self.publishes and business_key(command)) or entry.key
        known = tx.inbox.find(key) if key != entry.key else None
        if known is not None and not self._is_same(known, command):
            raise Conflict(f"{key} was asked before with other content")
        if known is not None and known.answer is None:
            raise NotYet(
                f"{key} is {'parked' if known.state is EntryState.PARKED else 'under way'} for somebody else",
                retry_after_s=5.0 if known.state is EntryState.PARKED else 0.2,
            )
        if known is not None and known.answer is not None:
            event = self.codec.decode(known.answer)
            assert isinstance(event, Event)
            self.record(
                tx, entry, (event,), [replace(known.answer, saga=entry.envelope.saga, key=entry.envelope.key)], after
            )
            return False
        if not (key == entry.key or tx.inbox.rename(entry, key)):
            raise Lost(entry.key)
        entry.key = key
        if not tx.inbox.save(entry):
            raise Lost(entry.key)
        return True

    def _is_same(self, entry: Entry, command: Command) -> bool:
        """Whether what is asked now says nothing else than what was asked first; it may leave out what is optional."""
        if not entry.envelope.body:
            return True
        first = self.codec.decode(entry.envelope)
        return all(getattr(first, name) == getattr(command, name) for name in command.model_fields_set)

    # -- what came of it -----------------------------------------------------------------------------------------------

    def finish(self, tx: Tx, entry: Entry, outcome: tuple[Event, ...], after: After) -> None:
        """Record the outcome, publish it, and tell this place's own rules.

        Raises:
            Lost: another instance owns the entry now.
        """
        handler = self.handlers[entry.handler]
        for recorder in handler.recorders if outcome else ():
            recorder.function(outcome[0], **self.arguments(recorder, entry, tx))
        self.record(tx, entry, outcome, self.envelopes_for(outcome, entry), after)

    def record(
        self,
        tx: Tx,
        entry: Entry,
        outcome: Sequence[Event],
        answers: Sequence[Envelope],
        after: After,
        *,
        whoever_owns: bool = False,
    ) -> None:
        """As `finish`, with envelopes that exist already.

        Args:
            whoever_owns: nobody has begun it, so that it may be decided here although it is another instance's.
        """
        entry.state = EntryState.DONE
        entry.answer = answers[0] if answers else None
        entry.waits_for, entry.changed_at = None, self.clock.now()
        if not (outcome and isinstance(outcome[0], StepRefused)):  # then it is the reason, and stays
            entry.error = ""
        if not (tx.inbox.save(entry) or (whoever_owns and tx.inbox.settle(entry))):
            raise Lost(entry.key)
        after.decided.append(entry)
        self._tell(tx, outcome, answers, after, publishes=self.publishes)

    def _tell(
        self, tx: Tx, outcome: Sequence[Event], answers: Sequence[Envelope], after: After, *, publishes: bool
    ) -> None:
        for event, envelope in zip(outcome, answers, strict=True):
            if publishes:
                tx.outbox.add(channel_of(event), envelope)
                self.reactor.remember_begun(tx, envelope)
            self._learn(tx, envelope, event, after)

    def _learn(self, tx: Tx, answer: Envelope, event: Event, after: After) -> None:
        """Tell this place's own rules what it answered itself."""
        is_step = answer.saga is not None and answer.saga.step not in (COMPLETED, COMPENSATED)
        if is_step or answer.begins:  # who begins a saga must know of it, whatever becomes of the message
            for due in self.reactor.learn(tx, answer, event):
                self._begin(tx, due, after)

    def envelopes_for(self, outcome: Sequence[Event], entry: Entry) -> list[Envelope]:
        return [self.envelope_for(event, entry, number) for number, event in enumerate(outcome)]

    def envelope_for(self, event: Event, entry: Entry, number: int) -> Envelope:
        """The envelope of what a handler returned; ``number`` counts what it returned together."""
        cause = entry.envelope
        begins = self.reactor.begun_by(event)
        now = self.clock.now()
        body = self.codec.encode(event, time=now)
        if len(body) > self.body_bytes_max(channel_of(event)):
            raise MessageError(
                f"{name_of(event)} has {len(body)} bytes, and the transport of {channel_of(event)} takes "
                f"{self.body_bytes_max(channel_of(event))} at most; send a reference instead"
            )
        is_answer = number == 0 and not entry.key.startswith(REACTION)
        envelope = Envelope(
            id=entry.key if number == 0 else f"{entry.key}#{number}",
            type=name_of(event),
            source=self.place,
            time=now,
            body=body,
            key=begins[0].id if begins else cause.key or entry.key,
            version=event.__contract__.version,
            saga=cause.saga if is_answer else None,
            begins=begins,
            correlation=cause.correlation or cause.id,
            causation=cause.id,
            traceparent=cause.traceparent,
            saga_expires=cause.saga_expires if is_answer else None,
            # A saga sends each command once, so only what leaves it can go round in a circle.
            hops=cause.hops + (not is_answer or bool(begins)),
        )
        return remember(envelope, event)

    def fail(self, tx: Tx, entry: Entry, error: Exception, after: After) -> None:
        """Keep the failed attempt, and decide between another one, a refusal, and an operator.

        Raises:
            Lost: another instance owns the entry now.
        """
        after.faults.append((entry, error))
        entry.changed_at = self.clock.now()
        entry.error = describe(error)
        if isinstance(error, Conflict | DefinitionError) or entry.handler not in self.handlers:
            entry.state, delay = EntryState.PARKED, 0.0
        elif isinstance(error, NotYet):
            delay = error.retry_after_s * (0.75 + 0.5 * self.ids.chance())
        else:
            entry.attempts += 1
            retry = self.retry_of(entry)
            delay = retry.delay_s(min(entry.attempts, retry.attempts_max), self.ids.chance())
            if isinstance(error, Rejected | MessageError) or retry.exhausted(entry.attempts):
                if self._give_up(tx, entry, after):
                    return
                if entry.state is EntryState.PARKED:
                    delay = 0.0
        entry.due_at = self.clock.now() + delay
        if not tx.inbox.save(entry):
            raise Lost(entry.key)
        if entry.state is EntryState.DUE:
            after.start.append(entry)
        after.failed.append(entry)

    def retry_of(self, entry: Entry) -> RetryPolicy:
        """The step's policy if its saga states one, else the handler's."""
        saga = entry.envelope.saga
        try:
            stated = self.reactor.rule_of(saga).retry if saga is not None else None
        except MessageError:  # a definition that only the orchestrator knows, or that is gone
            stated = None
        return stated or self.handlers[entry.handler].retry

    def is_exhausted(self, entry: Entry) -> bool:
        """Whether what is left to do is not the command but making sure that nothing of it remains."""
        handler = self.handlers[entry.handler]
        return bool(handler.last_resorts) and self._may_refuse(entry) and self.retry_of(entry).exhausted(entry.attempts)

    def _may_refuse(self, entry: Entry) -> bool:
        """Its saga says so; outside of a saga, its contract."""
        message = self.handlers[entry.handler].message
        return (
            entry.envelope.may_refuse
            and issubclass(message, Command)
            and (entry.envelope.saga is not None or bool(refusals(message)))
        )

    def _give_up(self, tx: Tx, entry: Entry, after: After) -> bool:
        """Refuse if that is still possible and true. False: go on, or parked (the entry's state says which)."""
        handler = self.handlers[entry.handler]
        may_refuse = self._may_refuse(entry)
        attempts_max = self.retry_of(entry).attempts_max
        if may_refuse and (not handler.is_async or not entry.envelope.body):
            self.refuse(tx, entry, "retries exhausted", after)
            return True
        if may_refuse and handler.last_resorts and entry.attempts < 2 * attempts_max:
            entry.attempts = max(entry.attempts, attempts_max)
            return False
        entry.state = EntryState.PARKED
        return False

    def refuse(self, tx: Tx, entry: Entry, reason: str, after: After) -> None:
        """Record a refusal in the name of the service that the command is for."""
        refusal = StepRefused(service=self.service_of(entry), command=entry.handler, reason=reason, detail=entry.error)
        envelope = self.envelope_for(refusal, entry, 0)
        if not self.publishes:  # it never reached its participant, so nobody else publishes it
            tx.outbox.add(channel_of(refusal), envelope)
        self.record(tx, entry, (refusal,), [envelope], after, whoever_owns=self.is_planned(entry))

    def _mark_cancelled(self, tx: Tx, entry: Entry, after: After) -> Entry:
        """Refuse the entry, unless it is begun, or the orchestrator's: then whoever is asked once more hears of it.

        Its owner may be another instance, which goes on with what it has at hand, as if this had come a little later.
        """
        copy = entry.copy()
        copy.envelope = replace(entry.envelope, cancelled=True)
        handler = self.handlers.get(entry.handler)
        # An `async` handler may be at it just now. Before it is called the next time, it is found to be cancelled.
        may_be_under_way = handler is not None and handler.is_async and bool(entry.envelope.body)
        try:
            if self.is_late(copy) and (not may_be_under_way or self.is_planned(copy)):
                self.refuse(tx, copy, self.why_late(copy), after)
            elif tx.inbox.save(copy):
                after.cancelled.append(copy)
        except Lost:
            return entry
        return copy

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _wait(self, tx: Tx, entry: Entry, after: After) -> None:
        """Begin to wait, or look whether the waiting is over, for something has been heard."""
        known = tx.inbox.find(entry.key)
        if known is not None and known.state is not EntryState.DUE:
            return
        if not self._decide(tx, known or entry, after) and known is None:
            tx.inbox.add(entry)
            after.start.append(entry)

    def _decide(self, tx: Tx, entry: Entry, after: After, *, is_over: bool = False) -> bool:
        """Decide once whether what is waited for has come or is given up; False: it goes on, or was decided before.

        This is the one place at which it is decided, so what is known here now counts, whatever is on its way.

        Args:
            is_over: the time is up, whatever the clock says.
        """
        saga = entry.envelope.saga
        assert saga is not None
        rule = self.reactor.rule_of(saga)
        assert rule.watch is not None
        known = tx.known.of(saga.name, saga.id)
        end = ends(rule, known)
        reason = ""
        if end not in (Ends.ACCEPTED, Ends.ANSWERED):
            over = self._over(entry, is_over=is_over)
            reason = why_abandoned(rule, end, is_cancelled=IS_CANCELLED in known, over=over)
            if not reason:
                return False
        event = None if end is Ends.ANSWERED else decision_of(rule, reason)
        outcome = () if event is None else (event,)
        answers = self.envelopes_for(outcome, entry)
        done = entry.copy()
        done.state, done.answer, done.changed_at = EntryState.DONE, answers[0] if answers else None, self.clock.now()
        done.error = ""
        if not (tx.inbox.save(done) or tx.inbox.settle(done)):
            return False
        after.decided.append(done)
        self._tell(tx, outcome, answers, after, publishes=True)
        return True

    def _over(self, entry: Entry, *, is_over: bool) -> str:
        """Which time is up; empty if none is."""
        if entry.due_at >= NEVER or not (is_over or self.clock.now() >= entry.due_at):
            return ""
        is_of_saga = entry.envelope.saga_expires is not None and entry.due_at >= entry.envelope.saga_expires
        return SAGA_DEADLINE_PASSED if is_of_saga else TIME_IS_UP

    # -- late ----------------------------------------------------------------------------------------------------------

    def service_of(self, entry: Entry) -> str:
        handler = self.handlers.get(entry.handler)
        return (handler and handler.message.__contract__.service) or self.place

    def why_late(self, entry: Entry) -> str:
        if entry.envelope.cancelled:
            return "cancelled"
        expires = entry.envelope.expires
        return (
            SAGA_DEADLINE_PASSED
            if expires is not None and expires == entry.envelope.saga_expires
            else "deadline passed"
        )

    def is_late(self, entry: Entry) -> bool:
        """Whether the deadline passed, or the saga was cancelled, and the command was certainly not begun."""
        expires = entry.envelope.expires
        has_passed = expires is not None and self.clock.now() > expires
        if not (has_passed or entry.envelope.cancelled) or not entry.envelope.may_refuse:
            return False
        if not entry.envelope.body or self.is_planned(entry):
            return True
        # An error without an attempt is a handler's `NotYet`. And what was asked for elsewhere may be done there.
        is_begun = entry.attempts or (entry.error and self.handlers[entry.handler].is_async) or not self.publishes
        return not is_begun

    def check_handled(self, entry: Entry) -> None:
        """
        Raises:
            MessageError: the app of today does not know what to do with it.
        """
        if entry.handler not in self.handlers:
            raise MessageError(f"{self.place} has no handler for {entry.handler}")

    def taken_over(self, entry: Entry) -> None:
        """Note that an instance that is gone may have begun it: an ``async`` handler leaves no trace of that."""
        handler = self.handlers.get(entry.handler)
        if handler is not None and handler.is_async and entry.envelope.body:
            entry.attempts = max(entry.attempts, 1)


def _waiting(place: str) -> Handler:
    return Handler(place, "wait", _never_called, AwaitOutcome, {}, False, AwaitOutcome.__contract__.answers)


def _never_called(command: AwaitOutcome) -> Event:
    raise AssertionError("nothing is done here but waited")


class _Refused(Exception):
    """Leaves the savepoint, which rolls back what the handler wrote."""


def describe(error: Exception) -> str:
    """An error in one line for the record. Never the whole traceback, which may hold secrets."""
    said = f"{type(error).__name__}: {explain(error)}"[:500]
    return said.replace("\0", "\\0")  # which PostgreSQL takes for the end of a text
