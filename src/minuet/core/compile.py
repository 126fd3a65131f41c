"""From a saga to its rules: *formula over known messages -> command*.

Every node of a saga is compiled from two formulas: ``start``, which enables it, and ``abort``, under which it must be
undone once it is finished.

* A **step** gives ``start -> do`` and, with an undo, ``succeeded AND abort -> undo``. It is *clean*, that is nothing of
  it remains, when it was refused or undone; without an undo, when it was refused, or succeeded and is to be aborted.
* A **sequence**: each part starts when the part before is complete and is aborted when the part after it is clean (the
  last part, when the sequence is aborted). It is clean when its first part is.
* **Parallel** branches start together; each is aborted by whatever aborts the whole, or by a refusal in a sibling. The
  whole is clean when all branches are.

The two ends are rules too: the saga is complete, or clean. No formula contains a negation, see `minuet.core.formula`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum

from minuet.core.formula import Formula, Literal, Outcome, all_of, any_of, digest, literals
from minuet.core.messages import Command, Event, StepRefused, name_of, refusals, successes
from minuet.core.recipe import Fields, Recipe, Source, command_of, recipe_for
from minuet.core.retry import RetryPolicy
from minuet.core.saga import BEGIN, COMPENSATED, COMPLETED, Action, Node, ParallelOf, Saga, SequenceOf, Step, steps_of

BEGUN = Literal(BEGIN, Outcome.SUCCEEDED)
UNDO_SUFFIX = "/undo"


class Kind(StrEnum):
    DO = "do"
    UNDO = "undo"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rule:
    """When the formula holds, the command is due, once for each saga.

    Attributes:
        id: the step's name, with ``/undo`` for its undo; for an end ``completed`` or ``compensated``. It is what the
            envelope of the command, and of its answer, carries as the step.
        may_refuse: whether a refusal is still possible here. If not, the command is retried until done.
        needs: every message that the rule looks at: those that decide, and those that fill the command.
    """

    id: str
    kind: Kind
    formula: Formula
    recipe: Recipe
    needs: frozenset[Literal]
    retry: RetryPolicy | None
    deadline: timedelta | None = None
    may_refuse: bool = False

    @property
    def command(self) -> type[Command]:
        return self.recipe.command

    @property
    def service(self) -> str:
        """Who performs the command; in choreography also who evaluates the rule."""
        return self.command.__contract__.service

    @property
    def answered(self) -> Literal:
        """What the command's success makes known."""
        return success_of(self.id)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rules:
    """A compiled saga.

    Attributes:
        events: for each literal, the events one of which makes it known.
        complete: holds when every step succeeded. clean: when nothing remains of any step.
    """

    every: tuple[Rule, ...]
    events: Mapping[Literal, tuple[type[Event], ...]]
    complete: Formula
    clean: Formula
    fingerprint: str

    def rule(self, rule_id: str) -> Rule | None:
        return next((rule for rule in self.every if rule.id == rule_id), None)


def success_of(rule_id: str) -> Literal:
    if rule_id.endswith(UNDO_SUFFIX):
        return Literal(rule_id.removesuffix(UNDO_SUFFIX), Outcome.UNDONE)
    return Literal(rule_id, Outcome.SUCCEEDED)


def succeeded(step: Step) -> Literal:
    return Literal(step.name, Outcome.SUCCEEDED)


def refused(step: Step) -> Literal:
    return Literal(step.name, Outcome.REFUSED)


def undone(step: Step) -> Literal:
    return Literal(step.name, Outcome.UNDONE)


def complete(node: Node) -> Formula:
    """Every step below the node succeeded. Of a sequence the last part tells: it began when the others were done."""
    match node:
        case Step():
            return succeeded(node)
        case SequenceOf():
            return complete(node.parts[-1])
        case ParallelOf():
            return all_of(*map(complete, node.branches))


def refused_anywhere(node: Node) -> Formula:
    return any_of(*map(refused, steps_of(node)))


def stopped(node: Node) -> Formula:
    """The node ended without being complete, and every refusal below it is known.

    Of several refusals in parallel branches a compensated saga names the first in reading order, wherever and in
    whichever order they were heard; so it must wait for all that there will be.
    """
    match node:
        case Step():
            return refused(node)
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
            case SequenceOf():
                return self.sequence(node, start, abort, before)
            case ParallelOf():
                return self.parallel(node, start, abort, before)

    def step(self, step: Step, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        self.add(
            step.name, Kind.DO, start, step.action, before, step, may_refuse=self.neighbours[step.name].may_refuse(step)
        )
        if step.undo_command is None:
            return any_of(refused(step), all_of(succeeded(step), abort))
        assert step.undo is not None
        own = (succeeded(step), successes(step.command))
        to_undo = all_of(succeeded(step), abort)
        self.add(step.name + UNDO_SUFFIX, Kind.UNDO, to_undo, step.undo, (own, *before), step)  # type: ignore[arg-type]
        return any_of(refused(step), undone(step))

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
            may_have_refused = tuple((refused(step), refusals(step.command)) for step in self.saga.steps)
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
            )
        )


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
    reading_order = [step.name for step in saga.steps] + [COMPLETED, COMPENSATED]
    rules = tuple(sorted(work.rules, key=lambda rule: reading_order.index(rule.id.removesuffix(UNDO_SUFFIX))))
    return Rules(
        every=rules,
        events=events_of(saga),
        complete=complete(saga.root),
        clean=clean,
        fingerprint=fingerprint(saga, rules),
    )


def sources_of(node: Node) -> tuple[Source, ...]:
    """What is certainly known once the node is complete, the latest first."""
    return tuple((succeeded(step), successes(step.command)) for step in reversed(tuple(steps_of(node))))


def events_of(saga: Saga) -> dict[Literal, tuple[type[Event], ...]]:
    events: dict[Literal, tuple[type[Event], ...]] = {BEGUN: (saga.begins_with,)}
    for step in saga.steps:
        events[succeeded(step)] = successes(step.command)
        events[refused(step)] = (*refusals(step.command), StepRefused)
        if step.undo_command is not None:
            events[undone(step)] = successes(step.undo_command)
    for name, action in ((COMPLETED, saga.completed), (COMPENSATED, saga.compensated)):
        if action is not None:
            events[Literal(name, Outcome.SUCCEEDED)] = successes(command_of(action, where=name))
    return events


def fingerprint(saga: Saga, rules: Sequence[Rule]) -> str:
    """Twelve hexadecimal digits of what decides: formulas, commands, their content, retries and deadlines."""
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
        }
        for rule in rules
    ]
    text = json.dumps([saga.name, name_of(saga.begins_with), saga.key, parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


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
    """The steps around a step: certainly finished before it begins, running beside it, begun only after it."""

    before: tuple[Step, ...]
    beside: tuple[Step, ...]
    after: tuple[Step, ...]

    def cannot_be_undone(self) -> Step | None:
        """A step that would remain if this one refused."""
        return next((other for other in (*self.before, *self.beside) if other.undo is None), None)

    def may_refuse(self, step: Step) -> bool:
        """Whether giving up on the step is still an option: all before it can be undone, and the last refusable
        step has not passed."""
        if self.cannot_be_undone() is not None:
            return False
        return any(other.is_refusable for other in (step, *self.beside, *self.after))


def neighbours(root: Node) -> dict[str, Neighbours]:
    """For each step of the tree, by name, the steps around it."""
    found: dict[str, Neighbours] = {}

    def walk(node: Node, before: tuple[Step, ...], beside: tuple[Step, ...], after: tuple[Step, ...]) -> None:
        if isinstance(node, Step):
            found[node.name] = Neighbours(before, beside, after)
            return
        parts = node.parts if isinstance(node, SequenceOf) else node.branches
        for index, part in enumerate(parts):
            earlier = tuple(step for other in parts[:index] for step in steps_of(other))
            later = tuple(step for other in parts[index + 1 :] for step in steps_of(other))
            if isinstance(node, SequenceOf):
                walk(part, (*before, *earlier), beside, (*later, *after))
            else:
                walk(part, before, (*beside, *earlier, *later), after)

    walk(root, (), (), ())
    return found
