"""What operators say of sagas: that one is no longer wanted, that work pauses or goes on, what came of a parked step.

In choreography these are messages like any other, which every service hears; what has been begun ends first. Everything
here runs inside a transaction.
"""

from __future__ import annotations

from minuet.core.envelope import Envelope
from minuet.core.errors import NotFound, Rejected
from minuet.core.messages import Command, Event, InstructionGiven, Refusal, SagaCancelled, channel_of, name_of
from minuet.core.operating import Scope, Verb
from minuet.core.saga import CANCELLED, Wait
from minuet.ports import Act, Entry, EntryState, Instruction, Tx
from minuet.runtime.performer import AWAITS, After, Performer
from minuet.runtime.reactor import IS_CANCELLED

A_LITTLE_S = 0.001


class Operated(Performer):
    """A performer that heeds operators."""

    # -- a saga is no longer wanted ------------------------------------------------------------------------------------

    def cancel(self, tx: Tx, event: SagaCancelled, after: After) -> bool:
        """Let everybody know that a saga is no longer wanted. False: that is known."""
        if IS_CANCELLED in tx.known.of(event.saga, event.saga_id):
            return False
        envelope = self.announce(tx, f"{event.saga}/{event.saga_id}/{CANCELLED}", event, event.saga_id)
        self.hear_cancelled(tx, envelope, event, after)
        return True

    def hear_cancelled(self, tx: Tx, envelope: Envelope, event: SagaCancelled, after: After) -> None:
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

    # -- work pauses, goes on, or is tried again now -------------------------------------------------------------------

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
            self.announce(tx, f"{verb}/{scope}/{self.ids.new()}", event, str(scope))
        self.heed(tx, event, after)
        return is_new

    def heed(self, tx: Tx, event: InstructionGiven, after: After) -> None:
        scope = Scope(saga=event.saga, saga_id=event.saga_id, service=event.service)
        # Only the orchestrator asks other services.
        if scope.service in ("", self.place) or not self.publishes:
            said = Instruction(scope=scope, verb=event.verb, at=event.at, who=event.who, why=event.why)
            if tx.instructions.keep(said):
                after.instructed.append(said)

    # -- what came of it, in the place of whoever should have done it --------------------------------------------------

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
        envelope = self.announce(tx, f"{entry.key}/{name_of(event)}", event, ref.id)
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

    def announce(self, tx: Tx, message_id: str, event: Event, saga_id: str) -> Envelope:
        """Publish an event that answers no command, in this place's name."""
        cause = Envelope(
            id=message_id, type=name_of(event), source=self.place, time=self.clock.now(), body=b"", key=saga_id
        )
        envelope = self.envelope_for(event, Entry(key=message_id, handler="", envelope=cause), 0)
        tx.outbox.add(channel_of(event), envelope)
        return envelope
