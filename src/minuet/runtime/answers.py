"""Whether what a participant says by a message is an answer to what it was asked.

It is believed no more than what is said over HTTP: what was not declared, what is about something else and what takes
back the first answer is none.
"""

from __future__ import annotations

from dataclasses import replace

from minuet.codec import Codec
from minuet.core.compile import BEGUN
from minuet.core.coordinator import literal_of
from minuet.core.envelope import Envelope, SagaRef
from minuet.core.errors import MessageError
from minuet.core.formula import Literal, Outcome
from minuet.core.messages import Command, Event, Refusal, StepRefused, name_of
from minuet.ports import Entry, EntryState, Tx
from minuet.runtime.reactor import Reactor, step_key

EITHER = {Outcome.SUCCEEDED: Outcome.REFUSED, Outcome.REFUSED: Outcome.SUCCEEDED}
"""What a step's participant decides between; for each, what it then cannot say."""


class Answers:
    """Looks at the answers that the orchestrator hears."""

    def __init__(self, reactor: Reactor, codec: Codec) -> None:
        self.reactor = reactor
        self.codec = codec

    def step_of(self, envelope: Envelope, event: Event) -> SagaRef | None:
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

    def check(self, tx: Tx, ref: SagaRef, entry: Entry | None, event: Event) -> None:
        """Whether to believe it. ``entry`` is what was asked, if it is known here.

        Raises:
            MessageError: it is no answer to what was asked, or contradicts the one that was given.
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
