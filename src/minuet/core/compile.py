"""From a saga to its rules: *formula over known messages -> command*.

Every node of a saga is compiled from two formulas: ``start``, which enables it, and ``abort``, under which it must be
undone once it is finished.

* A **step** gives ``start -> do`` and, with an undo, ``succeeded AND abort -> undo``. It is *clean*, that is nothing of
  it remains, when it was refused or undone; without an undo, when it was refused, or succeeded and is to be aborted.
* A **sequence**: each part starts when the part before is complete and is aborted when the part after it is clean (the
  last part, when the sequence is aborted). It is clean when its first part is.
* **Parallel** branches start together; each is aborted by whatever aborts the whole, or by a refusal in a sibling. The
  whole is clean when all branches are.
* A **watch** is one place that waits: for a step's outcome (``within``), or for an event from outside (`wait_for`). It
  starts with what it waits for and decides once, *accepted* or *abandoned*. What is watched is complete when it is
  accepted, and clean when it is abandoned; a watched step is undone if it succeeded and is aborted or was abandoned.

The two ends are rules too: the saga is complete, or clean. No formula contains a negation, see `minuet.core.formula`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from enum import StrEnum

from minuet.core.formula import Formula, Literal, Outcome, all_of, any_of, digest, literals
from minuet.core.messages import (
    AwaitOutcome,
    Command,
    Event,
    StepAbandoned,
    StepAccepted,
    StepRefused,
    name_of,
    refusals,
    successes,
)
from minuet.core.recipe import Fields, Recipe, Source, command_of, recipe_for
from minuet.core.retry import RetryPolicy
from minuet.core.saga import (
    BEGIN,
    COMPENSATED,
    COMPLETED,
    Action,
    Leaf,
    Node,
    ParallelOf,
    Saga,
    SequenceOf,
    Step,
    Wait,
    leaves_of,
)

BEGUN = Literal(BEGIN, Outcome.SUCCEEDED)
UNDO_SUFFIX = "/undo"
WITHIN_SUFFIX = "/within"


class Kind(StrEnum):
    DO = "do"
    UNDO = "undo"
    END = "end"
    WATCH = "watch"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watch:
    """What one place waits for, and when it stops.

    Attributes:
        of: the step, or the wait.
        decider: the service that decides in choreography.
        hopeless: under which nothing would come of it: a branch beside it was refused. Only a wait looks at it; a step
            that is under way comes to an end by itself.
    """

    of: Leaf
    decider: str
    hopeless: Formula

    @property
    def is_wait(self) -> bool:
        return isinstance(self.of, Wait)

    @property
    def within(self) -> timedelta | None:
        return self.of.within

    @property
    def heeds(self) -> frozenset[Literal]:
        """What may end it."""
        outcomes = {succeeded(self.of)}
        if isinstance(self.of, Step) or self.of.refused_by is not None:
            outcomes.add(refused(self.of))
        return frozenset(outcomes) | literals(self.hopeless)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rule:
    """When the formula holds, the command is due, once for each saga.

    Attributes:
        id: the step's name, with ``/undo`` for its undo and ``/within`` for its watch; a wait's name; for an end
            ``completed`` or ``compensated``. It is what the envelope of the command, and of its answer, carries as the
            step.
        may_refuse: whether a refusal is still possible here. If not, the command is retried until done.
        needs: every message that the rule looks at: those that decide, and those that fill the command.
        heeds: messages that do not make it due, but change what becomes of it once it is: for a step that is watched
            its being abandoned, for a watch what may end it.
        delay: the command is due only so long after the formula holds.
        watch: what is waited for, if that is all there is to do.
    """

    id: str
    kind: Kind
    formula: Formula
    recipe: Recipe
    needs: frozenset[Literal]
    retry: RetryPolicy | None
    deadline: timedelta | None = None
    may_refuse: bool = False
    heeds: frozenset[Literal] = frozenset()
    delay: timedelta | None = None
    watch: Watch | None = None

    @property
    def command(self) -> type[Command]:
        return self.recipe.command

    @property
    def service(self) -> str:
        """Who performs the command, or waits; in choreography also who evaluates the rule."""
        return self.watch.decider if self.watch else self.command.__contract__.service

    @property
    def answered(self) -> Literal:
        """What the command's success makes known."""
        return accepted(self.watch.of) if self.watch else success_of(self.id)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rules:
    """A compiled saga.

    Attributes:
        events: for each literal, the events one of which makes it known.
        complete: holds when every step succeeded. clean: when nothing remains of any step.
        deadline: of the saga, from its beginning.
    """

    every: tuple[Rule, ...]
    events: Mapping[Literal, tuple[type[Event], ...]]
    complete: Formula
    clean: Formula
    fingerprint: str
    deadline: timedelta | None = None

    def rule(self, rule_id: str) -> Rule | None:
        return next((rule for rule in self.every if rule.id == rule_id), None)

    @property
    def waits_s(self) -> float:
        """How long its delays and watches take together, at most, in seconds; a wait without an end takes none."""
        waits = (rule.watch.within if rule.watch else rule.delay for rule in self.every)
        return sum(one.total_seconds() for one in waits if one is not None)

    def teller(self, literal: Literal) -> str:
        """The service whose message makes the literal known; empty for what comes from outside."""
        match literal.outcome:
            case Outcome.UNDONE:
                found = self.rule(literal.step + UNDO_SUFFIX)
            case Outcome.ACCEPTED | Outcome.ABANDONED:
                found = self.rule(literal.step + WITHIN_SUFFIX) or self.rule(literal.step)
            case _:
                found = self.rule(literal.step)
                if found is not None and found.kind is Kind.WATCH:
                    return ""
        return found.service if found is not None else ""


def success_of(rule_id: str) -> Literal:
    if rule_id.endswith(UNDO_SUFFIX):
        return Literal(rule_id.removesuffix(UNDO_SUFFIX), Outcome.UNDONE)
    return Literal(rule_id, Outcome.SUCCEEDED)


def succeeded(leaf: Leaf) -> Literal:
    return Literal(leaf.name, Outcome.SUCCEEDED)


def refused(leaf: Leaf) -> Literal:
    return Literal(leaf.name, Outcome.REFUSED)


def undone(step: Step) -> Literal:
    return Literal(step.name, Outcome.UNDONE)


def accepted(leaf: Leaf) -> Literal:
    return Literal(leaf.name, Outcome.ACCEPTED)


def abandoned(leaf: Leaf) -> Literal:
    return Literal(leaf.name, Outcome.ABANDONED)


def is_watched(leaf: Leaf) -> bool:
    return isinstance(leaf, Wait) or leaf.within is not None


def failed(leaf: Leaf) -> Formula:
    """It ended without being complete."""
    if isinstance(leaf, Wait):
        return abandoned(leaf)
    return any_of(refused(leaf), abandoned(leaf)) if is_watched(leaf) else refused(leaf)


def complete(node: Node) -> Formula:
    """Every step below the node succeeded. Of a sequence the last part tells: it began when the others were done."""
    match node:
        case Step() | Wait():
            return accepted(node) if is_watched(node) else succeeded(node)
        case SequenceOf():
            return complete(node.parts[-1])
        case ParallelOf():
            return all_of(*map(complete, node.branches))


def refused_anywhere(node: Node) -> Formula:
    return any_of(*map(failed, leaves_of(node)))


def stopped(node: Node) -> Formula:
    """The node ended without being complete, and every refusal below it is known.

    Of several refusals in parallel branches a compensated saga names the first in reading order, wherever and in
    whichever order they were heard; so it must wait for all that there will be.
    """
    match node:
        case Step() | Wait():
            return failed(node)
        case SequenceOf():
            return any_of(*map(stopped, node.parts))
        case ParallelOf():
            branches = [(stopped(branch), complete(branch)) for branch in node.branches]
            return all_of(any_of(*(stop for stop, _ in branches)), *(any_of(stop, done) for stop, done in branches))


class Compiler:
    """One compilation. Its methods are the theory above, one for each kind of node."""

    def __init__(self, saga: Saga) -> None:
        self.saga = saga
        self.rules: list[Rule] = []
        self.neighbours = neighbours(saga.root)

    def node(self, node: Node, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        """Add the node's rules; return the formula under which it is clean. ``before``: surely known, nearest first."""
        match node:
            case Step():
                return self.step(node, start, abort, before)
            case Wait():
                return self.wait(node, start, abort)
            case SequenceOf():
                return self.sequence(node, start, abort, before)
            case ParallelOf():
                return self.parallel(node, start, abort, before)

    def step(self, step: Step, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        self.add(
            step.name, Kind.DO, start, step.action, before, step, may_refuse=self.neighbours[step.name].may_refuse(step)
        )
        if is_watched(step):
            self.watch(step, start)
        if step.undo_command is None:
            return any_of(failed(step), all_of(complete(step), abort))
        assert step.undo is not None
        own = (succeeded(step), successes(step.command))
        to_undo = all_of(succeeded(step), any_of(abort, abandoned(step)) if is_watched(step) else abort)
        self.add(step.name + UNDO_SUFFIX, Kind.UNDO, to_undo, step.undo, (own, *before), step)  # type: ignore[arg-type]
        return any_of(failed(step), undone(step))

    def wait(self, wait: Wait, start: Formula, abort: Formula) -> Formula:
        self.watch(wait, start)
        return any_of(abandoned(wait), all_of(accepted(wait), abort))

    def watch(self, leaf: Leaf, start: Formula) -> None:
        """Add the rule of the one place that waits. Who that is, is settled when all rules are there."""
        beside = self.neighbours[leaf.name].beside if isinstance(leaf, Wait) else ()
        watch = Watch(of=leaf, decider="", hopeless=any_of(*map(failed, beside)))
        self.rules.append(
            Rule(
                id=leaf.name if watch.is_wait else leaf.name + WITHIN_SUFFIX,
                kind=Kind.WATCH,
                formula=start,
                recipe=Recipe(
                    command=AwaitOutcome,
                    fields=Fields(AwaitOutcome, {}),
                    parameters={},
                    queries={},
                    needs=frozenset(),
                ),
                retry=None,
                may_refuse=True,
                needs=literals(start),
                heeds=watch.heeds,
                watch=watch,
            )
        )

    def sequence(self, node: SequenceOf, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        clean = abort
        for index in reversed(range(len(node.parts))):
            earlier = node.parts[:index]
            known = tuple(source for part in reversed(earlier) for source in sources_of(part))
            begins = complete(earlier[-1]) if earlier else start
            clean = self.node(node.parts[index], begins, clean, (*known, *before))
        return clean

    def parallel(self, node: ParallelOf, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        clean = []
        for branch in node.branches:
            siblings = (other for other in node.branches if other is not branch)
            clean.append(self.node(branch, start, any_of(abort, *map(refused_anywhere, siblings)), before))
        return all_of(*clean)

    def end(self, name: str, formula: Formula, action: Action | None, before: tuple[Source, ...]) -> None:
        if action is not None:
            may_have_refused = tuple(one for leaf in self.saga.leaves for one in _refusals_of(leaf))
            self.add(
                name, Kind.END, formula, action, before, None, refusals=may_have_refused if name == COMPENSATED else ()
            )

    def add(
        self,
        rule_id: str,
        kind: Kind,
        formula: Formula,
        action: Action,
        before: tuple[Source, ...],
        step: Step | None,
        *,
        may_refuse: bool = False,
        refusals: Sequence[Source] = (),
    ) -> None:
        recipe = recipe_for(action, where=f"saga {self.saga.name}, {rule_id}", sources=before, refusals=refusals)
        refusal_known = [stopped(self.saga.root)] if recipe.needs_any else []
        needed = all_of(formula, *sorted(recipe.needs, key=str), *refusal_known)
        self.rules.append(
            Rule(
                id=rule_id,
                kind=kind,
                formula=needed,
                recipe=recipe,
                retry=step.retry if step else None,
                deadline=step.deadline if step and kind is Kind.DO else None,
                may_refuse=may_refuse,
                needs=literals(needed),
                heeds=frozenset({abandoned(step)} if step and is_watched(step) and kind is Kind.DO else ()),
                delay=step.delay if step and kind is Kind.DO else None,
            )
        )


def _refusals_of(leaf: Leaf) -> Iterator[Source]:
    if isinstance(leaf, Step):
        yield refused(leaf), refusals(leaf.command)
    if is_watched(leaf):
        yield abandoned(leaf), (StepAbandoned,)


def compile_saga(saga: Saga, compiler: type[Compiler] = Compiler) -> Rules:
    """The saga's rules. Pure; the same saga always gives the same rules and the same fingerprint.

    Raises:
        DefinitionError: a command has a field that nothing known there provides.
    """
    work = compiler(saga)
    begin: Source = (BEGUN, (saga.begins_with,))
    clean = work.node(saga.root, BEGUN, any_of(), (begin,))
    every_step = tuple(source for part in reversed(saga.root.parts) for source in sources_of(part))
    work.end(COMPLETED, complete(saga.root), saga.completed, (*every_step, begin))
    work.end(COMPENSATED, clean, saga.compensated, (begin,))
    reading_order = [leaf.name for leaf in saga.leaves] + [COMPLETED, COMPENSATED]
    rules = with_deciders(sorted(work.rules, key=lambda rule: reading_order.index(rule.id.partition("/")[0])))
    return Rules(
        every=rules,
        events=events_of(saga),
        complete=complete(saga.root),
        clean=clean,
        fingerprint=fingerprint(saga, rules),
        deadline=saga.deadline,
    )


def with_deciders(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The same rules, in reading order; each watch at the service that goes on when what it waits for is accepted.

    That is the service of the first rule after it that needs it: a step's, another watch's, or the ``completed`` end's.
    Where nothing comes after it, it is the service of the saga's first step.
    """
    first = next(rule.service for rule in rules if rule.kind is Kind.DO)
    found: list[Rule] = []
    for rule in reversed(rules):
        if rule.watch is not None:
            following = (
                later.service
                for later in reversed(found)
                if rule.answered in later.needs and (later.kind in (Kind.DO, Kind.WATCH) or later.id == COMPLETED)
            )
            rule = replace(rule, watch=replace(rule.watch, decider=next(following, first)))
        found.append(rule)
    return tuple(reversed(found))


def sources_of(node: Node) -> tuple[Source, ...]:
    """What is certainly known once the node is complete, the latest first."""
    return tuple(
        (succeeded(leaf), successes(leaf.command) if isinstance(leaf, Step) else (leaf.event,))
        for leaf in reversed(tuple(leaves_of(node)))
    )


def events_of(saga: Saga) -> dict[Literal, tuple[type[Event], ...]]:
    events: dict[Literal, tuple[type[Event], ...]] = {BEGUN: (saga.begins_with,)}
    for step in saga.steps:
        events[succeeded(step)] = successes(step.command)
        events[refused(step)] = (*refusals(step.command), StepRefused)
        if step.undo_command is not None:
            events[undone(step)] = successes(step.undo_command)
    for wait in saga.waits:
        events[succeeded(wait)] = (wait.event,)
        if wait.refused_by is not None:
            events[refused(wait)] = (wait.refused_by,)
    for leaf in filter(is_watched, saga.leaves):
        events[accepted(leaf)] = (StepAccepted,)
        events[abandoned(leaf)] = (StepAbandoned,)
    for name, action in ((COMPLETED, saga.completed), (COMPENSATED, saga.compensated)):
        if action is not None:
            events[Literal(name, Outcome.SUCCEEDED)] = successes(command_of(action, where=name))
    return events


def fingerprint(saga: Saga, rules: Sequence[Rule]) -> str:
    """Twelve hexadecimal digits of what decides: formulas, commands, their content, retries and times."""
    # What came later is there only where it is used: a definition that says nothing new keeps its fingerprint.
    parts = [
        {
            "rule": rule.id,
            "when": digest(rule.formula),
            "command": name_of(rule.command),
            "service": rule.service,
            "content": content_of(rule.recipe),
            "retry": asdict(rule.retry) if rule.retry else None,
            "deadline_s": rule.deadline.total_seconds() if rule.deadline else None,
            "may_refuse": rule.may_refuse,
            **({"delay_s": rule.delay.total_seconds()} if rule.delay else {}),
            **({"watch": content_of_watch(rule.watch)} if rule.watch else {}),
        }
        for rule in rules
    ]
    whole: list[object] = [saga.name, name_of(saga.begins_with), saga.key, parts]
    if saga.deadline is not None:
        whole.append({"deadline_s": saga.deadline.total_seconds()})
    text = json.dumps(whole, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def content_of_watch(watch: Watch) -> dict[str, object]:
    """What is waited for and how long, in names."""
    wait = watch.of if isinstance(watch.of, Wait) else None
    return {
        "within_s": watch.within.total_seconds() if watch.within else None,
        "event": name_of(wait.event) if wait else None,
        "refused_by": name_of(wait.refused_by) if wait and wait.refused_by else None,
        "hopeless": digest(watch.hopeless),
    }


def content_of(recipe: Recipe) -> Mapping[str, object]:
    """Where the command's content comes from, in names."""

    def origin(fields: Fields) -> dict[str, str]:
        return {name: str(literal) for name, literal in fields.origin.items()}

    return {
        "builder": recipe.builder.__qualname__ if recipe.builder else None,
        "fields": origin(recipe.fields) if recipe.fields else {},
        "parameters": {
            name: str(where) if isinstance(where, Literal) else [str(literal) for literal in where]
            for name, where in recipe.parameters.items()
        },
        "queries": {name: [name_of(query.message), origin(query)] for name, query in recipe.queries.items()},
    }


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What is around a step or wait: certainly finished before it begins, running beside it, begun only after it."""

    before: tuple[Leaf, ...]
    beside: tuple[Leaf, ...]
    after: tuple[Leaf, ...]

    def cannot_be_undone(self) -> Leaf | None:
        """A step that would remain if this one refused."""
        return next((other for other in (*self.before, *self.beside) if other.undo is None), None)

    def may_refuse(self, step: Leaf) -> bool:
        """Whether giving up on the step is still an option: all before it can be undone, and the last refusable
        step has not passed."""
        if self.cannot_be_undone() is not None:
            return False
        return any(other.is_refusable for other in (step, *self.beside, *self.after))


def neighbours(root: Node) -> dict[str, Neighbours]:
    """For each step and wait of the tree, by name, what is around it."""
    found: dict[str, Neighbours] = {}

    def walk(node: Node, before: tuple[Leaf, ...], beside: tuple[Leaf, ...], after: tuple[Leaf, ...]) -> None:
        if isinstance(node, Step | Wait):
            found[node.name] = Neighbours(before, beside, after)
            return
        parts = node.parts if isinstance(node, SequenceOf) else node.branches
        for index, part in enumerate(parts):
            earlier = tuple(leaf for other in parts[:index] for leaf in leaves_of(other))
            later = tuple(leaf for other in parts[index + 1 :] for leaf in leaves_of(other))
            if isinstance(node, SequenceOf):
                walk(part, (*before, *earlier), beside, (*later, *after))
            else:
                walk(part, before, (*beside, *earlier, *later), after)

    walk(root, (), (), ())
    return found
