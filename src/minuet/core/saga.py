"""A saga as its author writes it: steps over commands, in sequence and in parallel, each with its undo beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Final

from minuet.core.errors import DefinitionError
from minuet.core.messages import Command, Event, name_of, refusals
from minuet.core.recipe import Builder, command_of
from minuet.core.retry import RetryPolicy

if TYPE_CHECKING:
    from minuet.core.compile import Rules

Action = type[Command] | Builder

BEGIN: Final = "begin"
COMPLETED: Final = "completed"
COMPENSATED: Final = "compensated"
CANCELLED: Final = "cancelled"
RESERVED_NAMES: Final = frozenset({BEGIN, COMPLETED, COMPENSATED, CANCELLED})
DURATION_MAX: Final = timedelta(days=365_000)
"""What is due later than this is beyond the calendar: the message that makes it due could never be taken in."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """The undo of a step that needs none: ``undo=Nothing("a reminder can be sent twice")``. Says why."""

    why: str

    def __post_init__(self) -> None:
        if not self.why.strip():
            raise DefinitionError('Nothing needs a reason: undo=Nothing("why nothing has to be undone")')


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of a saga. Made by `step`."""

    name: str
    action: Action
    undo: Action | Nothing | None
    retry: RetryPolicy | None
    deadline: timedelta | None
    delay: timedelta | None = None
    within: timedelta | None = None

    @property
    def command(self) -> type[Command]:
        return command_of(self.action, where=f"step {self.name}")

    @property
    def undo_command(self) -> type[Command] | None:
        return (
            None
            if self.undo is None or isinstance(self.undo, Nothing)
            else command_of(self.undo, where=f"undo of step {self.name}")
        )

    @property
    def is_refusable(self) -> bool:
        """Whether it may come to a no: the command declares a refusal, or it has a time to miss."""
        return bool(refusals(self.command)) or self.deadline is not None or self.within is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A part of a saga in which an event from outside is waited for. Made by `wait_for`."""

    name: str
    event: type[Event]
    within: timedelta | None
    refused_by: type[Event] | None

    @property
    def is_refusable(self) -> bool:
        return True

    @property
    def undo(self) -> Nothing:
        return _HEARD_ONLY


_HEARD_ONLY: Final = Nothing("what was heard leaves nothing here")


@dataclass(frozen=True, slots=True)
class SequenceOf:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class ParallelOf:
    branches: tuple[Node, ...]


Leaf = Step | Wait
Node = Step | Wait | SequenceOf | ParallelOf
Part = Node | Action | Sequence["Part"]


def step(
    action: Action,
    *,
    undo: Action | Nothing | None = None,
    name: str | None = None,
    retry: RetryPolicy | None = None,
    deadline: timedelta | None = None,
    delay: timedelta | None = None,
    within: timedelta | None = None,
) -> Step:
    """A step of a saga.

    Args:
        action: the command, its fields taken by name from what is known; or a function that returns it, whose
            parameters are events of the saga and views of queries.
        undo: what takes the step back, likewise; `Nothing` with a reason; or None if it cannot be taken back.
        name: travels with each message of the step; by default the command's name in snake_case.
        retry: how often a handler that raises is called again; by default as the handler says.
        deadline: the participant refuses the command if it cannot begin it within this time of its becoming due.
        delay: it becomes due only so long after what comes before it.
        within: the saga waits for the outcome no longer than this, counted from when the step could begin. Then the
            step is *abandoned*, which counts as a refusal at once: everything before it is undone, and so is the step
            itself, should it have succeeded after all. Who decides is told in docs/writing-an-app.md.

    Raises:
        DefinitionError: says what is wrong and what to write.
    """
    name = name or _snake_case(name_of(command_of(action, where="step")))
    _check_name(name)
    where = f"step {name}"
    _check_duration(where, "deadline", deadline, f"a deadline lies in the future, not at {deadline}")
    _check_duration(where, "delay", delay, f"a delay of {delay} is none; leave it out, or give a longer one")
    _check_duration(where, "within", within, f"nothing comes within {within}; leave it out, or give it more time")
    if delay is not None and within is not None and within <= delay:
        raise DefinitionError(
            f"step {name}: it begins after {delay}, and is waited for within {within}, so it is always abandoned; give "
            "within more time, for the delay is part of it"
        )
    if within is not None and undo is None:
        raise DefinitionError(
            f"step {name}: after {within} it is abandoned, and may have succeeded all the same; give it an undo, or "
            'say undo=Nothing("why"), or leave out within'
        )
    made = Step(name=name, action=action, undo=undo, retry=retry, deadline=deadline, delay=delay, within=within)
    undo_command = made.undo_command
    if undo_command is not None and refusals(undo_command):
        raise DefinitionError(
            f"step {name}: its undo {name_of(undo_command)} may answer {name_of(refusals(undo_command)[0])}, but "
            "an undo "
            f"cannot be refused; drop that answer, minuet retries the undo until it is done"
        )
    return made


def wait_for(
    event: type[Event],
    *,
    within: timedelta | None = None,
    refused_by: type[Event] | None = None,
    name: str | None = None,
) -> Wait:
    """A part of a saga that waits for an event from outside: an approval, a webhook, another system's word.

    Whoever publishes it, the event says which saga it is for in its field named like the saga's key; if it has no such
    field, in its partition key. It may come before the saga gets there. What comes after may take its content from it.

    Args:
        event: what is waited for; none that the saga's own commands answer.
        within: how long, counted from when the saga gets there; by default as long as the saga itself may take. Then
            the wait is *abandoned*, which counts as a refusal: what came before is undone.
        refused_by: an event, likewise from outside, that means no.
        name: travels with each message about it; by default the event's name in snake_case.

    Raises:
        DefinitionError: says what is wrong and what to write.
    """
    for what, given in (("waits for", event), ("is refused by", refused_by)):
        if given is not None and not (isinstance(given, type) and issubclass(given, Event)):
            raise DefinitionError(f"wait_for: it {what} {given!r}, which is not an Event class")
    name = name or _snake_case(name_of(event))
    _check_name(name)
    problem = f"nothing comes within {within}; leave it out, or give it more time"
    _check_duration(f"wait {name}", "within", within, problem)
    if refused_by is event:
        raise DefinitionError(f"wait {name}: {name_of(event)} cannot mean both yes and no; give refused_by another one")
    return Wait(name=name, event=event, within=within, refused_by=refused_by)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED_NAMES:
        raise DefinitionError(f"step name {name!r} must be snake_case and none of {', '.join(sorted(RESERVED_NAMES))}")


def _check_duration(where: str, option: str, duration: timedelta | None, not_above_zero: str) -> None:
    if duration is None:
        return
    if not isinstance(duration, timedelta):
        raise DefinitionError(
            f"{where}: {option}={duration!r} is no timedelta; write timedelta(seconds=...), or days=..."
        )
    if duration <= timedelta(0):
        raise DefinitionError(f"{where}: {not_above_zero}")
    if duration > DURATION_MAX:
        raise DefinitionError(f"{where}: {option} is longer than a thousand years; leave it out, or make it shorter")


def sequence(*parts: Part) -> SequenceOf:
    """One part after the other. A list in a saga's steps means the same."""
    if not parts:
        raise DefinitionError("an empty sequence does nothing; leave it out")
    return SequenceOf(tuple(map(_node, parts)))


def parallel(*branches: Part) -> ParallelOf:
    """All branches at once; what follows waits for all. If a branch refuses, the others finish and are undone."""
    if len(branches) < 2:
        raise DefinitionError("parallel needs at least two branches; a single one is just a step")
    return ParallelOf(tuple(map(_node, branches)))


def _node(part: Part) -> Node:
    if isinstance(part, Step | Wait | SequenceOf | ParallelOf):
        return part
    if isinstance(part, Sequence):
        return sequence(*part)
    return step(part)


def leaves_of(node: Node) -> Iterator[Leaf]:
    """Every step and every wait below the node, in reading order."""
    if isinstance(node, Step | Wait):
        yield node
        return
    for inner in node.parts if isinstance(node, SequenceOf) else node.branches:
        yield from leaves_of(inner)


def steps_of(node: Node) -> Iterator[Step]:
    """Every step below the node, in reading order."""
    return (leaf for leaf in leaves_of(node) if isinstance(leaf, Step))


@dataclass(frozen=True, init=False, eq=False)
class Saga:
    """One business transaction over several services. Immutable, and checked when declared.

    Args:
        name: travels with each message.
        begins_with: the event that begins it.
        key: the field of that event that says which piece of business it is; one saga runs for each value.
        steps: what to do, in order. Lists inside are sequences; see `parallel`.
        completed: the command (or function) for when every step succeeded.
        compensated: the command (or function) for when a step was refused and all before it are undone.
        deadline: counted from the event that begins it. From then on each participant refuses what it has not begun,
            and nothing is waited for any longer. It has no effect on a saga that has passed its last refusable step.

    Raises:
        DefinitionError: names the step, what is wrong with it and the remedy.
    """

    name: str
    begins_with: type[Event]
    key: str
    root: SequenceOf
    completed: Action | None
    compensated: Action | None
    deadline: timedelta | None
    rules: Rules = field(repr=False)

    def __init__(
        self,
        name: str,
        *,
        begins_with: type[Event],
        key: str,
        steps: Sequence[Part],
        completed: Action | None = None,
        compensated: Action | None = None,
        deadline: timedelta | None = None,
    ) -> None:
        # Imported here because what compiles and checks a saga needs the classes above.
        from minuet.core.compile import compile_saga
        from minuet.core.lint import check_saga

        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise DefinitionError(f"saga name {name!r} must be one word, as in OrderProcessing")
        if not steps:
            raise DefinitionError(f"saga {name} has no steps")
        _check_duration(f"saga {name}", "deadline", deadline, f"a deadline lies in the future, not at {deadline}")
        for attribute, value in {
            "name": name,
            "begins_with": begins_with,
            "key": key,
            "root": sequence(*steps),
            "completed": completed,
            "compensated": compensated,
            "deadline": deadline,
        }.items():
            object.__setattr__(self, attribute, value)
        check_saga(self)
        object.__setattr__(self, "rules", compile_saga(self))

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return tuple(steps_of(self.root))

    @cached_property
    def waits(self) -> tuple[Wait, ...]:
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, Wait))

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """Its steps and its waits, in reading order."""
        return tuple(leaves_of(self.root))

    @property
    def fingerprint(self) -> str:
        """Stays the same as long as the saga's rules do; two sagas that decide differently have different ones."""
        return self.rules.fingerprint


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
