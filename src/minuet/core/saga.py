"""A saga as its author writes it: steps over commands, in sequence and in parallel, each with its undo beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
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
        """Whether its participant may say no: the command declares a refusal, or has a deadline to miss."""
        return bool(refusals(self.command)) or self.deadline is not None


@dataclass(frozen=True, slots=True)
class SequenceOf:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class ParallelOf:
    branches: tuple[Node, ...]


Node = Step | SequenceOf | ParallelOf
Part = Node | Action | Sequence["Part"]


def step(
    action: Action,
    *,
    undo: Action | Nothing | None = None,
    name: str | None = None,
    retry: RetryPolicy | None = None,
    deadline: timedelta | None = None,
) -> Step:
    """A step of a saga.

    Args:
        action: the command, its fields taken by name from what is known; or a function that returns it, whose
            parameters are events of the saga and views of queries.
        undo: what takes the step back, likewise; `Nothing` with a reason; or None if it cannot be taken back.
        name: travels with each message of the step; by default the command's name in snake_case.
        retry: how often a handler that raises is called again; by default as the handler says.
        deadline: the participant refuses the command if it cannot begin it within this time of its becoming due.

    Raises:
        DefinitionError: says what is wrong and what to write.
    """
    name = name or _snake_case(name_of(command_of(action, where="step")))
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED_NAMES:
        raise DefinitionError(f"step name {name!r} must be snake_case and none of {', '.join(sorted(RESERVED_NAMES))}")
    if deadline is not None and deadline <= timedelta(0):
        raise DefinitionError(f"step {name}: a deadline lies in the future, not at {deadline}")
    made = Step(name=name, action=action, undo=undo, retry=retry, deadline=deadline)
    undo_command = made.undo_command
    if undo_command is not None and refusals(undo_command):
        raise DefinitionError(
            f"step {name}: its undo {name_of(undo_command)} may answer {name_of(refusals(undo_command)[0])}, but "
            "an undo "
            f"cannot be refused; drop that answer, minuet retries the undo until it is done"
        )
    return made


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
    if isinstance(part, Step | SequenceOf | ParallelOf):
        return part
    if isinstance(part, Sequence):
        return sequence(*part)
    return step(part)


def steps_of(node: Node) -> Iterator[Step]:
    """Every step below the node, in reading order."""
    if isinstance(node, Step):
        yield node
        return
    for inner in node.parts if isinstance(node, SequenceOf) else node.branches:
        yield from steps_of(inner)


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

    Raises:
        DefinitionError: names the step, what is wrong with it and the remedy.
    """

    name: str
    begins_with: type[Event]
    key: str
    root: SequenceOf
    completed: Action | None
    compensated: Action | None
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
    ) -> None:
        # Imported here because what compiles and checks a saga needs the classes above.
        from minuet.core.compile import compile_saga
        from minuet.core.lint import check_saga

        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise DefinitionError(f"saga name {name!r} must be one word, as in OrderProcessing")
        if not steps:
            raise DefinitionError(f"saga {name} has no steps")
        for attribute, value in {
            "name": name,
            "begins_with": begins_with,
            "key": key,
            "root": sequence(*steps),
            "completed": completed,
            "compensated": compensated,
        }.items():
            object.__setattr__(self, attribute, value)
        check_saga(self)
        object.__setattr__(self, "rules", compile_saga(self))

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(steps_of(self.root))

    @property
    def fingerprint(self) -> str:
        """Stays the same as long as the saga's rules do; two sagas that decide differently have different ones."""
        return self.rules.fingerprint


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
