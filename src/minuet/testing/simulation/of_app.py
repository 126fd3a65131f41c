"""A simulation of an app of which nothing is known but the app: what begins its sagas is sent, as its examples say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from minuet.app import App, Handler, IdempotencyKey, NewId, Now
from minuet.core.errors import ConfigurationError, MinuetError
from minuet.core.messages import Command, Event, name_of
from minuet.core.saga import Saga
from minuet.testing.simulation.faults import Faults
from minuet.testing.simulation.report import NEEDS_OPERATOR, SimulationFailed
from minuet.testing.simulation.simulation import Simulation
from minuet.testing.simulation.world import World

WITHIN_S = 15.0
SAID_WITHIN_S = 10.0
ENDS_S = 600.0
"""What waits longer is always told something: virtual days take their time, too."""
TRIED_S = 60.0
SHOWN = 200
OWN_SIMULATION = (
    "write a minuet.testing.simulation.Simulation with a driver and what your handlers need, and name that instead of "
    "the app (see docs/testing.md)"
)


def simulation_of(app: App, *, orders: int = 10, **settings: Any) -> Simulation:
    """Send so many of the commands that begin the app's sagas, each for a business of its own, some of them twice.

    Args:
        settings: as of `Simulation`.

    Raises:
        ConfigurationError: a command has no example, or handlers need something that is not there; says what to do.
    """
    beginning = [_beginning(app, saga) for saga in app.current_sagas.values()]
    awaited = [_awaited(saga) for saga in app.current_sagas.values()]
    if not beginning:
        raise ConfigurationError(f"app {app.name} has no saga, so nobody knows what to send; {OWN_SIMULATION}")
    _check_provided(app)
    simulation = Simulation(app, **settings)

    @simulation.drive
    async def customers(world: World) -> None:
        await asyncio.gather(*(customer(world, number) for number in range(orders)))

    async def customer(world: World, number: int) -> None:
        commands = beginning[number % len(beginning)]
        command = world.random.choice(commands).fresh(number + 1)
        if orders > 1:
            await world.sleep(world.random.uniform(0.0, WITHIN_S))
        times = world.random.choice((1, 1, 1, 2)) if orders > 1 else 1
        answers = await asyncio.gather(*(world.send(command) for _ in range(times)))
        await asyncio.gather(*(outside(world, *one, answers[0]) for one in awaited[number % len(beginning)]))

    async def outside(world: World, saga: Saga, yes: _Example, no: _Example | None, ends: bool, begun: Event) -> None:
        """Say what the saga waits for, mostly; if the waiting ends by itself, sometimes nothing."""
        if type(begun) is not saga.begins_with:
            return
        others = ([no] if no else []) + ([None] if ends else [])
        said = world.random.choice((yes, yes, yes, *others))
        await world.sleep(world.random.uniform(0.0, SAID_WITHIN_S))
        if said is not None:
            world.tell(said.about(getattr(begun, saga.key)))

    return simulation


Awaited = tuple[Saga, "_Example", "_Example | None", bool]


def _awaited(saga: Saga) -> list[Awaited]:
    """What each of its waits is told: yes and no; and whether it ends if nobody says anything."""

    def example(event: type[Event]) -> _Example:
        return _Example(event, saga, f"event {name_of(event)} is waited for by saga {saga.name} and has no example")

    return [
        (
            saga,
            example(wait.event),
            example(wait.refused_by) if wait.refused_by else None,
            saga.rules.waits_s <= ENDS_S and (wait.within is not None or saga.deadline is not None),
        )
        for wait in saga.waits
    ]


def try_out(simulation: Simulation) -> None:
    """Run it once while nothing goes wrong.

    Raises:
        ConfigurationError: not even then it does what it should; says why.
    """
    app, simulation = simulation.app, copy(simulation)
    simulation.patience_s = TRIED_S
    try:
        report = simulation.run(simulation.seed, faults=Faults(until_s=WITHIN_S + 1.0))
    except SimulationFailed as failed:
        if not _outside(app):
            return  # then it is the app's, and any seed will tell
        raise ConfigurationError(
            f"app {app.name} breaks a promise though nothing goes wrong: {failed.promise}: {failed.how[:SHOWN]}"
            f"{_outside(app)}"
        ) from failed
    except MinuetError as error:
        raise ConfigurationError(f"what was sent to app {app.name} by its example was not taken: {error}") from error
    except Exception as error:
        raise ConfigurationError(
            f"app {app.name} cannot be simulated as it is: {type(error).__name__}: {error}{_outside(app)}"
        ) from error
    if report.sagas[NEEDS_OPERATOR]:
        raise ConfigurationError(
            f"app {app.name} needs an operator though nothing goes wrong: {next(iter(report.parked.values()))}"
            f"{_outside(app)}"
        )


def _outside(app: App) -> str:
    """A hint, if something of the app may reach out of the simulation."""
    kinds = dict.fromkeys(kind.__name__ for service in app.services.values() for kind in service.providers)
    if not kinds:
        return ""
    return (
        f". Its own {', '.join(kinds)} may need the world outside, and a simulation has no sockets and no threads. "
        f"Stand in for them with Simulation(app, provided=...): {OWN_SIMULATION}"
    )


# -- what handlers ask for ---------------------------------------------------------------------------------------------


def _check_provided(app: App) -> None:
    """Raises ConfigurationError if a handler that runs outside of a transaction asks for what nobody provides."""
    for service in app.services.values():
        for handler in _handlers(service.commands.values(), service.reactions):
            for kind in handler.wants.values():
                if handler.is_async and kind not in service.providers and kind not in (IdempotencyKey, NewId, Now):
                    raise ConfigurationError(
                        f"{service.name}.{handler.name} asks for {kind.__name__}, and nothing in app {app.name} "
                        f"provides one: declare it with @{service.name}.provides, or {OWN_SIMULATION}"
                    )


def _handlers(*groups: Any) -> Iterator[Handler]:
    for group in groups:
        for handler in group:
            yield handler
            yield from handler.last_resorts


# -- commands ----------------------------------------------------------------------------------------------------------


def _beginning(app: App, saga: Saga) -> Sequence[_Example]:
    """The commands that may begin it and have an example."""
    commands = [
        command
        for service in app.services.values()
        for command in service.commands
        if saga.begins_with in command.__contract__.answers
    ]
    if not commands:
        raise ConfigurationError(
            f"no command of app {app.name} is answered by {name_of(saga.begins_with)}, which begins saga {saga.name}; "
            f"{OWN_SIMULATION}"
        )
    found, problems = [], []
    for command in commands:
        try:
            example = _Example(command, saga, f"command {name_of(command)} begins a saga and has no example")
            example.fresh(1)
        except ConfigurationError as problem:
            problems.append(problem)
        else:
            found.append(example)
    if not found:
        raise problems[0]
    return found


class _Example:
    """The examples of a command, or of an event, and how to make one for a business of its own.

    Args:
        problem: what is said if there is none.

    Raises:
        ConfigurationError: it has none.
    """

    def __init__(self, command: type[Command | Event], saga: Saga, problem: str) -> None:
        self._command = command
        self._problem = problem
        self._key = saga.key
        keys = command.__contract__.key or ((saga.key,) if saga.key in command.model_fields else ())
        self._keys = [name for name in keys if name in command.model_fields]
        self._examples = list(self._all())

    def _all(self) -> Iterator[dict[str, Any]]:
        schema = self._command.model_json_schema()
        names = {info.alias or name: name for name, info in self._command.model_fields.items()}
        for whole in schema.get("examples", ()):
            yield {names.get(name, name): value for name, value in whole.items()}
        if "examples" in schema:
            return
        found: dict[str, Any] = {}
        for alias, name in names.items():
            made = list(_example_in(schema["properties"][alias], schema.get("$defs", {})))
            if made:
                found[name] = made[0]
            elif alias in schema.get("required", ()) and name not in self._keys:
                kind = "command" if issubclass(self._command, Command) else "event"
                raise ConfigurationError(
                    f"{self._problem}: nobody knows what its field {name} looks like; write {name}: Annotated[..., "
                    f"Field(examples=[...])], or give the whole {kind} "
                    'some with model_config = ConfigDict(json_schema_extra={"examples": [{...}]})'
                )
        yield found

    def about(self, saga_id: Any) -> Event:
        """The event's example, about this business.

        Raises:
            ConfigurationError: it does not keep its own rules.
        """
        try:
            made = self._command.model_validate({**self._examples[0], self._key: saga_id})
        except ValidationError as error:
            raise ConfigurationError(
                f"the example of {name_of(self._command)} breaks its own rules: {error.errors()[0]['msg']}"
            ) from error
        assert isinstance(made, Event)
        return made

    def fresh(self, number: int) -> Command:
        """The example, in a business with this number.

        Raises:
            ConfigurationError: it does not keep its own rules, or its key cannot be made anew.
        """
        values = dict(self._examples[number % len(self._examples)])
        is_fresh = not self._keys
        for name in self._keys:
            for value in _others(values.get(name), number, name_of(self._command)):
                if self._fits(name, value, values):
                    values[name], is_fresh = value, True
                    break
        try:
            made = self._command.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "as a whole"
            raise ConfigurationError(
                f"the example of command {name_of(self._command)} breaks its own rules, {where}: {first['msg']}"
            ) from error
        if not is_fresh:
            raise ConfigurationError(
                f"command {name_of(self._command)}: no other {' or '.join(self._keys)} could be made from its example; "
                f"{OWN_SIMULATION}"
            )
        assert isinstance(made, Command)
        return made

    def _fits(self, name: str, value: Any, values: Mapping[str, Any]) -> bool:
        """Whether the field may have this value; what is wrong with the others is told later."""
        try:
            self._command.model_validate({**values, name: value})
        except ValidationError as error:
            names = {name, self._command.model_fields[name].alias}
            return all(problem["loc"] and problem["loc"][0] not in names for problem in error.errors())
        return True


def _others(example: Any, number: int, name: str) -> Iterator[Any]:
    """Values like this one, but for their number."""
    if isinstance(example, int) and not isinstance(example, bool):
        yield example + number
    text = example if isinstance(example, str) else name
    yield f"{text}-{number}"
    stem = text.rstrip("0123456789")
    yield f"{stem}{number:0{len(text) - len(stem)}}"
    yield number
    yield str(UUID(int=number))


def _example_in(schema: Mapping[str, Any], others: Mapping[str, Any]) -> Iterator[Any]:
    """The schema's own example, or one made of its parts; nothing if one of them has none."""
    if "$ref" in schema:
        yield from _example_in(others[schema["$ref"].rpartition("/")[2]], others)
    elif schema.get("examples"):
        yield schema["examples"][0]
    elif "const" in schema:
        yield schema["const"]
    elif schema.get("enum"):
        yield schema["enum"][0]
    elif "default" in schema:
        yield schema["default"]
    elif "anyOf" in schema:
        for one in schema["anyOf"]:
            if found := list(_example_in(one, others)):
                yield found[0]
                return
    elif "items" in schema:
        for one in _example_in(schema["items"], others):
            yield [one]
    elif "properties" in schema:
        made = {name: list(_example_in(one, others)) for name, one in schema["properties"].items()}
        if all(made[name] for name in schema.get("required", ())):
            yield {name: found[0] for name, found in made.items() if found}
