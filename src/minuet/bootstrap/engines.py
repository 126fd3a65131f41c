"""What orchestrates the sagas: our own orchestrator, or Temporal. Knows both sides: the runtime's, and the engine's.

On Temporal the orchestrator is still a place with a store. It hears what begins sagas, keeps that as an entry of its
inbox, and doing such an entry means telling Temporal; so nothing is lost while Temporal is away. From there on the
saga's workflow says which commands are due, and its activities ask the participants as the orchestrator would.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from minuet.app import App, Handler, read_model_key
from minuet.bootstrap.extras import extra
from minuet.codec import attributes_to_text, envelope_from_text
from minuet.core.compile import BEGUN, Rule
from minuet.core.coordinator import decision_of, literal_of
from minuet.core.envelope import Envelope, SagaRef
from minuet.core.errors import MessageError, NotYet
from minuet.core.formula import Literal, Outcome
from minuet.core.messages import (
    Event,
    Query,
    StepRefused,
    View,
    channel_of,
    name_of,
)
from minuet.core.projection import Coordination
from minuet.core.saga import Saga
from minuet.ports import Entry, EntryState, Tx
from minuet.runtime.attempts import Performed
from minuet.runtime.gather import Gatherer
from minuet.runtime.orchestrator import Orchestrator
from minuet.runtime.performer import REACTION
from minuet.runtime.place import PAUSED_S, Place
from minuet.runtime.reactor import IS_CANCELLED, ORCHESTRATOR, Fact, Reactor, step_key
from minuet.runtime.worker import Worker
from minuet.settings import Settings

if TYPE_CHECKING:
    from minuet.adapters.temporal.engine import TemporalEngine
    from minuet.adapters.temporal.values import Deciding, Due, Refusing, Stuck, Told

log = logging.getLogger("minuet.temporal")

EMBEDDED = "embedded"
TELL = f"{REACTION}temporal"
"""Handles what Temporal has to hear. Whoever looks at the inbox sees a reaction."""


def is_embedded(settings: Settings) -> bool:
    return settings.orchestration.engine == EMBEDDED


def check(settings: Settings) -> None:
    """
    Raises:
        ConfigurationError: the engine is none that there is; says what to write.
    """
    if not is_embedded(settings):
        from minuet.adapters.temporal.address import parse

        parse(settings.orchestration.engine)


# -- hearing for Temporal ----------------------------------------------------------------------------------------------


class TellingReactor(Reactor):
    """The orchestrator's, on Temporal: what becomes known of a saga is to be told to its workflow.

    A saga that began under the embedded engine goes on there.
    """

    def made_due(self, tx: Tx, fact: Fact, known: Mapping[Literal, Envelope], envelope: Envelope) -> list[Entry]:
        # What came from outside before it began, was told to nobody.
        others = known.keys() - {fact.literal, IS_CANCELLED} - self.awaited_by(fact.saga)
        if others and all(tx.inbox.find(_tell_key(fact.ref, one)) is None for one in others):
            return super().made_due(tx, fact, known, envelope)  # it began before Temporal came
        if fact.is_awaited and BEGUN not in known:
            return []  # there is no workflow yet, and perhaps never will be
        heard = {fact.literal: envelope}
        if fact.literal == BEGUN:
            heard |= {one: known[one] for one in self.awaited_by(fact.saga) if one in known}
        return [self._entry_to_tell(fact.ref, literal, one) for literal, one in heard.items()]

    def entries_for_cancelled(self, tx: Tx, ref_name: str, ref_id: str, envelope: Envelope) -> list[Entry]:
        probe = SagaRef(ref_name, ref_id, "", Coordination.ORCHESTRATION, "")
        begun = tx.inbox.find(_tell_key(probe, BEGUN))
        if begun is None or begun.envelope.saga is None:
            return []
        return [self._entry_to_tell(begun.envelope.saga, IS_CANCELLED, envelope)]

    def _entry_to_tell(self, ref: SagaRef, literal: Literal, envelope: Envelope) -> Entry:
        # Under the saga that it is told to, which may not be the one that it answers. Nobody refuses to tell.
        told = replace(envelope, saga=ref, may_refuse=False)
        return Entry(key=_tell_key(ref, literal), handler=TELL, envelope=told, changed_at=self.clock.now())

    def _fact(self, saga: Saga, ref: SagaRef, literal: Literal) -> Sequence[Fact]:
        # Also what no rule looks at, such as the answer to the last command: the workflow waits for it.
        is_mine = ref.coordination is self.acts_in and literal in saga.rules.events
        return (Fact(saga, ref, literal),) if is_mine else ()


def _tell_key(ref: SagaRef, literal: Literal) -> str:
    return f"{TELL}/{ref.name}/{ref.id}/{literal}"


def reactor_for(settings: Settings, place: str) -> type[Reactor]:
    """What evaluates the rules of a place."""
    return Reactor if place != ORCHESTRATOR or is_embedded(settings) else TellingReactor


# -- doing what workflows ask for --------------------------------------------------------------------------------------


class ViewsAtOnce(Gatherer):
    """For a command that is no entry of an inbox: a read model that does not know yet is asked again later."""

    async def _from_read_model(self, entry: Entry, query: Query) -> View:
        key = read_model_key(type(query), {name: getattr(query, name) for name in type(query).model_fields})
        name = name_of(query)
        body = await self.store.transact(lambda tx: tx.read_models.get(name, key), reads_only=True)
        if body is None:
            raise NotYet(f"the read model of {name} has not heard of {key}", retry_after_s=1.0)
        return query.__answer__.model_validate_json(body)


class Asked:
    """Asks participants for the workflows, and keeps in the orchestrator's store what people look for there.

    Args:
        orchestrator: asks as it would without Temporal.
        place: the orchestrator's.
    """

    def __init__(self, app: App, place: Place, orchestrator: Orchestrator) -> None:
        self._app = app
        self._place = place
        self._orchestrator = orchestrator
        self._reactor = place.participant.reactor
        self._codec = place.codec
        self._clock = place.clock
        self._store = place.store
        usual = place.attempts.gatherer
        self._gatherer = ViewsAtOnce(usual.store, usual.reactor, usual.codec, usual.directory, usual.has_read_model)

    async def build(self, due: Due) -> str:
        from minuet.adapters.temporal.activities import Late

        entry = await self._entry(replace(due, body=""))
        self._check_not_paused(entry)
        if self._place.participant.is_late(entry):
            raise Late(self._place.participant.why_late(entry))
        command = await self._gatherer.command_for(entry)
        assert command is not None  # only a read model of the usual gatherer has none
        return self._codec.encode(command, time=due.at).decode()

    async def ask(self, due: Due) -> Told:
        entry = await self._entry(due)
        self._check_not_paused(entry)
        answer = await self._orchestrator.perform(entry)
        told = self._told(entry, answer)
        await self._remember(entry, answer, told.literal)
        return told

    async def refuse(self, refusing: Refusing) -> Told:
        entry = await self._entry(refusing.due)
        rule = self._rule(refusing.due)
        refusal = StepRefused(
            service=rule.service, command=name_of(rule.command), reason=refusing.reason, detail=refusing.detail
        )
        envelope = self._place.participant.envelope_for(refusal, entry, 0)
        # It never reached its participant, so nobody else publishes it.
        await self._store.transact(lambda tx: tx.outbox.add(channel_of(refusal), envelope))
        told = self._told(entry, envelope)
        await self._remember(entry, envelope, told.literal)
        return told

    async def decide(self, deciding: Deciding) -> Told:
        entry, rule = await self._entry(deciding.due), self._rule(deciding.due)
        event = decision_of(rule, deciding.reason)
        envelope = self._place.participant.envelope_for(event, entry, 0)
        await self._store.transact(lambda tx: tx.outbox.add(channel_of(event), envelope))
        told = self._told(entry, envelope)
        await self._remember(entry, envelope, told.literal)
        return told

    async def park(self, stuck: Stuck) -> None:
        entry = await self._stuck(stuck)
        entry.state, entry.error = EntryState.PARKED, stuck.why
        show = f"minuet parked show {ORCHESTRATOR}:{entry.key}"
        log.error("%s: %s needs an operator (%s): %s", ORCHESTRATOR, entry.envelope.id, show, stuck.why)
        await self._store.transact(lambda tx: tx.inbox.add(entry))
        self._place.touched(entry)

    async def unpark(self, stuck: Stuck) -> None:
        entry = await self._stuck(stuck)
        entry.state = EntryState.DONE
        await self._store.transact(lambda tx: tx.inbox.settle(entry))

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _check_not_paused(self, entry: Entry) -> None:
        if (scope := self._place.participant.paused_by(entry)) is not None:
            raise NotYet(f"{scope} is paused", retry_after_s=PAUSED_S)

    def _rule(self, due: Due) -> Rule:
        from minuet.adapters.temporal.definitions import rules_of

        rule = rules_of(due.begun.saga, due.begun.definition).rule(due.rule)
        if rule is None:
            raise MessageError(f"definition {due.begun.definition} of {due.begun.saga} has no step {due.rule}")
        return rule

    async def _entry(self, due: Due) -> Entry:
        """As the embedded orchestrator would have it in its inbox; this one is kept nowhere."""
        begun, rule = due.begun, self._rule(due)
        ref = SagaRef(begun.saga, begun.id, begun.definition, Coordination.ORCHESTRATION, rule.id)
        cause = envelope_from_text(due.cause, b"")
        is_cancelled = rule.may_refuse and await self._is_cancelled(ref)
        envelope = self._reactor.envelope_of(
            rule,
            ref,
            cause,
            at=due.at,
            body=due.body.encode(),
            is_cancelled=is_cancelled,
            saga_expires=due.saga_expires,
        )
        known = {
            Literal.parse(told.literal): envelope_from_text(told.attributes, told.body.encode()) for told in due.known
        }
        return Entry(
            key=step_key(ref), handler=envelope.type, envelope=envelope, known=known, changed_at=self._clock.now()
        )

    async def _is_cancelled(self, ref: SagaRef) -> bool:
        known = await self._store.transact(lambda tx: tx.known.of(ref.name, ref.id), reads_only=True)
        return IS_CANCELLED in known or Literal(ref.step, Outcome.ABANDONED) in known

    async def _stuck(self, stuck: Stuck) -> Entry:
        """What operators see. One who retries it has the workflow go on, and one who answers it tells everybody."""
        entry = await self._entry(stuck.due)
        entry.key = f"{entry.key}~{stuck.number}"
        # What is not built is built in the workflow's time, and not when this is retried.
        entry.envelope = replace(entry.envelope, body=entry.envelope.body or b"{}")
        return entry

    def _told(self, entry: Entry, answer: Envelope) -> Told:
        """
        Raises:
            MessageError: it is no answer to this step.
        """
        from minuet.adapters.temporal.values import Told

        event = self._codec.decode(answer)
        assert isinstance(event, Event)
        assert entry.envelope.saga is not None
        literal = literal_of(entry.envelope.saga.step, type(event))
        own = answer if answer.saga == entry.envelope.saga else replace(answer, saga=entry.envelope.saga)
        return Told(str(literal), attributes_to_text(own), own.body.decode())

    async def _remember(self, entry: Entry, answer: Envelope, literal: str) -> None:
        """What Temporal knows, for whoever looks at sagas here, and whoever waits for the end of one."""
        saga = entry.envelope.saga
        assert saga is not None
        known = replace(answer, saga=saga)
        await self._store.transact(lambda tx: tx.known.learn(saga.name, saga.id, Literal.parse(literal), known))
        done = replace(entry, state=EntryState.DONE, answer=known)
        self._place.touched(done)


# -- putting it together -----------------------------------------------------------------------------------------------


class WorkerWithTemporal(Worker):
    """The orchestrator's worker, with Temporal beside it."""

    def __init__(self, engine: TemporalEngine, like: Worker) -> None:
        super().__init__(like.place, like.relay, like.hears, like.ids, grace_s=like.grace_s)
        self._engine = engine

    async def start(self) -> None:
        await self._engine.start()
        await super().start()

    async def stop(self) -> None:
        await asyncio.gather(self._engine.stop(), super().stop())


def hand_over_to_temporal(app: App, settings: Settings, place: Place, orchestrator: Orchestrator) -> TemporalEngine:
    """Have the orchestrator's place tell Temporal what it hears. Nothing is connected yet.

    Raises:
        ConfigurationError: the engine's URL makes no sense, or the SDK is not installed.
    """
    with extra("temporal", "[orchestration] engine = temporal://..."):
        from minuet.adapters.temporal.address import API_KEY, parse
        from minuet.adapters.temporal.engine import Secrets, TemporalEngine
        from minuet.adapters.temporal.values import Begun, Told

    address = parse(settings.orchestration.engine)
    engine = TemporalEngine(
        address,
        Secrets(os.environ.get(API_KEY) or None),
        app.sagas,
        Asked(app, place, orchestrator),
        task_queue=address.task_queue or f"minuet-{app.name}",
        grace_s=settings.grace_s,
    )
    embedded = place.attempts.perform

    async def perform(entry: Entry) -> Performed:
        saga = entry.envelope.saga
        assert saga is not None
        if entry.handler == TELL:
            literal = entry.key.rpartition("/")[2]
            told = Told(literal, attributes_to_text(entry.envelope), entry.envelope.body.decode())
            await engine.tell(Begun(saga.name, saga.id, saga.definition), told)
            return ()
        if entry.key == step_key(saga):
            return await embedded(entry)  # of a saga that began before Temporal came
        await engine.retry(saga.name, saga.id, saga.step)
        return ()

    handlers = dict(place.participant.handlers)
    handlers[TELL] = Handler(ORCHESTRATOR, "tell", _never_called, Event, {}, True, ())
    place.participant.handlers = handlers
    place.attempts.perform = perform
    return engine


def _never_called(event: Event) -> None:
    raise AssertionError("what is told to Temporal is not handled here")
