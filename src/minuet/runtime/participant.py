"""Does each command and each reaction exactly once, and keeps what came of it.

There is one way in. A rule of this place, a call over HTTP, a message of a broker: each becomes an entry of the inbox,
known by its key, and what follows is the same for all:

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
from functools import cached_property
from typing import Any
from urllib.parse import quote

from minuet.app import Handler, IdempotencyKey, NewId, Now, ReadModel
from minuet.codec import HOPS_MAX, STRANGER, Codec, digest_of, explain, remember, view_to_bytes
from minuet.core.compile import BEGUN
from minuet.core.envelope import Envelope
from minuet.core.errors import Conflict, DefinitionError, MessageError, NotFound, NotYet, Rejected
from minuet.core.messages import (
    Command,
    Event,
    Message,
    Refusal,
    SagaCancelled,
    StepRefused,
    channel_of,
    name_of,
    refusals,
)
from minuet.core.retry import RetryPolicy
from minuet.core.saga import BEGIN, CANCELLED, COMPENSATED, COMPLETED
from minuet.ports import Clock, Delivery, Entry, EntryState, Ids, ParkedMessage, Subscription, Tx
from minuet.runtime.reactor import IS_CANCELLED, Reactor, business_key, step_key

REACTION = "on/"
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
    depth: int = 0

    def add(self, other: After) -> None:
        self.start += other.start
        self.decided += other.decided
        self.failed += other.failed
        self.faults += other.faults
        self.cancelled += other.cancelled


class Lost(Exception):
    """Another instance has taken the entry over; what this one did with it is rolled back."""


class Participant:
    """The synchronous half: everything that happens inside a transaction.

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
        read_models: Sequence[ReadModel] = (),
        *,
        publishes: bool = True,
        body_bytes_max: Callable[[str], float] = lambda channel: math.inf,
    ) -> None:
        self.reactor = reactor
        self.codec = codec
        self.clock = clock
        self.ids = ids
        self.handlers = handlers
        self.provided: dict[type[Any], Any] = {}
        self.publishes = publishes
        self.body_bytes_max = body_bytes_max
        self.place = reactor.place
        self._read_models: dict[str, list[ReadModel]] = {}
        for model in read_models:
            self._read_models.setdefault(name_of(model.event), []).append(model)
        self._reactions: dict[str, list[tuple[str, Handler]]] = {}
        for name, handler in handlers.items():
            if name.startswith(REACTION):
                self._reactions.setdefault(name_of(handler.message), []).append((name, handler))

    @cached_property
    def subscription(self) -> Subscription:
        """What this place listens to."""
        return self.reactor.subscription([model for models in self._read_models.values() for model in models])

    # -- messages from a transport -------------------------------------------------------------------------------------

    def take_in(
        self, tx: Tx, deliveries: Sequence[Delivery], *, apart: bool = False
    ) -> tuple[After, list[Exception | None]]:
        """Handle a batch, each message under its own savepoint; for each None, or why it has to come again.

        Args:
            apart: call no handler here; each entry is begun in a transaction of its own.
        """
        after = After()
        problems: list[Exception | None] = []
        for delivery in deliveries:
            mine = After(depth=DEPTH_MAX if apart else 0)
            try:
                with tx.savepoint():
                    self._take_in_one(tx, delivery, mine)
            except MessageError as reason:
                mine = After()  # what it had begun was undone with it
                self._park(tx, delivery, str(reason))
            except Exception as error:  # what a handler raises is caught closer to it: this is the store, or a bug
                problems.append(error)
                continue
            problems.append(None)
            after.add(mine)
        return after, problems

    def hear_again(self, tx: Tx, delivery: Delivery) -> None:
        """Take in a message that was parked; what it makes due is begun by whoever takes it over.

        Raises:
            MessageError: it would be parked again.
        """
        self._take_in_one(tx, delivery, After(depth=DEPTH_MAX))

    def has_heard(self, tx: Tx, envelope: Envelope) -> bool:
        """Whether nothing would come of hearing this event: it is known here, or parked, or of no interest."""
        event = self.codec.decode(envelope)
        assert isinstance(event, Event)
        if not self.subscription.wants(channel_of(event), envelope):
            return True
        if tx.parked.get(_parked_id(channel_of(event), envelope.source, envelope.id)) is not None:
            return True
        facts = self.reactor.facts(envelope, event)
        models = self._read_models.get(envelope.type, ())
        reactions = self._reactions.get(envelope.type, ())
        return (
            all(fact.literal in tx.known.of(fact.ref.name, fact.ref.id) for fact in facts)
            and all(tx.read_models.get(name_of(model.query), model.key_of(event)) is not None for model in models)
            and all(tx.inbox.find(_reaction_key(name, envelope)) is not None for name, _ in reactions)
        )

    def knows(self, tx: Tx, command: Envelope) -> bool:
        """Whether there is an entry for this command of a saga."""
        assert command.saga is not None
        decoded = self.codec.decode(command)
        assert isinstance(decoded, Command)
        keys = (business_key(decoded), step_key(command.saga))
        return any(key and tx.inbox.find(key) is not None for key in keys)

    def hear(self, tx: Tx, envelope: Envelope, after: After) -> None:
        """Take in an event that another place has in its store, or a saga's command that was answered here once.

        Raises:
            MessageError: it would be parked.
        """
        event = self.codec.decode(envelope)
        if isinstance(event, Command):
            self._be_asked(tx, envelope, after)
        else:
            assert isinstance(event, Event)
            self._hear(tx, envelope, event, after)

    def _take_in_one(self, tx: Tx, delivery: Delivery, after: After) -> None:
        envelope, event = self._understood(delivery)
        if envelope.hops > HOPS_MAX:
            raise MessageError(
                f"{envelope.type} came over {envelope.hops} reactions: services react to each other in a circle"
            )
        if isinstance(event, Command):
            self._be_asked(tx, envelope, after)
        elif isinstance(event, Event):
            self._hear(tx, envelope, event, after)
        else:
            raise MessageError(f"{envelope.type} is a query; it is asked over HTTP")

    def _be_asked(self, tx: Tx, envelope: Envelope, after: After) -> None:
        """A command of the orchestrator that comes as a message. Its answer is the event that everybody hears."""
        if envelope.saga is None:
            raise MessageError(f"{envelope.type} is a command of nobody's saga; send it over HTTP")
        try:
            entry, begun = self.accept(tx, envelope, "", apart=after.depth >= DEPTH_MAX)
        except (Conflict, Rejected) as reason:
            raise MessageError(str(reason)) from reason
        if not begun.decided and entry.answer is not None and entry.answer.saga == envelope.saga:
            # It was decided long ago: the answer may have been lost, or is on its way.
            answer = self.codec.decode(entry.answer)
            assert isinstance(answer, Event)
            tx.outbox.add(channel_of(answer), entry.answer)
        after.add(begun)

    def _understood(self, delivery: Delivery) -> tuple[Envelope, Message]:
        try:
            envelope = delivery.envelope or self.codec.envelope_of(
                delivery.attributes, delivery.body, channel=delivery.channel, now=self.clock.now()
            )
            return envelope, self.codec.decode(envelope)
        except MessageError:
            raise
        except Exception as error:  # an upcast that raises, or worse: it would raise again, for ever
            raise MessageError(f"a message on {delivery.channel} cannot be read: {describe(error)}") from error

    def _hear(self, tx: Tx, envelope: Envelope, event: Event, after: After) -> None:
        if isinstance(event, SagaCancelled):
            self._hear_cancelled(tx, envelope, event, after)
            return
        for model in self._read_models.get(envelope.type, ()):
            try:
                view = view_to_bytes(model(event))
            except Exception as error:
                raise MessageError(f"the read model of {name_of(model.query)}: {describe(error)}") from error
            tx.read_models.put(name_of(model.query), model.key_of(event), view, envelope.time)
            after.start += tx.inbox.waiting_for(f"{name_of(model.query)}/{model.key_of(event)}")
        if not self.publishes:
            self._hear_answer(tx, envelope, event, after)
        for entry in self.reactor.learn(tx, envelope, event):
            self._begin(tx, entry, after)
        for name, _ in self._reactions.get(envelope.type, ()):
            key = _reaction_key(name, envelope)
            self._begin(tx, Entry(key=key, handler=name, envelope=envelope, changed_at=self.clock.now()), after)

    def cancel(self, tx: Tx, event: SagaCancelled, after: After) -> bool:
        """Let everybody know that a saga is no longer wanted. False: that is known."""
        if IS_CANCELLED in tx.known.of(event.saga, event.saga_id):
            return False
        key = f"{event.saga}/{event.saga_id}/{CANCELLED}"
        told = Envelope(
            id=key, type=name_of(event), source=self.place, time=self.clock.now(), body=b"", key=event.saga_id
        )
        envelope = self.envelope_for(event, Entry(key=key, handler="", envelope=told), 0)
        tx.outbox.add(channel_of(event), envelope)
        self._hear_cancelled(tx, envelope, event, after)
        return True

    def _hear_cancelled(self, tx: Tx, envelope: Envelope, event: SagaCancelled, after: After) -> None:
        """Refuse what was not begun, or have its participant refuse it."""
        if tx.known.learn(event.saga, event.saga_id, IS_CANCELLED, envelope) is None:
            return
        for entry in tx.records.entries_of(event.saga, event.saga_id):
            if entry.state is not EntryState.DUE or not entry.envelope.may_refuse or entry.envelope.cancelled:
                continue
            entry.envelope = replace(entry.envelope, cancelled=True)
            # If it is begun, or the orchestrator's, whoever is asked once more hears of it. The owner may be another
            # instance, which goes on with what it has at hand, as if this had come a little later.
            if self.is_late(entry):
                self.refuse(tx, entry, self.why_late(entry), after)
            elif tx.inbox.save(entry):
                after.cancelled.append(entry)

    def _hear_answer(self, tx: Tx, envelope: Envelope, event: Event, after: After) -> None:
        """What a participant that was asked by a message has decided, whichever of us asked it."""
        entry = tx.inbox.find(step_key(envelope.saga)) if envelope.saga is not None else None
        if entry is None or entry.state is EntryState.DONE:
            return
        entry.state, entry.answer, entry.changed_at = EntryState.DONE, envelope, self.clock.now()
        entry.waits_for, entry.error = None, event.reason if isinstance(event, StepRefused) else ""
        if tx.inbox.settle(entry):
            after.decided.append(entry)

    def _park(self, tx: Tx, delivery: Delivery, reason: str) -> None:
        digest = digest_of(delivery.body)
        source = delivery.attributes.get("source", STRANGER)
        message_id = _parked_id(delivery.channel, source, delivery.attributes.get("id") or digest)
        tx.parked.add(
            ParkedMessage(
                id=message_id,
                channel=delivery.channel,
                attributes=delivery.attributes,
                body=delivery.body,
                reason=reason,
                parked_at=self.clock.now(),
            )
        )

    # -- sagas begun by somebody outside ---------------------------------------------------------------------------

    def begin(self, tx: Tx, event: Event, after: After) -> bool:
        """Publish the event, which begins sagas, in this place's name. False: the same has begun them before.

        Raises:
            Conflict: one of them was begun by another event.
            MessageError: no saga begins with it, or it is too large.
        """
        begins = self.reactor.begun_by(event)
        if not begins:
            raise MessageError(f"no saga begins with {name_of(event)}")
        known = [tx.known.of(ref.name, ref.id).get(BEGUN) for ref in begins]
        for ref, envelope in zip(begins, known, strict=True):
            if envelope is not None and self.codec.decode(envelope) != event:
                raise Conflict(f"{ref.name} {ref.id} was begun with other content; nothing was done")
        if all(known):
            return False
        key = f"{begins[0].name}/{begins[0].id}"
        told = Envelope(id=f"{key}/{BEGIN}", type=name_of(event), source=self.place, time=self.clock.now(), body=b"")
        envelope = self.envelope_for(event, Entry(key=f"{key}/{BEGIN}", handler="", envelope=told), 0)
        tx.outbox.add(channel_of(event), envelope)
        self.reactor.remember_begun(tx, envelope)
        self._learn(tx, envelope, event, after)
        return True

    # -- commands handed in by somebody who waits for the answer -------------------------------------------------------

    def accept(self, tx: Tx, envelope: Envelope, key: str, *, apart: bool = False) -> tuple[Entry, After]:
        """The entry of this command, new or known; done already if its handler is a ``def``.

        Args:
            apart: as for `take_in`.

        Raises:
            Conflict: the key was used with another body.
            Rejected: this service has no such command.
            MessageError: the body does not fit.
        """
        if envelope.type not in self.handlers:
            raise Rejected(f"{self.place} handles no {envelope.type}")
        if envelope.saga is None and envelope.expires is not None and self.clock.now() > envelope.expires:
            # A stranger's haste must not become the answer to whoever else means the same piece of business.
            raise Rejected(f"{envelope.type} expired before it came; nothing was done")
        command = self.codec.decode(envelope)
        assert isinstance(command, Command)
        digest = ""
        if envelope.saga is None:
            # However it was spaced and ordered: the digest is that of what it says. A saga's command has no such key.
            envelope = replace(envelope, body=self.codec.encode(command, time=envelope.time))
            digest = digest_of(envelope.body)
        asked = f"ask/{envelope.type}/{key}" if key else ""
        main = business_key(command) or (step_key(envelope.saga) if envelope.saga else asked or f"once/{envelope.id}")
        after = After(depth=DEPTH_MAX if apart else 0)
        alias = asked if asked and envelope.saga is None and asked != main else ""
        if alias:
            known = tx.inbox.find(alias)
            if known is not None and known.digest != digest:
                raise Conflict(f"Idempotency-Key {key!r} was used for another {envelope.type}; nothing was done")
        entry = tx.inbox.find(main)
        if entry is None:
            entry = Entry(
                key=main,
                handler=envelope.type,
                envelope=remember(envelope, command),
                digest=digest,
                changed_at=self.clock.now(),
            )
            self._start(tx, entry, after)
        elif entry.digest != digest if main == asked else not self._is_same(entry, command):
            raise Conflict(f"{main} was asked before with other content; nothing was done")
        elif entry.state is EntryState.DONE and envelope.saga is not None:
            self._answer_again(tx, entry, envelope, after)
        elif entry.state is EntryState.DUE and envelope.cancelled and not entry.envelope.cancelled:
            entry.envelope = replace(entry.envelope, cancelled=True)
            if self.is_late(entry):
                self.refuse(tx, entry, self.why_late(entry), after)
        if alias:
            # Only the digest counts: the outcome is found under the main key.
            tx.inbox.add(
                Entry(key=alias, handler=envelope.type, envelope=envelope, digest=digest, state=EntryState.DONE)
            )
        return entry, after

    def _is_same(self, entry: Entry, command: Command) -> bool:
        """Whether what is asked now says nothing else than what was asked first; it may leave out what is optional."""
        if not entry.envelope.body:
            return True
        first = self.codec.decode(entry.envelope)
        return all(getattr(first, name) == getattr(command, name) for name in command.model_fields_set)

    def _answer_again(self, tx: Tx, entry: Entry, asked: Envelope, after: After) -> None:
        """Tell this saga what was decided for somebody else: the same event, the same id, now in the saga's name."""
        assert entry.answer is not None
        if entry.answer.saga == asked.saga or not self.publishes:
            return
        event = self.codec.decode(entry.answer)
        assert isinstance(event, Event)
        envelope = replace(entry.answer, saga=asked.saga, key=asked.key)
        tx.outbox.add(channel_of(event), envelope)
        # This place does not hear its own answers, and may have to undo this one.
        self._learn(tx, envelope, event, after)

    def _learn(self, tx: Tx, answer: Envelope, event: Event, after: After) -> None:
        """Tell this place's own rules what it answered itself."""
        is_step = answer.saga is not None and answer.saga.step not in (COMPLETED, COMPENSATED)
        if is_step or answer.begins:  # who begins a saga must know of it, whatever becomes of the message
            for due in self.reactor.learn(tx, answer, event):
                self._begin(tx, due, after)

    # -- doing it ------------------------------------------------------------------------------------------------------

    def _begin(self, tx: Tx, entry: Entry, after: After) -> None:
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
        return handler is not None and (handler.is_async or not entry.envelope.body or after.depth >= DEPTH_MAX)

    def perform(self, tx: Tx, entry: Entry, after: After) -> None:
        """Call the ``def`` handler of a due entry and record what comes of it."""
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

    def record(self, tx: Tx, entry: Entry, outcome: Sequence[Event], answers: Sequence[Envelope], after: After) -> None:
        """As `finish`, with envelopes that exist already."""
        entry.state = EntryState.DONE
        entry.answer = answers[0] if answers else None
        entry.waits_for, entry.changed_at = None, self.clock.now()
        if not (outcome and isinstance(outcome[0], StepRefused)):  # then it is the reason, and stays
            entry.error = ""
        if not tx.inbox.save(entry):
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

    def answer_for(self, tx: Tx, key: str, event: Event | None, after: After) -> Entry:
        """Record what came of a parked entry, as an operator says, in the place of whoever should have done it.

        It is published and has its consequences like any answer; what the handler would have written is not written,
        but for what its ``on_outcome`` does.

        Args:
            event: the answer; None for a reaction, which owes none.

        Raises:
            NotFound: nothing is parked under that key.
            Rejected: this is no answer that the command may have.
        """
        entry = tx.inbox.find(key)
        if entry is None or entry.state is not EntryState.PARKED:
            raise NotFound(f"nothing is parked as {self.place}:{key}")
        self._check_answer(entry, event)
        outcome = () if event is None else (event,)
        for recorder in self.handlers[entry.handler].recorders if event is not None else ():
            recorder.function(event, **self.arguments(recorder, entry, tx))
        answers = self.envelopes_for(outcome, entry)
        entry.state, entry.answer = EntryState.DONE, answers[0] if answers else None
        entry.waits_for, entry.changed_at = None, self.clock.now()
        if not tx.inbox.settle(entry):
            raise NotFound(f"{self.place}:{key} is not parked any more")
        after.decided.append(entry)
        self._tell(tx, outcome, answers, after, publishes=True)
        return entry

    def _check_answer(self, entry: Entry, event: Event | None) -> None:
        self.check_handled(entry)
        message = self.handlers[entry.handler].message
        if not issubclass(message, Command):
            if event is not None:
                raise Rejected(f"{entry.handler} is a reaction, which owes nobody an answer; leave the event out")
            return
        answers = message.__contract__.answers
        if type(event) not in answers:
            names = ", ".join(map(name_of, answers))
            raise Rejected(
                f"{name_of(message)} is answered by {names}, not by {name_of(event) if event else 'nothing'}"
            )
        if isinstance(event, Refusal) and not self._may_refuse(entry):
            raise Rejected(f"{name_of(message)} cannot be refused any more; answer that it is done, or retry it")

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
        self.record(tx, entry, (refusal,), [envelope], after)

    def service_of(self, entry: Entry) -> str:
        handler = self.handlers.get(entry.handler)
        return (handler and handler.message.__contract__.service) or self.place

    def why_late(self, entry: Entry) -> str:
        return "cancelled" if entry.envelope.cancelled else "deadline passed"

    def is_late(self, entry: Entry) -> bool:
        """Whether the deadline passed, or the saga was cancelled, and the command was certainly not begun."""
        expires = entry.envelope.expires
        has_passed = expires is not None and self.clock.now() > expires
        if not (has_passed or entry.envelope.cancelled) or not entry.envelope.may_refuse:
            return False
        if not entry.envelope.body:
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


class _Refused(Exception):
    """Leaves the savepoint, which rolls back what the handler wrote."""


def name_from(source: str, message_id: str) -> str:
    """What tells a message from all others. A source may be a URI, and an id may hold slashes."""
    return f"{quote(source, safe='')}/{message_id}"


def _reaction_key(name: str, envelope: Envelope) -> str:
    return f"{name}/{name_from(envelope.source, envelope.id)}"


def _parked_id(channel: str, source: str, message_id: str) -> str:
    return f"{channel}/{name_from(source, message_id)}"


def describe(error: Exception) -> str:
    """An error in one line for the record. Never the whole traceback, which may hold secrets."""
    said = f"{type(error).__name__}: {explain(error)}"[:500]
    return said.replace("\0", "\\0")  # which PostgreSQL takes for the end of a text
