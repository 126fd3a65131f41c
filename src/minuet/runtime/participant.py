"""The ways in: messages of a transport, commands of a caller; and words of an operator, see `minuet.runtime.operated`.

A rule of this place, a call over HTTP, a message of a broker: each becomes an entry of the inbox, known by its key, and
what follows is the same for all: see `minuet.runtime.performer`. Everything here runs inside a transaction.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from urllib.parse import quote

from minuet.app import Handler, ReadModel
from minuet.codec import HOPS_MAX, STRANGER, Codec, digest_of, remember, view_to_bytes
from minuet.core.compile import BEGUN
from minuet.core.envelope import Envelope, SagaRef
from minuet.core.errors import Conflict, MessageError, MinuetBug, Rejected
from minuet.core.messages import (
    Command,
    Event,
    InstructionGiven,
    Message,
    SagaCancelled,
    StepRefused,
    channel_of,
    name_of,
)
from minuet.core.saga import BEGIN
from minuet.ports import (
    Clock,
    Delivery,
    Entry,
    EntryState,
    Ids,
    LooksAt,
    ParkedMessage,
    Subscription,
    Tx,
)
from minuet.runtime.answers import Answers
from minuet.runtime.operated import Operated
from minuet.runtime.performer import AWAITS, DEPTH_MAX, REACTION, After, describe
from minuet.runtime.reactor import Reactor, business_key, step_key

log = logging.getLogger("minuet.participant")

MISTAKES = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, MinuetBug)
"""They would be made again, for ever, each time the message comes."""


class Participant(Operated):
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
        self._answers = Answers(reactor, codec)
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
            except MISTAKES as error:  # what a handler raises is caught closer to it, so this is minuet's own
                log.exception("%s: a bug: cannot take in a message on %s; it is parked", self.place, delivery.channel)
                mine = After()
                self._park(tx, delivery, f"minuet cannot take it in, which is a bug: {describe(error)}")
            except Exception as error:  # the store
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
            self.hear_cancelled(tx, envelope, event, after)
            return
        if isinstance(event, InstructionGiven):
            self.heed(tx, event, after)
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

    def _hear_answer(self, tx: Tx, envelope: Envelope, event: Event, after: After) -> None:
        """What a participant that was asked by a message has decided, whichever of us asked it.

        Raises:
            MessageError: it is no answer to what was asked, or contradicts the one that was given.
        """
        ref = self._answers.step_of(envelope, event)
        if ref is None:
            return
        entry = tx.inbox.find(step_key(ref))
        self._answers.check(tx, ref, entry, event)
        if entry is None or entry.state is EntryState.DONE:
            return
        entry.state, entry.changed_at = EntryState.DONE, self.clock.now()
        entry.answer = envelope if envelope.saga == ref else replace(envelope, saga=ref)
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
        envelope = self.announce(tx, f"{begins[0].name}/{begins[0].id}/{BEGIN}", event, begins[0].id)
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
