"""What minuet promises, checked from outside: at every commit, at every message, and when all is over.

Nothing here asks minuet what it thinks. It looks at the rows that were committed, at what the broker was given, and at
the saga's steps as their author wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from minuet.app import App
from minuet.core.compile import UNDO_SUFFIX, WITHIN_SUFFIX, neighbours
from minuet.core.envelope import Envelope, SagaRef
from minuet.core.messages import AwaitOutcome, Refusal, StepAbandoned, StepRefused, name_of
from minuet.core.saga import COMPENSATED, COMPLETED, Leaf, Saga, Step, Wait
from minuet.ports import Entry, EntryState, Outgoing
from minuet.runtime.performer import REACTION
from minuet.testing.simulation.database import Commit, Database

DECIDED_ONCE = "each step of a saga is decided once, and stays as it was decided"
ENTRY_STAYS = "what an inbox says is done stays as it is"
FINAL_STAYS = "a final state never changes"
EFFECTS_AGREE = "a final state says what was done"
STEPS_IN_ORDER = "a step begins when all steps before it succeeded, and those that are waited for were accepted"
UNDOS_IN_ORDER = "a step is undone when everything that was built on it is undone"
UNDONE_FOR_A_REASON = "only what succeeded is undone, and only after a refusal"
FENCED = "whoever lost an entry to somebody else writes nothing to it"
NO_GHOSTS = "no message without its commit"
NONE_LOST = "every committed message is published"
KEY_ORDER = "messages of one key are published in the order of their commits"
PARKED_WITH_REASON = "what is parked says why"
NOTHING_FOREIGN_PARKED = "minuet understands its own messages"
ALL_END = "once nothing goes wrong any more, every saga ends or needs an operator for a reason"
ALL_EMPTY = "once nothing goes wrong any more, nothing is left in an outbox, an inbox or a queue"
NOTHING_UNSEEN = "no task fails unseen"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a participant decided about a step."""

    kind: str
    body: bytes
    service: str
    is_refusal: bool


@dataclass(slots=True)
class SagaRecord:
    """A saga, as the participants' databases tell.

    Attributes:
        decisions: by rule: a step's name, the same with ``/undo``, ``completed`` or ``compensated``.
        began: the rules whose command somebody has in his inbox, not decided yet.
    """

    name: str
    id: str
    definition: str
    decisions: dict[str, Decision] = field(default_factory=dict)
    began: set[str] = field(default_factory=set)

    @property
    def end(self) -> str | None:
        return next((one for one in (COMPLETED, COMPENSATED) if one in self.decisions), None)

    def succeeded(self, step: str) -> bool:
        found = self.decisions.get(step)
        return found is not None and not found.is_refusal

    def refused(self, step: str) -> bool:
        found = self.decisions.get(step)
        return found is not None and found.is_refusal

    def undone(self, step: str) -> bool:
        return step + UNDO_SUFFIX in self.decisions

    def completed(self, leaf: Leaf) -> bool:
        """Whether what comes after it may begin."""
        if isinstance(leaf, Step) and not self.succeeded(leaf.name):
            return False
        return (isinstance(leaf, Step) and leaf.within is None) or self.succeeded(_watch_of(leaf))

    def abandoned(self, leaf: Leaf) -> bool:
        return self.refused(_watch_of(leaf))

    def remains(self, leaf: Leaf) -> bool:
        """Whether something that could be undone is done."""
        if isinstance(leaf, Wait):
            return False
        return leaf.undo_command is not None and self.succeeded(leaf.name) and not self.undone(leaf.name)


def _watch_of(leaf: Leaf) -> str:
    return leaf.name + WITHIN_SUFFIX if isinstance(leaf, Step) else leaf.name


Broken = tuple[str, str]
"""A promise, and in which way it was broken."""


class Promises:
    """Attributes:
    sagas: by name and id.
    """

    def __init__(self, *apps: App) -> None:
        every = [saga for app in apps for saga in app.sagas]
        self._definitions = {(saga.name, saga.fingerprint): saga for saga in every}
        self.sagas: dict[tuple[str, str], SagaRecord] = {}
        self._refusals = {name_of(StepRefused), name_of(StepAbandoned)} | {
            name_of(answer)
            for saga in every
            for rule in saga.rules.every
            for answer in rule.command.__contract__.answers
            if issubclass(answer, Refusal)
        }
        self._committed: dict[tuple[str, int], tuple[str, str]] = {}
        self._kept: set[tuple[str, int]] = set()
        self._last_of_key: dict[tuple[str, str, str], int] = {}
        self._neighbours = {saga.fingerprint: neighbours(saga.root) for saga in every}

    # -- at each commit ------------------------------------------------------------------------------------------------

    def after(self, commit: Commit, database: Database) -> Iterator[Broken]:
        """What this commit breaks."""
        for outgoing in commit.outgoing:
            self._committed[commit.service, outgoing.position] = (outgoing.envelope.id, commit.instance)
            for ref in outgoing.envelope.begins:
                self._saga(ref)
        for before, now in commit.entries:
            yield from self._entry(commit, database, before, now)

    def _entry(self, commit: Commit, database: Database, before: Entry | None, now: Entry) -> Iterator[Broken]:
        what = f"{commit.service}: {now.key}"
        if before is not None and before.state is EntryState.DONE:
            if now.state is not before.state or _said(now.answer) != _said(before.answer):
                yield ENTRY_STAYS, f"{what} was {_in_words(before)} and is now {_in_words(now)}"
        elif before is not None and before.state is EntryState.DUE and before.owner not in (None, commit.instance):
            assert before.owner is not None
            if not database.is_gone(before.owner) and not _is_anybodys(before, now):
                yield FENCED, f"{what} belongs to {before.owner}, who lives, and {commit.instance} has written it"
        if now.state is EntryState.PARKED and not now.error:
            yield PARKED_WITH_REASON, f"{what} is parked without a word"
        if now.envelope.saga is not None and not now.key.startswith(REACTION):
            saga = self._saga(now.envelope.saga)
            yield from self._step(commit, saga, now.envelope.saga.step, before, now)

    def _step(self, commit: Commit, saga: SagaRecord, rule: str, before: Entry | None, now: Entry) -> Iterator[Broken]:
        definition = self._definitions.get((saga.name, saga.definition))
        name = f"{saga.name} {saga.id}"
        if definition is None:
            return
        if before is None and rule not in saga.decisions and rule not in saga.began:
            yield from self._begins(definition, saga, rule, name)
        if now.state is EntryState.DONE and now.answer is not None:
            if before is None or before.state is not EntryState.DONE:
                yield from self._decided(commit, definition, saga, rule, name, now.answer)
        elif now.state is EntryState.DONE:
            saga.began.discard(rule)  # it waited, and there was nothing left to decide
        elif rule not in saga.decisions:
            saga.began.add(rule)

    def _begins(self, definition: Saga, saga: SagaRecord, rule: str, name: str) -> Iterator[Broken]:
        around = self._neighbours[definition.fingerprint]
        if saga.end is not None and rule != saga.end and not _is_of_abandoned(definition, saga, rule):
            yield FINAL_STAYS, f"{name} is {saga.end}, and {rule} begins"
        if rule in around:
            missing = [one.name for one in around[rule].before if not saga.completed(one)]
            if missing:
                yield STEPS_IN_ORDER, f"{name}: {rule} begins, though {', '.join(missing)} has not succeeded"
        elif rule.endswith(UNDO_SUFFIX):
            step = rule.removesuffix(UNDO_SUFFIX)
            if not saga.succeeded(step):
                yield UNDONE_FOR_A_REASON, f"{name}: {step} is to be undone and has not succeeded"
            if not any(one.is_refusal for one in saga.decisions.values()):
                yield UNDONE_FOR_A_REASON, f"{name}: {step} is to be undone, and nobody has refused"
            left = [one.name for one in around[step].after if saga.remains(one) and not saga.abandoned(one)]
            if left:
                yield UNDOS_IN_ORDER, f"{name}: {step} is to be undone, but {', '.join(left)} is not yet"

    def _decided(
        self, commit: Commit, definition: Saga, saga: SagaRecord, rule: str, name: str, answer: Envelope
    ) -> Iterator[Broken]:
        decision = Decision(answer.type, answer.body, commit.service, answer.type in self._refusals)
        known = saga.decisions.get(rule)
        if known is None:
            saga.decisions[rule] = decision
            saga.began.discard(rule)
            if rule in (COMPLETED, COMPENSATED):
                yield from self._ended(definition, saga, rule, name)
        elif (known.kind, known.body) != (decision.kind, decision.body):
            yield (
                DECIDED_ONCE,
                f"{name}: {rule} was decided by {known.service} as {known.kind} {_text(known.body)}, and by "
                f"{decision.service} as {decision.kind} {_text(decision.body)}",
            )

    def _ended(self, definition: Saga, saga: SagaRecord, end: str, name: str) -> Iterator[Broken]:
        other = COMPENSATED if end == COMPLETED else COMPLETED
        if other in saga.decisions:
            yield FINAL_STAYS, f"{name} was {other} and is now {end}"
        yield from self._effects(definition, saga, end, name)

    def _effects(
        self, definition: Saga, saga: SagaRecord, end: str, name: str, *, is_over: bool = False
    ) -> Iterator[Broken]:
        for step in definition.leaves:
            # What was abandoned may come to its end later than the saga.
            may_be_open = saga.abandoned(step) and not is_over
            is_open = step.name in saga.began or step.name + UNDO_SUFFIX in saga.began
            if is_open and not may_be_open:
                yield EFFECTS_AGREE, f"{name} is {end}, and {step.name} is still under way"
            elif end == COMPLETED and (not saga.completed(step) or saga.undone(step.name)):
                yield EFFECTS_AGREE, f"{name} is completed, and {step.name} is not done"
            elif end == COMPENSATED and saga.remains(step) and not may_be_open:
                yield EFFECTS_AGREE, f"{name} is compensated, and {step.name} is not undone"

    def _saga(self, ref: SagaRef) -> SagaRecord:
        return self.sagas.setdefault((ref.name, ref.id), SagaRecord(ref.name, ref.id, ref.definition))

    # -- at each message -----------------------------------------------------------------------------------------------

    def published(self, message: Outgoing, *, ordered: bool) -> Iterator[Broken]:
        """What it breaks that the broker keeps this message."""
        source, key = message.envelope.source, message.envelope.key
        place = (source, message.position)
        what = f"{source}: {message.envelope.type} {message.envelope.id}"
        committed, instance = self._committed.get(place, ("", ""))
        if committed != message.envelope.id:
            yield NO_GHOSTS, f"{what} was published, and is in no commit"
        if place in self._kept:
            return
        self._kept.add(place)
        if ordered and key:
            last = self._last_of_key.get((source, instance, key), 0)
            if message.position < last:
                yield KEY_ORDER, f"{what} (number {message.position}) comes after number {last}"
            self._last_of_key[source, instance, key] = message.position

    # -- when all is over ----------------------------------------------------------------------------------------------

    def at_the_end(self, parked: Mapping[tuple[str, str], str]) -> Iterator[Broken]:
        """What is broken when nothing more will happen.

        Args:
            parked: why sagas need an operator, by name and id.
        """
        for (service, position), (envelope_id, _) in self._committed.items():
            if (service, position) not in self._kept:
                yield NONE_LOST, f"{service}: {envelope_id} (number {position}) was never published"
        for key, saga in self.sagas.items():
            definition = self._definitions.get((saga.name, saga.definition))
            if definition is not None and key not in parked:
                yield from self._at_its_end(definition, saga)

    def _at_its_end(self, definition: Saga, saga: SagaRecord) -> Iterator[Broken]:
        name = f"{saga.name} {saga.id}"
        end = self._end_of(definition, saga)
        if end is None:
            decided = ", ".join(f"{rule} {one.kind}" for rule, one in saga.decisions.items()) or "nothing"
            yield ALL_END, f"{name} has not ended; decided is {decided}"
            return
        yield from self._effects(definition, saga, end, name, is_over=True)
        for later in (COMPLETED, COMPENSATED):
            if later in saga.decisions and later != end:
                yield FINAL_STAYS, f"{name} is {end} and {later}"

    def end_of(self, saga: SagaRecord) -> str | None:
        """How it ended, if it has; also where no command says so."""
        definition = self._definitions.get((saga.name, saga.definition))
        return None if definition is None else self._end_of(definition, saga)

    @staticmethod
    def _end_of(definition: Saga, saga: SagaRecord) -> str | None:
        if saga.end is not None:
            return saga.end
        if saga.began:
            return None
        if all(map(saga.completed, definition.leaves)):
            return COMPLETED if definition.completed is None else None
        if any(saga.refused(leaf.name) or saga.abandoned(leaf) for leaf in definition.leaves):
            left = any(map(saga.remains, definition.steps))
            return COMPENSATED if definition.compensated is None and not left else None
        return None


def _is_anybodys(before: Entry, now: Entry) -> bool:
    """Whether another instance may decide it: all it does is wait, or its time has not come and it is refused."""
    if now.state is not EntryState.DONE:
        return False
    is_planned = not before.attempts and not before.error and before.due_at > now.changed_at
    is_refused = now.answer is not None and now.answer.type == name_of(StepRefused)
    return before.handler == name_of(AwaitOutcome) or (is_planned and is_refused)


def _is_of_abandoned(definition: Saga, saga: SagaRecord, rule: str) -> bool:
    name = rule.partition("/")[0]
    return any(leaf.name == name and saga.abandoned(leaf) for leaf in definition.leaves)


def _said(answer: Envelope | None) -> tuple[str, bytes] | None:
    return None if answer is None else (answer.type, answer.body)


def _in_words(entry: Entry) -> str:
    return f"{entry.state} ({entry.answer.type if entry.answer else 'no answer'})"


def _text(body: bytes) -> str:
    return body.decode(errors="replace")
