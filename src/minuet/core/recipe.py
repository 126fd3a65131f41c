"""How a command is put together from what is known: by field names, or by a typed function.

A recipe says which known messages and which queries it needs. The messages are ANDed into its rule; the queries are
asked when the rule fires. Both are settled when the saga is declared, so a field that nobody provides is an error
before anything runs.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minuet.core.errors import DefinitionError
from minuet.core.formula import Literal
from minuet.core.messages import Command, Event, Message, Query, Refusal, View, required_fields

Builder = Callable[..., Command]
Source = tuple[Literal, tuple[type[Event], ...]]
"""A literal, and the events one of which makes it known."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Values for a message: for each field, the literal whose message has a field of that name."""

    message: type[Command] | type[Query]
    origin: Mapping[str, Literal]

    def fill(self, known: Mapping[Literal, Event]) -> Message:
        return self.message(**{name: getattr(known[literal], name) for name, literal in self.origin.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A command and where its content comes from.

    Attributes:
        needs: literals whose messages must be known.
        needs_any: groups of literals; of each group at least one must be known (the refusal that ended a saga).
        queries: what is asked when the rule fires, by the parameter it is for.
    """

    command: type[Command]
    fields: Fields | None = None
    builder: Builder | None = None
    parameters: Mapping[str, Literal | tuple[Literal, ...]]
    queries: Mapping[str, Fields]
    needs: frozenset[Literal]
    needs_any: tuple[tuple[Literal, ...], ...] = ()

    def questions(self, known: Mapping[Literal, Event]) -> dict[str, Query]:
        """The queries to ask now, by parameter name."""
        return {name: typing.cast(Query, fields.fill(known)) for name, fields in self.queries.items()}

    def build(self, known: Mapping[Literal, Event], views: Mapping[str, View]) -> Command:
        """The command. ``views`` are the answers to `questions`, by parameter name."""
        if self.fields is not None:
            return typing.cast(Command, self.fields.fill(known))
        assert self.builder is not None
        arguments: dict[str, Any] = dict(views)
        for name, where in self.parameters.items():
            arguments[name] = (
                known[where] if isinstance(where, Literal) else next(known[one] for one in where if one in known)
            )
        command = self.builder(**arguments)
        if type(command) is not self.command:
            raise TypeError(
                f"{self.builder.__name__} returned {type(command).__name__}, it is annotated with "
                f"{self.command.__name__}"
            )
        return command


def command_of(action: type[Command] | Builder, *, where: str) -> type[Command]:
    """The command class that an action (a command class or a function returning one) stands for."""
    if isinstance(action, type) and issubclass(action, Command):
        return action
    if inspect.isfunction(action):
        returns = _hints(action).get("return")
        if isinstance(returns, type) and issubclass(returns, Command):
            return returns
        raise DefinitionError(
            f"{where}: function {action.__name__} must say which command it returns, as in -> ReserveInventory"
        )
    raise DefinitionError(f"{where}: {action!r} is neither a Command class nor a function that returns one")


def recipe_for(
    action: type[Command] | Builder, *, where: str, sources: Sequence[Source], refusals: Sequence[Source] = ()
) -> Recipe:
    """Settle where the command's content comes from.

    Args:
        where: names the step in errors.
        sources: what is certainly known when the rule fires, the nearest first.
        refusals: the refusals one of which ended the saga; only a compensated saga has them.
    """
    command = command_of(action, where=where)
    if isinstance(action, type):
        fields = _by_name(command, sources, where=where)
        return Recipe(
            command=command, fields=fields, parameters={}, queries={}, needs=frozenset(fields.origin.values())
        )
    parameters: dict[str, Literal | tuple[Literal, ...]] = {}
    queries: dict[str, Fields] = {}
    needs: set[Literal] = set()
    needs_any: list[tuple[Literal, ...]] = []
    hints = _hints(action)
    for name in inspect.signature(action).parameters:
        wanted = hints.get(name)
        label = f"{where}: parameter {name!r} of {action.__name__}"
        if isinstance(wanted, type) and issubclass(wanted, View):
            queries[name] = _by_name(_query_for(wanted, label), sources, where=label)
            needs.update(queries[name].origin.values())
        elif wanted is Refusal:
            if not refusals:
                raise DefinitionError(
                    f"{label}: a Refusal is known only where a saga is compensated; name an event instead"
                )
            parameters[name] = tuple(literal for literal, _ in refusals)
            needs_any.append(parameters[name])  # type: ignore[arg-type]
        else:
            literal = _by_type(_event_types(wanted, label), sources, label)
            parameters[name] = literal
            needs.add(literal)
    return Recipe(
        command=command,
        builder=action,
        parameters=parameters,
        queries=queries,
        needs=frozenset(needs),
        needs_any=tuple(needs_any),
    )


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError as error:
        raise DefinitionError(f"{function.__name__}: {error}; import the annotation's class at module level") from error


def _by_name(message: type[Command] | type[Query], sources: Sequence[Source], *, where: str) -> Fields:
    origin: dict[str, Literal] = {}
    for field in required_fields(message):
        for literal, events in sources:
            if all(_same_field(message, event, field) for event in events):
                origin[field] = literal
                break
        else:
            raise DefinitionError(_nobody_provides(message, field, sources, where))
    return Fields(message, origin)


def _same_field(message: type[Message], event: type[Event], field: str) -> bool:
    info = event.model_fields.get(field)
    return info is not None and info.annotation == message.model_fields[field].annotation


def _nobody_provides(message: type[Message], field: str, sources: Sequence[Source], where: str) -> str:
    names = ", ".join(dict.fromkeys(event.__name__ for _, events in sources for event in events)) or "nothing"
    wanted = message.model_fields[field].annotation
    shown = getattr(wanted, "__name__", wanted)
    return (
        f"{where}: nobody provides field {field!r} ({shown}) of {message.__name__}; known there: {names}. Add the "
        "field "
        f"to one of them, give it a default, or write a function that takes what is known, or a query's view, and "
        f"returns {message.__name__}"
    )


def _event_types(wanted: Any, label: str) -> tuple[type[Event], ...]:
    options = (
        typing.get_args(wanted)
        if isinstance(wanted, types.UnionType) or typing.get_origin(wanted) is typing.Union
        else (wanted,)
    )
    if not options or not all(isinstance(one, type) and issubclass(one, Event) for one in options):
        raise DefinitionError(f"{label} must be annotated with an event of this saga or a query's view, not {wanted!r}")
    return tuple(options)


def _by_type(wanted: tuple[type[Event], ...], sources: Sequence[Source], label: str) -> Literal:
    for literal, events in sources:
        if set(events) <= set(wanted):
            return literal
    names = ", ".join(dict.fromkeys(event.__name__ for _, events in sources for event in events)) or "nothing"
    raise DefinitionError(
        f"{label}: {' | '.join(one.__name__ for one in wanted)} is not certain to be known there; known there: {names}"
    )


def _query_for(view: type[View], label: str) -> type[Query]:
    queries = view.__dict__.get("__queries__", ())
    if len(queries) == 1:
        return queries[0]  # type: ignore[no-any-return]
    if not queries:
        raise DefinitionError(
            f"{label}: no query answers with {view.__name__}; declare class ...(Query, answer={view.__name__})"
        )
    names = ", ".join(query.__name__ for query in queries)
    raise DefinitionError(f"{label}: {names} all answer with {view.__name__}; give each query a view of its own")
