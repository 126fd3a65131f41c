"""What a team declares: services with their handlers, and the app they form with sagas. Declaring does nothing."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from minuet.core.compile import Kind
from minuet.core.errors import DefinitionError
from minuet.core.lint import check_sagas
from minuet.core.messages import (
    Command,
    Event,
    InstructionGiven,
    Message,
    Query,
    SagaCancelled,
    StepRefused,
    View,
    name_of,
)
from minuet.core.retry import RetryPolicy
from minuet.core.saga import Saga

F = TypeVar("F", bound=Callable[..., Any])
Provider = TypeVar("Provider", bound=Callable[..., AsyncIterator[Any]])


class IdempotencyKey(str):
    """What a handler passes on to outside systems, so that asking twice does it once. The same for every attempt."""

    __slots__ = ()


class NewId(str):
    """A fresh name, for a handler that has to invent one: a tracking number, an order id."""

    __slots__ = ()


class Now(float):
    """The time, in seconds since 1970 (UTC), for a handler that has to write it down."""

    __slots__ = ()


class Deployment(Protocol):
    """What a provider may ask of the place the app runs in."""

    data: Path
    settings: Mapping[str, Any]

    def url_of(self, service: str) -> str:
        """Where a service of the app answers HTTP now. Ask each time: it moves when it is started again.

        Raises:
            NotYet: it is not running.
        """


class Row(Protocol):
    """A row of a result; ``dict(row)`` makes a dict of it."""

    def __getitem__(self, column: str, /) -> Any: ...
    def keys(self) -> Iterable[str]: ...


class Database(Protocol):
    """The service's own database, within the handler's transaction: the same SQL text on SQLite and on Postgres.

    Values are named in the statement with a colon, and given by name: they are never put into the text.

        db.execute("UPDATE stock SET reserved = reserved + :pieces WHERE item = :item", item=item, pieces=2)

    It is the thinnest way to the database. A handler may as well ask for the driver's own connection, or SQLAlchemy's.
    """

    def execute(self, statement: str, /, **values: Any) -> int:
        """Run a statement; how many rows it changed."""

    def one(self, statement: str, /, **values: Any) -> Row | None:
        """The first row of the result, or None if there is none."""

    def all(self, statement: str, /, **values: Any) -> Sequence[Row]:
        """Every row of the result."""


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """A function of a service with what it handles and what it asks for. Call it as the function it is."""

    service: str
    name: str
    function: Callable[..., Any]
    message: type[Message]
    wants: Mapping[str, type[Any]]
    is_async: bool
    answers: tuple[type[Event], ...]
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    recorders: list[Handler] = field(default_factory=list)
    last_resorts: list[Handler] = field(default_factory=list)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def on_outcome(self, function: F) -> F:
        """The function that writes down, in the service's transaction, what an ``async`` handler did.

        It gets the handler's answer and the database handle; both commit together with the recorded outcome.
        """
        if not self.is_async:
            raise DefinitionError(f"{self.name} is not async: it writes in its own transaction and needs no on_outcome")
        if inspect.iscoroutinefunction(function):
            raise DefinitionError(
                f"{function.__name__}, the on_outcome of {self.name}, runs in the transaction; make it a plain def"
            )
        if self.recorders:
            raise DefinitionError(f"{self.name} has an on_outcome already: {self.recorders[0].name}")
        _, wants = _parameters(function)
        self.recorders.append(Handler(self.service, function.__name__, function, self.message, wants, False, ()))
        return function

    def on_exhausted(self, function: F) -> F:
        """The ``async`` function that makes sure that nothing of the command remains, when its attempts are exhausted.

        Whether a call to the outside that failed did its work is not known. Only with this function may minuet refuse
        the command then; without it, the command waits for an operator.
        """
        if not self.is_async or not inspect.iscoroutinefunction(function):
            raise DefinitionError(
                f"{function.__name__}: on_exhausted is an async def, for an async handler; a def is rolled back anyway"
            )
        first, wants = _parameters(function)
        if first is not self.message:
            raise DefinitionError(
                f"the first parameter of {function.__name__} must be annotated with {name_of(self.message)}"
            )
        self.last_resorts.append(Handler(self.service, function.__name__, function, self.message, wants, True, ()))
        return function


class Service:
    """One service: handlers over its own database.

    Args:
        name: in commands, in configuration and on the wire.
        schema: its own tables: SQL text, or a `sqlalchemy.MetaData`. Created when missing.
    """

    def __init__(self, name: str, *, schema: Any = "") -> None:
        if not name.replace("_", "").isalnum() or not name.islower():
            raise DefinitionError(f"service name {name!r} must be lower-case letters, digits and _")
        self.name = name
        self.schema = schema
        self.commands: dict[type[Command], Handler] = {}
        self.queries: dict[type[Query], Handler] = {}
        self.reactions: list[Handler] = []
        self.providers: dict[type[Any], Callable[..., AsyncIterator[Any]]] = {}
        self.mounted: Callable[[Deployment], Any] | None = None

    def handles(
        self, command: type[Command], *, retry: RetryPolicy | None = None
    ) -> Callable[[Callable[..., Any]], Handler]:
        """Declare the handler of a command: it returns one of the command's answers.

        A ``def`` runs inside the service's transaction; a refusal it returns, or an exception, takes back what it
        wrote. An ``async def`` runs outside of any transaction, many at once; `Handler.on_outcome` writes what it did.
        An exception is a technical fault: the handler is called again, as ``retry`` says.
        """
        if not (isinstance(command, type) and issubclass(command, Command)):
            raise DefinitionError(
                f"{self.name}.handles({command!r}): not a Command class; @{self.name}.on(...) takes events"
            )
        if command.__contract__.service != self.name:
            raise DefinitionError(
                f"{name_of(command)} is a command to {command.__contract__.service}, not to {self.name}"
            )

        def declare(function: Callable[..., Any]) -> Handler:
            if command in self.commands:
                raise DefinitionError(
                    f"{name_of(command)} has two handlers, {self.commands[command].name} and {function.__name__}; "
                    "a command has one"
                )
            _check_answers(function, command)
            handler = self._handler(function, command, command.__contract__.answers, retry)
            self.commands[command] = handler
            return handler

        return declare

    def answers(self, query: type[Query]) -> Callable[[Callable[..., Any]], Handler]:
        """Declare the handler of a query: a ``def`` that reads and returns the query's view, or raises `NotFound`."""
        if query.__contract__.service != self.name:
            raise DefinitionError(f"{name_of(query)} is a query to {query.__contract__.service}, not to {self.name}")

        def declare(function: Callable[..., Any]) -> Handler:
            if query in self.queries:
                raise DefinitionError(
                    f"{name_of(query)} has two handlers, {self.queries[query].name} and {function.__name__}"
                )
            if inspect.iscoroutinefunction(function):
                raise DefinitionError(f"{function.__name__} reads the service's own database, so it is a plain def")
            self.queries[query] = self._handler(function, query, (), None)
            return self.queries[query]

        return declare

    def on(self, event: type[Event], *, retry: RetryPolicy | None = None) -> Callable[[Callable[..., Any]], Handler]:
        """Declare a free-standing reaction to an event, done once for each. Events it returns are published."""
        if not (isinstance(event, type) and issubclass(event, Event)):
            raise DefinitionError(
                f"{self.name}.on({event!r}): not an Event class; @{self.name}.handles(...) takes commands"
            )

        def declare(function: Callable[..., Any]) -> Handler:
            if any(one.name == function.__name__ for one in self.reactions):
                raise DefinitionError(
                    f"{self.name} has two reactions named {function.__name__}; a reaction is known by its name"
                )
            handler = self._handler(function, event, tuple(events_returned_by(function)), retry)
            self.reactions.append(handler)
            return handler

        return declare

    def provides(self, factory: Provider) -> Provider:
        """Declare something that handlers may ask for by its type, open while the service runs.

        An async generator that yields it once: ``async def gateway(deployment: Deployment) -> AsyncIterator[Gateway]``.
        """
        returns = typing.get_type_hints(factory).get("return")
        made = typing.get_args(returns)
        is_generator: bool = inspect.isasyncgenfunction(factory)
        if not is_generator or not made or not isinstance(made[0], type):
            raise DefinitionError(
                f"{factory.__name__} must be an async generator annotated with -> AsyncIterator[WhatItProvides]"
            )
        self.providers[made[0]] = factory
        return factory

    def mount(self, factory: Callable[[Deployment], Any]) -> Callable[[Deployment], Any]:
        """Declare an ASGI application of the service's own, served under ``/<service>``; made at start."""
        self.mounted = factory
        return factory

    def _handler(
        self,
        function: Callable[..., Any],
        message: type[Message],
        answers: tuple[type[Event], ...],
        retry: RetryPolicy | None,
    ) -> Handler:
        first, wants = _parameters(function)
        if first is not message and not (isinstance(first, type) and issubclass(message, first)):
            raise DefinitionError(
                f"the first parameter of {function.__name__} must be annotated with {name_of(message)}, not "
                f"{getattr(first, '__name__', first)}"
            )
        is_async = inspect.iscoroutinefunction(function)
        return Handler(
            self.name, function.__name__, function, message, wants, is_async, answers, retry or RetryPolicy()
        )


@dataclass(frozen=True, slots=True, eq=False)
class ReadModel:
    """How an event updates the local copy of a query's view. Made by `read_model`."""

    query: type[Query]
    event: type[Event]
    function: Callable[..., View]

    def __call__(self, event: Event) -> View:
        return self.function(event)

    def key_of(self, event: Event) -> str:
        """Which view the event is about: the values of the query's fields, which the event has too."""
        return read_model_key(self.query, {name: getattr(event, name) for name in self.query.model_fields})


def read_model(query: type[Query]) -> Callable[[Callable[..., View]], ReadModel]:
    """Declare how a local copy of the query's view is kept by events, for deployments that choose ``read_model``.

    The function turns one event, which has the query's fields, into the whole view.
    """

    def declare(function: Callable[..., View]) -> ReadModel:
        event, _ = _parameters(function)
        if not (isinstance(event, type) and issubclass(event, Event)):
            raise DefinitionError(f"the parameter of {function.__name__} must be annotated with an event")
        missing = set(query.model_fields) - set(event.model_fields)
        if missing:
            raise DefinitionError(
                f"{name_of(event)} has no field {sorted(missing)[0]!r}, so it does not say which {name_of(query)} "
                "it is about"
            )
        return ReadModel(query, event, function)

    return declare


def read_model_key(query: type[Query], values: Mapping[str, Any]) -> str:
    return "\x1f".join(str(values[name]) for name in sorted(query.model_fields))


class App:
    """Services and the sagas they take part in.

    Args:
        name: of the whole.
        services: those whose handlers this program has. A saga may send commands to others, written elsewhere.
        sagas: of two with one name the first is the current definition; the others let running sagas finish.
        read_models: see `read_model`.

    Raises:
        DefinitionError: they do not fit together; says which and how to mend it.
    """

    def __init__(
        self,
        name: str,
        *,
        services: Sequence[Service],
        sagas: Sequence[Saga] = (),
        read_models: Sequence[ReadModel] = (),
    ) -> None:
        self.name = name
        self.services = {service.name: service for service in services}
        if len(self.services) != len(services):
            raise DefinitionError(f"app {name} has two services of one name")
        self.sagas = tuple(sagas)
        self.read_models = tuple(read_models)
        #: The definition under which each saga begins, by name.
        self.current_sagas = {saga.name: saga for saga in reversed(self.sagas)}
        self._definitions = {(saga.name, saga.fingerprint): saga for saga in self.sagas}
        check_sagas(self.current_sagas.values())
        for saga in sagas:
            self._check_handled(saga)

    def saga(self, name: str, definition: str = "") -> Saga | None:
        """The saga with this fingerprint; without one, the current definition."""
        if not definition:
            return self.current_sagas.get(name)
        return self._definitions.get((name, definition))

    def messages(self) -> Iterable[type[Message]]:
        """Every message class of the app."""
        yield StepRefused
        if self.sagas:
            yield SagaCancelled
            yield InstructionGiven
        for service in self.services.values():
            for command, handler in service.commands.items():
                yield command
                yield from command.__contract__.answers
                yield from events_returned_by(handler.function)
            yield from service.queries
            for reaction in service.reactions:
                yield reaction.message
                yield from reaction.answers
        for saga in self.sagas:
            for rule in saga.rules.every:
                yield rule.command
                yield from rule.command.__contract__.answers
            yield saga.begins_with
            for wait in saga.waits:
                yield wait.event
                if wait.refused_by is not None:
                    yield wait.refused_by
        for model in self.read_models:
            yield model.query
            yield model.event

    def _check_handled(self, saga: Saga) -> None:
        for rule in saga.rules.every:
            service = self.services.get(rule.service) if rule.kind is not Kind.WATCH else None
            if service is not None and rule.command not in service.commands:
                raise DefinitionError(
                    f"saga {saga.name}, {rule.id}: service {service.name} does not handle {name_of(rule.command)}; "
                    f"write a function with @{service.name}.handles({name_of(rule.command)})"
                )
            for fields in rule.recipe.queries.values():
                asked = self.services.get(fields.message.__contract__.service)
                if asked is not None and fields.message not in asked.queries:
                    raise DefinitionError(
                        f"saga {saga.name}, {rule.id}: service {asked.name} does not answer {name_of(fields.message)}; "
                        f"write a function with @{asked.name}.answers({name_of(fields.message)})"
                    )


def _parameters(function: Callable[..., Any]) -> tuple[Any, dict[str, type[Any]]]:
    """The annotation of the first parameter, and those of the others by name."""
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise DefinitionError(f"{function.__name__}: {error}; import the annotation's class at module level") from error
    names = list(inspect.signature(function).parameters)
    if not names:
        raise DefinitionError(f"{function.__name__} takes nothing; its first parameter is the message")
    missing = [name for name in names if name not in hints]
    if missing:
        raise DefinitionError(
            f"{function.__name__}: parameter {missing[0]!r} has no annotation, so nothing can be passed for it"
        )
    return hints[names[0]], {name: hints[name] for name in names[1:]}


def events_returned_by(function: Callable[..., Any]) -> tuple[type[Event], ...]:
    """Every event that the function may return, alone or in a tuple."""
    return tuple(event for together in _alternatives(function) for event in together)


def _alternatives(function: Callable[..., Any]) -> Iterable[tuple[type[Event], ...]]:
    """What the function may return, with what it returns together; ``tuple[Answer, More] | Refused`` has two."""
    returns = typing.get_type_hints(function).get("return")
    options = (
        typing.get_args(returns)
        if isinstance(returns, types.UnionType) or typing.get_origin(returns) is typing.Union
        else (returns,)
    )
    for option in options:
        together = typing.get_args(option) if typing.get_origin(option) is tuple else (option,)
        yield tuple(one for one in together if isinstance(one, type) and issubclass(one, Event))


def _check_answers(function: Callable[..., Any], command: type[Command]) -> None:
    # Of what is returned together the first is the answer, the others are just published.
    answers = [together[0] for together in _alternatives(function) if together]
    undeclared = [one for one in answers if one not in command.__contract__.answers]
    if undeclared:
        raise DefinitionError(
            f"{function.__name__} returns {undeclared[0].__name__}, an answer that {name_of(command)} does not "
            "declare; "
            f"add it to answers=(...) of {name_of(command)}"
        )
