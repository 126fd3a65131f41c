"""The ways in: messages of a transport, commands of a caller, words of an operator.

A rule of this place, a call over HTTP, a message of a broker: each becomes an entry of the inbox, known by its key, and
what follows is the same for all: see `minuet.runtime.performer`. Everything here runs inside a transaction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from urllib.parse import quote

from minuet.app import Handler, ReadModel
from minuet.codec import HOPS_MAX, STRANGER, Codec, digest_of, remember, view_to_bytes
from minuet.core.compile import BEGUN
from minuet.core.coordinator import literal_of
from minuet.core.envelope import Envelope, SagaRef
from minuet.core.errors import Conflict, MessageError, NotFound, Rejected
from minuet.core.formula import Literal, Outcome
from minuet.core.messages import (
    Command,
    Event,
    InstructionGiven,
    Message,
    Refusal,
    SagaCancelled,
    StepRefused,
    channel_of,
    name_of,
)
from minuet.core.operating import Scope, Verb
from minuet.core.saga import BEGIN, CANCELLED, Wait
from minuet.ports import (
    Act,
    Clock,
    Delivery,
    Entry,
    EntryState,
    Ids,
    Instruction,
    LooksAt,
    ParkedMessage,
    Subscription,
    Tx,
)
from minuet.runtime.performer import AWAITS, DEPTH_MAX, REACTION, After, Performer, describe
from minuet.runtime.reactor import IS_CANCELLED, Reactor, business_key, step_key

A_LITTLE_S = 0.001
EITHER = {Outcome.SUCCEEDED: Outcome.REFUSED, Outcome.REFUSED: Outcome.SUCCEEDED}
"""What a step's participant decides between; for each, what it then cannot say."""


class Participant(Performer):
    """The synchronous half of a place: everything that happens inside a transaction.

    Args:
        read_models: those that are kept here.
        publishes, body_bytes_max: as for `Performer`.
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
        super().__init__(reactor, codec, clock, ids, handlers, publishes=publishes, body_bytes_max=body_bytes_max)
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

    def read(self, delivery: Delivery) -> Delivery:
        """The delivery with its envelope, if it can be read."""
        if delivery.envelope is not None:
            return delivery
        try:
            return replace(delivery, envelope=self._envelope_of(delivery))
        except Exception:  # `take_in` says why
            return delivery

    def take_in_looks_at(self, deliveries: Sequence[Delivery]) -> LooksAt:
        """What `take_in` is going to look at, as far as that can be said beforehand."""
        keys: list[str] = []
        sagas: list[tuple[str, str]] = []
        for delivery in deliveries:
            envelope = delivery.envelope
            if envelope is None:
                continue
            with suppress(Exception):  # `take_in` says what is wrong with it
                event = self.codec.decode(envelope)
                if isinstance(event, Command):
                    keys += self.accept_looks_at(envelope, "").keys
                elif isinstance(event, Event):
                    sagas += [(fact.ref.name, fact.ref.id) for fact in self.reactor.facts(envelope, event)]
                    keys += [_reaction_key(name, envelope) for name, _ in self._reactions.get(envelope.type, ())]
                    if not self.publishes and envelope.saga is not None:
                        keys.append(step_key(envelope.saga))
        return LooksAt(keys, sagas)

    def accept_looks_at(self, envelope: Envelope, key: str) -> LooksAt:
        """What `accept` is going to look at."""
        try:
            command = self.codec.decode(envelope)
            assert isinstance(command, Command)
            main, alias = self._keys_of(envelope, command, key)
        except Exception:  # `accept` says why
            return LooksAt()
        return LooksAt((main, alias) if alias else (main,), self._learns_of(envelope.saga))

    def outcome_looks_at(self, entry: Entry) -> LooksAt:
        """What recording the outcome of an entry is going to look at."""
        return LooksAt((), self._learns_of(entry.envelope.saga))

    def _learns_of(self, saga: SagaRef | None) -> Sequence[tuple[str, str]]:
        return [(saga.name, saga.id)] if saga is not None and saga.coordination is self.reactor.acts_in else ()

    def _keys_of(self, envelope: Envelope, command: Command, key: str) -> tuple[str, str]:
        """Of a command's entry, and of the one that remembers the caller's key, if that is another."""
        asked = _asked(envelope, key)
        main = business_key(command) or (step_key(envelope.saga) if envelope.saga else asked or f"once/{envelope.id}")
        return main, asked if envelope.saga is None and asked != main else ""

    def hear_again(self, tx: Tx, delivery: Delivery, after: After) -> None:
        """Take in a message that was parked.

        Raises:
            MessageError: it would be parked again.
        """
        self._take_in_one(tx, delivery, after)

    def has_heard(self, tx: Tx, envelope: Envelope) -> bool:
        """Whether nothing would come of hearing this event: it is known here, or parked, or of no interest."""
        event = self.codec.decode(envelope)
        assert isinstance(event, Event)
        if not self.subscription.wants(channel_of(event), envelope):
            return True
        if tx.parked.get(_parked_id(channel_of(event), envelope.source, envelope.id)) is not None:
            return True
        facts = [
            fact
            for fact in self.reactor.facts(envelope, event)
            if not fact.is_awaited or self.reactor.of_whom(fact, tx.known.of(fact.ref.name, fact.ref.id)) is not None
        ]
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
            envelope = delivery.envelope or self._envelope_of(delivery)
            return envelope, self.codec.decode(envelope)
        except MessageError:
            raise
        except Exception as error:  # an upcast that raises, or worse: it would raise again, for ever
            raise MessageError(f"a message on {delivery.channel} cannot be read: {describe(error)}") from error

    def _envelope_of(self, delivery: Delivery) -> Envelope:
        return self.codec.envelope_of(
            delivery.attributes, delivery.body, channel=delivery.channel, now=self.clock.now()
        )

    def _hear(self, tx: Tx, envelope: Envelope, event: Event, after: After) -> None:
        if isinstance(event, SagaCancelled):
            self._hear_cancelled(tx, envelope, event, after)
            return
        if isinstance(event, InstructionGiven):
            self._heed(tx, event, after)
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
        envelope = self._announce(tx, f"{event.saga}/{event.saga_id}/{CANCELLED}", event, event.saga_id)
        self._hear_cancelled(tx, envelope, event, after)
        return True

    def _hear_cancelled(self, tx: Tx, envelope: Envelope, event: SagaCancelled, after: After) -> None:
        """Refuse what was not begun, or have its participant refuse it."""
        if tx.known.learn(event.saga, event.saga_id, IS_CANCELLED, envelope) is None:
            return
        for entry in tx.records.entries_of(event.saga, event.saga_id):
            if entry.state is not EntryState.DUE or not entry.envelope.may_refuse or entry.envelope.cancelled:
                continue
            if entry.handler == AWAITS:
                self._decide(tx, entry, after)
            else:
                self._mark_cancelled(tx, entry, after)
        for entry in self.reactor.entries_for_cancelled(tx, event.saga, event.saga_id, envelope):
            self._begin(tx, entry, after)

    def _hear_answer(self, tx: Tx, envelope: Envelope, event: Event, after: After) -> None:
        """What a participant that was asked by a message has decided, whichever of us asked it.

        Raises:
            MessageError: it is no answer to what was asked, or contradicts the one that was given.
        """
        ref = self._answers(envelope, event)
        if ref is None:
            return
        entry = tx.inbox.find(step_key(ref))
        self._check_heard(tx, ref, entry, event)
        if entry is None or entry.state is EntryState.DONE:
            return
        entry.state, entry.changed_at = EntryState.DONE, self.clock.now()
        entry.answer = envelope if envelope.saga == ref else replace(envelope, saga=ref)
        entry.waits_for, entry.error = None, event.reason if isinstance(event, StepRefused) else ""
        if tx.inbox.settle(entry):
            after.decided.append(entry)

    def _answers(self, envelope: Envelope, event: Event) -> SagaRef | None:
        """Which step of a saga that is orchestrated here the event answers, if it does."""
        ref = envelope.saga
        if ref is not None:
            is_ours = ref.name in self.reactor.app.current_sagas and ref.coordination is self.reactor.acts_in
            return ref if is_ours else None
        # It names no step. The rules take it for the answer of the only one that it can be, so this is answered by it.
        facts = [one for one in self.reactor.facts(envelope, event) if one.literal != BEGUN and not one.is_awaited]
        if not facts:
            return None
        fact = facts[0]
        rules = (
            one for one in fact.saga.rules.every if fact.literal in (one.answered, Literal(one.id, Outcome.REFUSED))
        )
        rule = next(rules, None)
        return None if rule is None else replace(fact.ref, step=rule.id)

    def _check_heard(self, tx: Tx, ref: SagaRef, entry: Entry | None, event: Event) -> None:
        """What is said by a message is believed no more than what is said over HTTP.

        Raises:
            MessageError
        """
        rule = self.reactor.rule_of(ref)
        name, command = name_of(event), name_of(rule.command)
        if not isinstance(event, (*rule.command.__contract__.answers, StepRefused)):
            raise MessageError(f"{rule.service} answered {command} with {name!r}, which it does not declare")
        literal = literal_of(ref.step, type(event))  # raises if an undo is refused
        if isinstance(event, Refusal) and not rule.may_refuse:
            raise MessageError(f"{rule.service} refused {command} with {name}, which cannot be refused any more")
        if entry is not None and entry.state is EntryState.DUE:
            self._check_same_business(entry, event)
        else:
            self._check_not_taken_back(tx, ref, entry, literal, event)

    def _check_same_business(self, entry: Entry, event: Event) -> None:
        asked = self.codec.decode(entry.envelope) if entry.envelope.body else None
        for name in asked.__contract__.key if isinstance(asked, Command) else ():
            mine, theirs = getattr(asked, name), getattr(event, name, None)
            if mine == entry.envelope.key and isinstance(theirs, str) and theirs != mine:
                raise MessageError(
                    f"{name_of(event)} answers {entry.key}: its {name} is another than the one asked about"
                )

    def _check_not_taken_back(self, tx: Tx, ref: SagaRef, entry: Entry | None, literal: Literal, event: Event) -> None:
        """The first answer counts. Both together would have the saga go on and undo what it did."""
        first = entry.answer if entry is not None else None
        if first is None:  # on Temporal there are no entries of what is asked; there all that is said becomes known
            opposite = Literal(literal.step, EITHER[literal.outcome]) if literal.outcome in EITHER else None
            first = tx.known.of(ref.name, ref.id).get(opposite) if opposite else None
        elif literal_of(ref.step, self.codec.type_of(first)) == literal:  # type: ignore[arg-type]
            first = None
        if first is not None:
            raise MessageError(
                f"{name_of(event)} contradicts {step_key(ref)}, which it had answered with {first.type}; the first "
                "answer counts"
            )

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

    def instruct(self, tx: Tx, scope: Scope, verb: Verb, act: Act, after: After) -> bool:
        """Let everybody know that work pauses, goes on, or is tried again now. False: that it does already.

        What was said before is told once more all the same, for whoever has not heard it.
        """
        last = tx.instructions.last(scope, verb)
        now = self.clock.now()
        if last is None or last.verb is not verb or verb is Verb.RETRY:
            # Later than what is known, whatever this machine's clock says: who speaks now knows of it.
            at = max(now, last.at + A_LITTLE_S) if last else now
            is_new = not (last is None and verb is Verb.RESUME)
            last = Instruction(scope=scope, verb=verb, at=at, who=act.who, why=act.why)
        else:
            is_new = False
        event = InstructionGiven(
            verb=verb,
            saga=scope.saga,
            saga_id=scope.saga_id,
            service=scope.service,
            at=last.at,
            who=last.who,
            why=last.why,
        )
        if self.reactor.app.sagas:  # else there is nobody whom it would concern
            self._announce(tx, f"{verb}/{scope}/{self.ids.new()}", event, str(scope))
        self._heed(tx, event, after)
        return is_new

    def _heed(self, tx: Tx, event: InstructionGiven, after: After) -> None:
        scope = Scope(saga=event.saga, saga_id=event.saga_id, service=event.service)
        # Only the orchestrator asks other services.
        if scope.service in ("", self.place) or not self.publishes:
            said = Instruction(scope=scope, verb=event.verb, at=event.at, who=event.who, why=event.why)
            if tx.instructions.keep(said):
                after.instructed.append(said)

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
        envelope = self._announce(tx, f"{begins[0].name}/{begins[0].id}/{BEGIN}", event, begins[0].id)
        self.reactor.remember_begun(tx, envelope)
        self._learn(tx, envelope, event, after)
        return True

    def _announce(self, tx: Tx, message_id: str, event: Event, saga_id: str) -> Envelope:
        """Publish an event that answers no command, in this place's name."""
        cause = Envelope(
            id=message_id, type=name_of(event), source=self.place, time=self.clock.now(), body=b"", key=saga_id
        )
        envelope = self.envelope_for(event, Entry(key=message_id, handler="", envelope=cause), 0)
        tx.outbox.add(channel_of(event), envelope)
        return envelope

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
        if envelope.type not in self.handlers or envelope.type == AWAITS:
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
        main, alias = self._keys_of(envelope, command, key)
        after = After(depth=DEPTH_MAX if apart else 0)
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
        elif entry.digest != digest if main == _asked(envelope, key) else not self._is_same(entry, command):
            raise Conflict(f"{main} was asked before with other content; nothing was done")
        elif entry.state is EntryState.DONE and envelope.saga is not None:
            self._answer_again(tx, entry, envelope, after)
        elif entry.state is EntryState.DUE and envelope.cancelled and not entry.envelope.cancelled:
            entry = self._mark_cancelled(tx, entry, after)
        if alias:
            # Only the digest counts: the outcome is found under the main key.
            tx.inbox.add(
                Entry(key=alias, handler=envelope.type, envelope=envelope, digest=digest, state=EntryState.DONE)
            )
        return entry, after

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

    # -- what an operator says -----------------------------------------------------------------------------------------

    def answer_for(self, tx: Tx, key: str, event: Event | None, after: After) -> Entry:
        """Record what came of a parked entry, as an operator says, in the place of whoever should have done it.

        What is waited for from outside is answered with that event, or the one that means no; it need not be parked.

        It is published and has its consequences like any answer; what the handler would have written is not written,
        but for what its ``on_outcome`` does.

        Args:
            event: the answer; None for a reaction, which owes none.

        Raises:
            NotFound: nothing is parked under that key.
            Rejected: this is no answer that the command may have.
        """
        entry = tx.inbox.find(key)
        if entry is not None and entry.handler == AWAITS and entry.state is EntryState.DUE:
            self._answer_wait(tx, entry, event, after)
            return entry
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

    def _answer_wait(self, tx: Tx, entry: Entry, event: Event | None, after: After) -> None:
        """Say in the place of the outside what is waited for; it is published like any other event."""
        ref = entry.envelope.saga
        assert ref is not None
        watch = self.reactor.rule_of(ref).watch
        assert watch is not None
        if not isinstance(watch.of, Wait):
            raise Rejected(
                f"{entry.key} waits for the outcome of step {watch.of.name}; answer that one, or cancel the saga"
            )
        expected = [one for one in (watch.of.event, watch.of.refused_by) if one is not None]
        if event is None or type(event) not in expected:
            names = " or ".join(map(name_of, expected))
            raise Rejected(f"{entry.key} waits for {names}, not for {name_of(event) if event else 'nothing'}")
        definition = self.reactor.app.saga(ref.name, ref.definition)
        about = getattr(event, definition.key, None) if definition is not None else None
        if definition is not None and about is not None and str(about) != ref.id:
            raise Rejected(f"{definition.key} is {about!r}, but this is about {ref.name} {ref.id}")
        envelope = self._announce(tx, f"{entry.key}/{name_of(event)}", event, ref.id)
        for due in self.reactor.learn(tx, envelope, event):
            self._begin(tx, due, after)

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
        ref = entry.envelope.saga
        definition = self.reactor.app.saga(ref.name, ref.definition) if ref is not None else None
        about = getattr(event, definition.key, None) if definition is not None else None
        if ref is not None and about is not None and str(about) != ref.id:
            assert definition is not None
            raise Rejected(f"{definition.key} is {about!r}, but this is about {ref.name} {ref.id}")
        if isinstance(event, Refusal) and not self._may_refuse(entry):
            raise Rejected(f"{name_of(message)} cannot be refused any more; answer that it is done, or retry it")


def name_from(source: str, message_id: str) -> str:
    """What tells a message from all others. A source may be a URI, and an id may hold slashes."""
    return f"{quote(source, safe='')}/{message_id}"


def _asked(envelope: Envelope, key: str) -> str:
    """The key of an entry that is known by what its caller called it; empty if he did not."""
    return f"ask/{envelope.type}/{key}" if key else ""


def _reaction_key(name: str, envelope: Envelope) -> str:
    return f"{name}/{name_from(envelope.source, envelope.id)}"


def _parked_id(channel: str, source: str, message_id: str) -> str:
    return f"{channel}/{name_from(source, message_id)}"
