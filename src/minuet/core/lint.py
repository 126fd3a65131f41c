"""What is wrong with a saga before it ever runs. Each error names the step and the remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain

from minuet.core.compile import neighbours
from minuet.core.errors import DefinitionError
from minuet.core.messages import Command, Event, Refusal, name_of, refusals, successes
from minuet.core.recipe import command_of
from minuet.core.saga import COMPENSATED, COMPLETED, Leaf, Saga, Step, Wait


def check_saga(saga: Saga) -> None:
    """
    Raises:
        DefinitionError: the first thing that is wrong.
    """
    _check_beginning(saga)
    _check_waits(saga)
    _check_names(saga)
    _check_refusals_can_be_undone(saga)
    _check_ends(saga)
    _check_cycle(saga)
    _check_keys(saga)
    _check_deadline(saga)


def check_sagas(sagas: Iterable[Saga]) -> None:
    """What only shows between sagas: one that begins another that begins the first."""
    sagas = tuple(sagas)
    begins = {saga.name: {other.name for other in sagas if other.begins_with in set(_answers(saga))} for saga in sagas}

    def walk(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join((*path[path.index(name) :], name))
            raise DefinitionError(
                f"sagas begin each other without end: {circle}; let one of them begin with another event"
            )
        for following in sorted(begins[name]):
            walk(following, (*path, name))

    for saga in sagas:
        walk(saga.name, ())


def _check_beginning(saga: Saga) -> None:
    event = saga.begins_with
    if not (isinstance(event, type) and issubclass(event, Event)) or issubclass(event, Refusal):
        raise DefinitionError(f"saga {saga.name} must begin with an Event class, not {event!r}")
    if saga.key not in event.model_fields:
        fields = ", ".join(event.model_fields) or "none"
        raise DefinitionError(f"saga {saga.name}: key {saga.key!r} is not a field of {name_of(event)}; it has {fields}")


def _check_names(saga: Saga) -> None:
    name, count = Counter(leaf.name for leaf in saga.leaves).most_common(1)[0]
    if count > 1:
        raise DefinitionError(
            f"saga {saga.name} has {count} steps named {name}; tell them apart with step(..., name=...)"
        )


def _check_waits(saga: Saga) -> None:
    if not saga.steps:
        raise DefinitionError(f"saga {saga.name} only waits, and does nothing; give it a step")
    answers = set(_answers(saga)) if saga.waits else set()
    awaited: dict[type[Event], Wait] = {}
    for wait in saga.waits:
        for event in (wait.event, *([wait.refused_by] if wait.refused_by else [])):
            if event in answers:
                raise DefinitionError(
                    f"saga {saga.name}: wait {wait.name} is for {name_of(event)}, which one of the saga's own commands "
                    "answers; put the wait's place after that step, without a wait, or wait for another event"
                )
            if event is saga.begins_with:
                raise DefinitionError(
                    f"saga {saga.name}: wait {wait.name} is for {name_of(event)}, with which the saga begins; wait for "
                    "another event"
                )
            if event in awaited:
                raise DefinitionError(
                    f"saga {saga.name}: {awaited[event].name} and {wait.name} both wait for {name_of(event)}, and "
                    "nobody could tell for which of them one is; give each an event of its own"
                )
            awaited[event] = wait


def _check_deadline(saga: Saga) -> None:
    around = neighbours(saga.root)
    if saga.deadline is not None and not any(around[leaf.name].may_refuse(leaf) for leaf in saga.leaves):
        raise DefinitionError(
            f"saga {saga.name} has a deadline, and nothing in it can be refused; let a command declare a refusal, give "
            "a step a deadline of its own, or leave the saga's out"
        )


def _check_refusals_can_be_undone(saga: Saga) -> None:
    around = neighbours(saga.root)
    for step in saga.leaves:
        remaining = around[step.name].cannot_be_undone()
        if step.is_refusable and remaining is not None:
            cause = _why_refused(step)
            raise DefinitionError(
                f"saga {saga.name}: step {step.name} may be refused ({cause}) when step {remaining.name} is done, "
                "which has "
                f'no undo. Give {remaining.name} one, say undo=Nothing("why"), or move {step.name} before it'
            )


def _why_refused(leaf: Leaf) -> str:
    if isinstance(leaf, Wait):
        return "what it waits for may not come"
    if refusals(leaf.command):
        return name_of(refusals(leaf.command)[0])
    return "a missed deadline" if leaf.deadline is not None else "it may not be done within its time"


def _check_ends(saga: Saga) -> None:
    for name, action in ((COMPLETED, saga.completed), (COMPENSATED, saga.compensated)):
        if action is None:
            continue
        command = command_of(action, where=f"saga {saga.name}, {name}")
        if refusals(command):
            raise DefinitionError(
                f"saga {saga.name}: {name_of(command)}, its {name} end, may answer "
                f"{name_of(refusals(command)[0])}, but an "
                f"end cannot be refused; make it a step, or drop that answer"
            )
    for step in saga.steps:
        if not successes(step.command):
            raise DefinitionError(
                f"saga {saga.name}: {name_of(step.command)} of step {step.name} can only be refused; name the "
                "event of its "
                f"success among its answers"
            )


def _check_cycle(saga: Saga) -> None:
    if saga.begins_with in set(_answers(saga)):
        raise DefinitionError(
            f"saga {saga.name} is a cycle: it begins with {name_of(saga.begins_with)}, which one of its own commands "
            f"answers; begin it with an event from outside, or give that command an answer of its own"
        )


def _check_keys(saga: Saga) -> None:
    plain: list[type[Command]] = []
    for step in saga.steps:
        plain += [
            action for action in (step.action, step.undo) if isinstance(action, type) and issubclass(action, Command)
        ]
    for command, count in Counter(plain).items():
        if count > 1 and command.__contract__.key:
            raise DefinitionError(
                f"saga {saga.name} sends {name_of(command)} in {count} steps, but its key "
                f"{', '.join(command.__contract__.key)} "
                f"makes them one and the same; extend the key, or build each by a function of its own"
            )


def _answers(saga: Saga) -> Iterable[type[Event]]:
    def of(step: Step) -> Iterable[type[Event]]:
        undo = step.undo_command
        return chain(step.command.__contract__.answers, undo.__contract__.answers if undo else ())

    ends = (command_of(action, where=saga.name) for action in (saga.completed, saga.compensated) if action is not None)
    return chain(*map(of, saga.steps), *(end.__contract__.answers for end in ends))
