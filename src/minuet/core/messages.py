"""The contract between services: commands, events, refusals and queries, and the views that answer queries.

A command is imperative and names the service that handles it and the events that may answer it. An event is a
fact, in the past tense. A refusal is an event that says "no, and nothing of mine remains". A query only reads.
Services share these classes and nothing else. JSON bodies are camelCase; see `minuet.codec` for the wire form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from minuet.core.errors import DefinitionError
from minuet.core.operating import Verb

Upcast = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns the JSON object of one schema version into that of the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What a message class declares about itself besides its fields."""

    version: int = 1
    upcasts: Mapping[int, Upcast] = field(default_factory=dict)
    channel: str = ""
    service: str = ""
    http: HttpRoute | None = None
    answers: tuple[type[Event], ...] = ()
    key: tuple[str, ...] = ()
    accepted: str | None = None


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """A method and a path template in field names, as in ``GET /orders/{order_id}``."""

    method: str
    path: str

    METHODS: ClassVar = ("GET", "POST", "PUT", "PATCH", "DELETE")

    @classmethod
    def parse(cls, text: str, *, of: str) -> Self:
        method, _, path = text.partition(" ")
        if method not in cls.METHODS or not path.startswith("/"):
            raise DefinitionError(
                f'{of}: http="{text}" is not a route; write a method and a path, as in "POST /orders"'
            )
        return cls(method, path)

    @property
    def path_fields(self) -> tuple[str, ...]:
        return tuple(part[1:-1] for part in self.path.split("/") if part.startswith("{") and part.endswith("}"))


def _check_upcasts(name: str, version: int, upcasts: Mapping[int, Upcast]) -> None:
    missing = [number for number in upcasts if not 1 <= number < version]
    if missing:
        raise DefinitionError(f"{name} is version {version}, so an upcast from version {missing[0]} has nowhere to go")


def _check_fields(message: type[Message], wanted: set[str]) -> None:
    unknown = wanted - set(message.model_fields)
    if unknown:
        raise DefinitionError(
            f"{message.__name__} has no field {sorted(unknown)[0]!r}, which its key or its path names"
        )


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        allow_inf_nan=False,  # JSON has neither
        hide_input_in_errors=True,  # an error is logged with its traceback, and a value may be somebody's name
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **unused: Any) -> None:
        super().__pydantic_init_subclass__(**unused)
        for name, declared in cls.model_fields.items():
            if declared.exclude:
                raise DefinitionError(
                    f"{cls.__name__}.{name} is excluded from what is sent, so only its sender would see it; leave the "
                    "field out of the message"
                )


def _refuse_keywords(message: type, given: Mapping[str, Any], *known: str) -> None:
    """A class keyword that means nothing is misspelt; pydantic has taken its own out already."""
    if given:
        raise DefinitionError(
            f"{message.__name__}: there is no class keyword {next(iter(given))!r}; there are {', '.join(known)}"
        )


class View(_Model):
    """What a query answers with. Fields it does not know are ignored, so that the answering service may add some."""

    __queries__: ClassVar[tuple[type[Query], ...]] = ()


class Message(_Model):
    """Base of commands, events and queries. Declare those, not this."""

    __contract__: ClassVar[Contract] = Contract()


class Event(Message):
    """A fact that some service published: ``class OrderShipped(Event, channel="shipping"): ...``.

    Args:
        channel: where it is published; a deployment maps channels to brokers.
        version: the number of its schema, counted up when a field changes its meaning.
        upcasts: for each older version, a function from its JSON object to the next version's.

    Readers ignore fields they do not know.
    """

    def __init_subclass__(
        cls, *, channel: str = "", version: int = 1, upcasts: Mapping[int, Upcast] | None = None, **unknown: Any
    ) -> None:
        super().__init_subclass__()
        _refuse_keywords(cls, unknown, "channel", "version", "upcasts")
        parent = cls.__contract__.channel
        if not (channel or parent) and cls.__name__ != "Refusal":
            raise DefinitionError(
                f'event {cls.__name__} names no channel; write class {cls.__name__}(Event, channel="...")'
            )
        _check_upcasts(cls.__name__, version, upcasts or {})
        cls.__contract__ = Contract(version=version, upcasts=upcasts or {}, channel=channel or parent)


class Refusal(Event):
    """An event that says "no, and nothing of mine remains". Over HTTP it is a 409 problem."""


class StepRefused(Refusal, channel="minuet.refused"):
    """The refusal that minuet records itself, in the participant's name: too late, or retries exhausted.

    It is published on the channel ``<service>.refused``.
    """

    service: str
    command: str
    reason: str
    detail: str = ""


class StepAccepted(Event, channel="minuet.decided"):
    """What a saga waits for came in time. Decided once, by the one place that waits; see `StepAbandoned`.

    It is published on the channel ``<service>.decided``.
    """

    service: str
    step: str


class StepAbandoned(Refusal, channel="minuet.decided"):
    """A saga does not wait any longer for a step's outcome, or for an event from outside.

    It counts as a refusal at once. What the step's participant has done all the same, it undoes when it hears of this.
    It is published on the channel ``<service>.decided``, where the service is the one that waited.
    """

    service: str
    step: str
    reason: str


class SagaCancelled(Event, channel="sagas.cancelled"):
    """Somebody no longer wants a saga. Whoever is next refuses its step, and what was done is undone.

    It comes too late where nothing can be refused any more: then the saga completes.
    """

    saga: str
    saga_id: str
    who: str
    why: str = ""


class InstructionGiven(Event, channel="sagas.instructed"):
    """An operator wants sagas, or a service, to pause, to go on, or to try again now; see `minuet.core.operating`.

    Of two about the same the later one counts, by ``at`` (seconds since 1970) and in whichever order they are heard; of
    two at the same time, the one that resumes.
    """

    verb: Verb
    saga: str = ""
    saga_id: str = ""
    service: str = ""
    at: float
    who: str
    why: str = ""


class Command(Message):
    """A request to one service: ``class ReserveInventory(Command, service="inventory", answers=(...)): ...``.

    Args:
        service: who handles it.
        answers: the events (refusals among them) that may answer it, each at most once and for good.
        http: its route, ``"POST /inventory/reserve"``; fields in braces are taken from the path.
        key: the field, or fields, that say which piece of business it is: the same key is the same command, done
            once, whoever sends it and however often. Without it, the saga's step or the ``Idempotency-Key`` is that.
        accepted: a path template; HTTP then answers 202 with it as ``Location`` instead of 200.

    Fields it does not know are an error.
    """

    model_config = ConfigDict(extra="forbid")

    def __init_subclass__(
        cls,
        *,
        service: str = "",
        answers: tuple[type[Event], ...] = (),
        http: str | None = None,
        key: str | tuple[str, ...] = (),
        accepted: str | None = None,
        version: int = 1,
        upcasts: Mapping[int, Upcast] | None = None,
        **unknown: Any,
    ) -> None:
        super().__init_subclass__()
        _refuse_keywords(cls, unknown, "service", "answers", "http", "key", "accepted", "version", "upcasts")
        if not service:
            raise DefinitionError(
                f'command {cls.__name__} names no service; write class {cls.__name__}(Command, service="...")'
            )
        if not answers:
            raise DefinitionError(
                f"command {cls.__name__} has no answers; name the events that may answer it: answers=(...,)"
            )
        for answer in answers:
            if not (isinstance(answer, type) and issubclass(answer, Event)):
                raise DefinitionError(f"command {cls.__name__}: answer {answer!r} is not an Event class")
        _check_upcasts(cls.__name__, version, upcasts or {})
        route = HttpRoute.parse(http, of=cls.__name__) if http else None
        cls.__contract__ = Contract(
            version=version,
            upcasts=upcasts or {},
            service=service,
            http=route,
            answers=tuple(answers),
            key=(key,) if isinstance(key, str) else tuple(key),
            accepted=accepted,
        )

    @classmethod
    def __pydantic_init_subclass__(cls, **unused: Any) -> None:
        super().__pydantic_init_subclass__(**unused)
        wanted = {*cls.__contract__.key, *(cls.__contract__.http.path_fields if cls.__contract__.http else ())}
        _check_fields(cls, wanted)


class AwaitOutcome(Command, service="minuet", answers=(StepAccepted, StepAbandoned)):
    """Minuet's own: wait for a step's outcome or an event from outside, and decide when to stop. Nobody sends it."""


class Query(Message):
    """A question to one service that changes nothing: ``class GetOrder(Query, service="orders", answer=Order)``.

    Its handler raises `NotFound` when there is no such thing.
    """

    __answer__: ClassVar[type[View]]
    model_config = ConfigDict(extra="forbid")

    def __init_subclass__(
        cls, *, service: str = "", answer: type[View] | None = None, http: str | None = None, **unknown: Any
    ) -> None:
        super().__init_subclass__()
        _refuse_keywords(cls, unknown, "service", "answer", "http")
        if not service or answer is None:
            raise DefinitionError(
                f"query {cls.__name__} needs its service and answer; write class {cls.__name__}(Query, "
                'service="...", answer=SomeView)'
            )
        route = HttpRoute.parse(http, of=cls.__name__) if http else None
        if route and route.method != "GET":
            raise DefinitionError(f"query {cls.__name__} only reads, so its route is a GET, not {route.method}")
        cls.__contract__ = Contract(service=service, http=route)
        cls.__answer__ = answer
        # The view remembers its queries, so that a function that asks for the view says which query it means.
        answer.__queries__ = (*answer.__dict__.get("__queries__", ()), cls)

    @classmethod
    def __pydantic_init_subclass__(cls, **unused: Any) -> None:
        super().__pydantic_init_subclass__(**unused)
        _check_fields(cls, set(cls.__contract__.http.path_fields) if cls.__contract__.http else set())


def name_of(message: Message | type[Message]) -> str:
    """The message's type name, the same in code, on the wire and in every table."""
    return message.__name__ if isinstance(message, type) else type(message).__name__


def required_fields(message: type[BaseModel]) -> tuple[str, ...]:
    return tuple(name for name, info in message.model_fields.items() if info.is_required())


def successes(command: type[Command]) -> tuple[type[Event], ...]:
    return tuple(answer for answer in command.__contract__.answers if not issubclass(answer, Refusal))


def refusals(command: type[Command]) -> tuple[type[Refusal], ...]:
    return tuple(answer for answer in command.__contract__.answers if issubclass(answer, Refusal))


def channel_of(event: Event) -> str:
    """Where this event is published."""
    service = event.service if isinstance(event, StepRefused | StepAccepted | StepAbandoned) else ""
    return channel_for(type(event), service)


def channel_for(event: type[Event], service: str) -> str:
    """Where a service publishes events of this class: minuet's own on a channel of the service."""
    if event is StepRefused:
        return f"{service}.refused"
    if event in (StepAccepted, StepAbandoned):
        return f"{service}.decided"
    return event.__contract__.channel
