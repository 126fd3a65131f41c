"""Evaluates the rules of one place: a service's own in choreography, all of them in the orchestrator.

A place is told a message and answers with the commands that became due. What it knows is in its store; this file only
says which literals a message makes known, and under which definition and coordination.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from minuet.app import App, ReadModel
from minuet.codec import Codec, remember
from minuet.core.compile import BEGUN, Kind, Rule, refused, succeeded
from minuet.core.coordinator import infer, literal_of, newly_due
from minuet.core.envelope import Envelope, SagaRef
from minuet.core.errors import MessageError
from minuet.core.formula import Literal, Outcome
from minuet.core.messages import (
    Command,
    Event,
    InstructionGiven,
    Message,
    Query,
    SagaCancelled,
    StepRefused,
    channel_for,
    name_of,
)
from minuet.core.projection import Coordination, project
from minuet.core.saga import BEGIN, CANCELLED, Saga
from minuet.ports import Clock, Entry, Subscription, Tx

log = logging.getLogger("minuet.reactor")

ORCHESTRATOR = "orchestrator"
IS_CANCELLED = Literal(CANCELLED, Outcome.SUCCEEDED)
"""Known of a saga that somebody has cancelled. No rule looks at it: it is for those who begin what is due."""


NEVER = 253_402_300_799.0
"""When a wait is over that has no end: the last second of the year 9999."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What a message makes known, and of which saga.

    Attributes:
        is_awaited: an event from outside. It does not know under which definition the saga runs that waits for it.
    """

    saga: Saga
    ref: SagaRef
    literal: Literal
    is_awaited: bool = False


def commands_channel(service: str) -> str:
    """On which the orchestrator asks a service by messages."""
    return f"{service}.commands"


def step_key(saga: SagaRef) -> str:
    """Names a command that a rule sends: the same wherever the rule is evaluated, and however often."""
    return f"{saga.name}/{saga.id}/{saga.step}"


def business_key(command: Command) -> str:
    """Names a command by its contract's key; empty if it declares none, or leaves a part of it out."""
    values = [getattr(command, field) for field in command.__contract__.key]
    if not values or any(value is None for value in values):
        return ""
    # Of several, each is quoted: ("a/b", "c") is not ("a", "b/c").
    parts = map(str, values) if len(values) == 1 else (quote(str(value), safe="") for value in values)
    return "/".join((name_of(command), *parts))


class Reactor:
    """The rules of one place.

    Args:
        place: a service's name, or `ORCHESTRATOR`.
        coordination_of: how a saga that begins now is coordinated.
        commanded: the services that the orchestrator asks by messages, and whose answers it hears.
    """

    def __init__(
        self,
        app: App,
        codec: Codec,
        clock: Clock,
        place: str,
        coordination_of: Callable[[str], Coordination],
        commanded: Collection[str] = (),
    ) -> None:
        self.app = app
        self.codec = codec
        self.clock = clock
        self.place = place
        self.coordination_of = coordination_of
        self.commanded = frozenset(commanded)
        self.acts_in = Coordination.ORCHESTRATION if place == ORCHESTRATOR else Coordination.CHOREOGRAPHY
        self._rules: dict[str, dict[Literal, tuple[Rule, ...]]] = {
            saga.fingerprint: self._index(saga) for saga in app.sagas
        }
        self._waiting = [saga for saga in app.sagas if saga.waits]

    def _index(self, saga: Saga) -> dict[Literal, tuple[Rule, ...]]:
        mine = saga.rules.every if self.place == ORCHESTRATOR else project(saga.rules, self.place)
        literals = {literal for rule in mine for literal in rule.needs | rule.heeds}
        return {
            literal: tuple(rule for rule in mine if literal in rule.needs or literal in rule.heeds)
            for literal in literals
        }

    # -- what a message means here -------------------------------------------------------------------------------------

    def facts(self, envelope: Envelope, event: Event) -> list[Fact]:
        """What the event makes known to the rules of this place.

        Raises:
            MessageError: it belongs to a definition that nobody here has, or several steps can have caused it.
        """
        facts: list[Fact] = []
        of = envelope.saga
        for saga in self.app.current_sagas.values():
            begun = next((one for one in envelope.begins if one.name == saga.name), None) if envelope.begins else None
            if begun is not None or isinstance(event, saga.begins_with):
                facts += self._beginning(saga, begun, envelope, event)
            elif of is not None and of.name == saga.name:
                if of.coordination is self.acts_in:
                    facts += self._fact(self._definition(of), of, literal_of(of.step, type(event)))
            elif of is None and envelope.source not in self.app.services and not _waits_for(saga, event):
                # What our own services publish outside of a saga was asked for by somebody who coordinates it himself.
                facts += self._inferred(saga, envelope, event)
        if self._waiting:
            facts += self._awaited(envelope, event)
        return facts

    def _beginning(self, saga: Saga, ref: SagaRef | None, envelope: Envelope, event: Event) -> Sequence[Fact]:
        if ref is None:
            if envelope.begins or envelope.source in self.app.services:
                return ()
            ref = self.begin(saga, event)
        return self._fact(self._definition(ref), ref, BEGUN) if ref.coordination is self.acts_in else ()

    def _inferred(self, saga: Saga, envelope: Envelope, event: Event) -> Sequence[Fact]:
        mine = self._rules[saga.fingerprint]
        if not any(type(event) in saga.rules.events[literal] for literal in mine):
            return ()  # no rule here looks at it, whichever step it may have come from
        literal = infer(saga.rules, type(event))
        if literal is None:
            return ()
        # A stranger's partition key is his own affair, if the event itself says which saga it is about.
        saga_id = getattr(event, saga.key, None) or envelope.key
        if not saga_id:
            raise MessageError(f"{envelope.type} says neither {saga.key} nor ce-sagaid, so its {saga.name} is unknown")
        ref = SagaRef(saga.name, str(saga_id), saga.fingerprint, self.coordination_of(saga.name), literal.step)
        return self._fact(saga, ref, literal)

    def _awaited(self, envelope: Envelope, event: Event) -> Iterator[Fact]:
        """What it says to the sagas that wait for it, whoever has published it."""
        found: set[tuple[str, Literal]] = set()
        for saga in self._waiting:
            if envelope.saga is not None and envelope.saga.name == saga.name:
                continue
            for literal in _waits_for(saga, event):
                if literal not in self._rules[saga.fingerprint] or (saga.name, literal) in found:
                    continue
                found.add((saga.name, literal))
                saga_id = getattr(event, saga.key, None) or envelope.key
                if not saga_id:
                    raise MessageError(
                        f"{envelope.type} says neither {saga.key} nor ce-partitionkey, so nobody knows which "
                        f"{saga.name} waits for it"
                    )
                how = self.coordination_of(saga.name)
                yield Fact(saga, SagaRef(saga.name, str(saga_id), saga.fingerprint, how, literal.step), literal, True)

    def of_whom(self, fact: Fact, known: Mapping[Literal, Envelope]) -> Fact | None:
        """The awaited fact under the definition and coordination of its saga. None: it is nothing to this place.

        While nothing else is known of the saga here, nothing can be due: then it is kept if the saga will act here.
        """
        for envelope in known.values():
            for ref in (envelope.saga, *envelope.begins):
                if ref is not None and (ref.name, ref.id) == (fact.ref.name, fact.ref.id):
                    saga = self.app.saga(ref.name, ref.definition)
                    is_here = saga is not None and ref.coordination is self.acts_in
                    return replace(fact, saga=saga, ref=ref) if saga is not None and is_here else None
        return fact if fact.ref.coordination is self.acts_in else None

    def _fact(self, saga: Saga, ref: SagaRef, literal: Literal) -> Sequence[Fact]:
        is_mine = ref.coordination is self.acts_in and literal in self._rules[saga.fingerprint]
        return (Fact(saga, ref, literal),) if is_mine else ()

    def _definition(self, ref: SagaRef) -> Saga:
        saga = self.app.saga(ref.name, ref.definition)
        if saga is None:
            raise MessageError(
                f"{ref.name} {ref.id} began under definition {ref.definition}, which this app does not have; add "
                "that saga to App(sagas=...)"
            )
        return saga

    def begin(self, saga: Saga, event: Event) -> SagaRef:
        """The saga that this event begins, under today's definition and coordination."""
        return SagaRef(
            saga.name, str(getattr(event, saga.key)), saga.fingerprint, self.coordination_of(saga.name), BEGIN
        )

    def begun_by(self, event: Event) -> tuple[SagaRef, ...]:
        """Every saga that an event published here begins."""
        return tuple(
            self.begin(saga, event) for saga in self.app.current_sagas.values() if isinstance(event, saga.begins_with)
        )

    def remember_begun(self, tx: Tx, envelope: Envelope) -> None:
        """Who begins a saga knows of it, though no rule here looks at it: so it is seen before anybody else hears."""
        for ref in envelope.begins:
            looks_at_it = BEGUN in self._rules.get(ref.definition, ()) and ref.coordination is self.acts_in
            if not looks_at_it:
                tx.known.learn(ref.name, ref.id, BEGUN, envelope)

    # -- what becomes due ----------------------------------------------------------------------------------------------

    def learn(self, tx: Tx, envelope: Envelope, event: Event) -> list[Entry]:
        """Remember what the event makes known; the commands that became due by it, not yet in the inbox."""
        due: list[Entry] = []
        for fact in self.facts(envelope, event):
            if fact.is_awaited:
                found = self.of_whom(fact, tx.known.of(fact.ref.name, fact.ref.id))
                if found is None:
                    continue
                fact = found
            known = tx.known.learn(fact.ref.name, fact.ref.id, fact.literal, envelope)
            if known is not None:
                due += self.made_due(tx, fact, known, envelope)
        return due

    def made_due(self, tx: Tx, fact: Fact, known: Mapping[Literal, Envelope], envelope: Envelope) -> list[Entry]:
        """What became due by a fact that is new; and what was due and heeds it, once more."""
        rules = self._rules[fact.saga.fingerprint].get(fact.literal, ())
        return [self.entry_for(rule, fact, known, envelope) for rule in newly_due(rules, known, fact.literal)]

    def entries_for_cancelled(self, tx: Tx, saga: str, saga_id: str, envelope: Envelope) -> list[Entry]:
        """What is due because a saga was cancelled, besides what is in the inbox."""
        return []

    @staticmethod
    def awaited_by(saga: Saga) -> frozenset[Literal]:
        """What comes from outside of the saga while it runs, or before it begins."""
        return frozenset(outcome(wait) for wait in saga.waits for outcome in (succeeded, refused))

    def entry_for(self, rule: Rule, fact: Fact, known: Mapping[Literal, Envelope], cause: Envelope) -> Entry:
        """The inbox entry for a rule's command, built already unless it has a query to ask first.

        Nor if its builder raises: that is neither the fault of the message that made it due nor of the step before it,
        so it is built later, as an attempt of its own that may fail.
        """
        ref = SagaRef(fact.ref.name, fact.ref.id, fact.ref.definition, fact.ref.coordination, rule.id)
        now = self.clock.now()
        key, body, command = step_key(ref), b"", None
        if not rule.recipe.queries:
            try:
                command = rule.recipe.build(self.decoded(rule, known), {})
                body = self.codec.encode(command, time=now)
                # The orchestrator does not do it, it asks: each saga's asking is a thing of its own.
                key = (self.place != ORCHESTRATOR and business_key(command)) or key
            except Exception as error:
                log.warning("%s: cannot build %s yet: %r", self.place, key, error)
        is_cancelled = IS_CANCELLED in known or Literal(rule.id, Outcome.ABANDONED) in known
        until = self.saga_expires(fact.saga, known, cause)
        envelope = self.envelope_of(rule, ref, cause, at=now, body=body, is_cancelled=is_cancelled, saga_expires=until)
        if body and command is not None:
            remember(envelope, command)
        # A copy: what the store has at hand may get what is rolled back later.
        kept = None if body else dict(known)
        due_at = now + rule.delay.total_seconds() if rule.delay else 0.0
        if rule.watch is not None:
            due_at = min(now + rule.watch.within.total_seconds() if rule.watch.within else NEVER, until or NEVER)
        return Entry(key=key, handler=envelope.type, envelope=envelope, due_at=due_at, changed_at=now, known=kept)

    def saga_expires(self, saga: Saga, known: Mapping[Literal, Envelope], cause: Envelope) -> float | None:
        """Until when the saga may still refuse anything; None if it has no deadline."""
        if saga.deadline is None:
            return None
        begun = known.get(BEGUN)
        if begun is not None:
            return begun.time + saga.deadline.total_seconds()
        # Who does not hear how it began has it from those who do.
        found = (one.saga_expires for one in (cause, *known.values()) if one.saga_expires is not None)
        return next(found, None)

    def envelope_of(
        self,
        rule: Rule,
        ref: SagaRef,
        cause: Envelope,
        *,
        at: float,
        body: bytes,
        is_cancelled: bool,
        saga_expires: float | None = None,
    ) -> Envelope:
        """The envelope of a rule's command. ``ref`` names the rule; ``at`` is when it became due."""
        begins = at + rule.delay.total_seconds() if rule.delay else at
        ends = [begins + rule.deadline.total_seconds()] if rule.deadline else []
        if rule.may_refuse and saga_expires is not None and rule.watch is None:
            ends.append(saga_expires)
        return Envelope(
            id=step_key(ref),
            type=name_of(rule.command),
            source=self.place,
            time=at,
            body=body,
            key=ref.id,
            version=rule.command.__contract__.version,
            saga=ref,
            correlation=cause.correlation or cause.id,
            causation=cause.id,
            traceparent=cause.traceparent,
            expires=min(ends, default=None),
            saga_expires=saga_expires,
            may_refuse=rule.may_refuse,
            cancelled=rule.may_refuse and is_cancelled,
            hops=cause.hops,
        )

    def asks(self, query: type[Query]) -> bool:
        """Whether a rule of this place builds its command from the query."""
        rules = (rule for index in self._rules.values() for rules in index.values() for rule in rules)
        return any(fields.message is query for rule in rules for fields in rule.recipe.queries.values())

    def rule_of(self, ref: SagaRef) -> Rule:
        rule = self._definition(ref).rules.rule(ref.step)
        if rule is None:
            raise MessageError(f"{ref.name} {ref.id}: definition {ref.definition} has no step {ref.step}")
        return rule

    def decoded(self, rule: Rule, known: Mapping[Literal, Envelope]) -> dict[Literal, Event]:
        """The known messages that the rule's command is built from."""
        wanted = rule.recipe.needs.union(*rule.recipe.needs_any)
        return {literal: self.codec.decode(known[literal]) for literal in wanted if literal in known}  # type: ignore[misc]

    # -- what to listen to ---------------------------------------------------------------------------------------------

    def subscription(self, read_models: Iterable[ReadModel]) -> Subscription:
        """The messages that this place's rules, reactions and read models look at, by channel."""
        wanted: dict[str, dict[str, Coordination | None]] = {}

        def want(channel: str, message: type[Message], coordination: Coordination | None) -> None:
            types = wanted.setdefault(channel, {})
            name = name_of(message)
            types[name] = coordination if types.get(name, coordination) is coordination else None

        for saga in self.app.sagas:
            for literal in self._rules[saga.fingerprint]:
                is_awaited = literal in self.awaited_by(saga)
                for channel, event in self._heard(saga, literal):
                    # What comes from outside may be an answer in a saga of another kind.
                    want(channel, event, None if is_awaited else self.acts_in)
            for rule in saga.rules.every:
                for channel, message in self._asked_and_answered(rule):
                    want(channel, message, Coordination.ORCHESTRATION)
        if any(rule.may_refuse and rule.service == self.place for saga in self.app.sagas for rule in saga.rules.every):
            want(SagaCancelled.__contract__.channel, SagaCancelled, None)
        service = self.app.services.get(self.place)
        if self.app.sagas and service and (service.commands or service.reactions):
            want(InstructionGiven.__contract__.channel, InstructionGiven, None)
        for reaction in service.reactions if service else ():
            assert issubclass(reaction.message, Event)
            want(reaction.message.__contract__.channel, reaction.message, None)
        for model in read_models:
            want(model.event.__contract__.channel, model.event, None)
        return Subscription(group=self.place, wanted=wanted, understood=frozenset(self.codec.types))

    def _asked_and_answered(self, rule: Rule) -> Iterator[tuple[str, type[Message]]]:
        """What goes to and fro where the orchestrator asks by messages."""
        if rule.service not in self.commanded or rule.kind is Kind.WATCH:
            return
        if self.place == rule.service:
            yield commands_channel(rule.service), rule.command
        elif self.place == ORCHESTRATOR:
            for event in rule.command.__contract__.answers:
                yield event.__contract__.channel, event
            yield f"{rule.service}.refused", StepRefused

    def _heard(self, saga: Saga, literal: Literal) -> Iterator[tuple[str, type[Event]]]:
        # The answers to one's own commands are learnt when they are recorded, not heard over a transport.
        performer = saga.rules.teller(literal)
        if performer and self.place in (performer, ORCHESTRATOR):
            return
        for event in saga.rules.events[literal]:
            yield channel_for(event, performer), event


def _waits_for(saga: Saga, event: Event) -> list[Literal]:
    """What the event says to the waits of the saga."""
    found = [succeeded(wait) for wait in saga.waits if isinstance(event, wait.event)]
    return found + [refused(wait) for wait in saga.waits if wait.refused_by and isinstance(event, wait.refused_by)]
