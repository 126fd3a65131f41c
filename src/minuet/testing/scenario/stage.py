"""Plays a sentence: the app with its participants as they were told to behave, in a simulated world, once."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from minuet.app import App
from minuet.bootstrap import everything
from minuet.core.errors import Conflict, MessageError, NotYet, Rejected
from minuet.core.messages import Command, Event, Message, Refusal, name_of
from minuet.testing.scenario.happened import Happened
from minuet.testing.scenario.participants import Behaviour, IsDown, OperatorRetries, Takes
from minuet.testing.scenario.players import Players
from minuet.testing.scenario.vocabulary import Vocabulary, WrongSentence
from minuet.testing.scenario.witness import Witness
from minuet.testing.simulation import Faults, Simulation, SimulationFailed, World
from minuet.testing.simulation.trace import Moment

PATIENCE_S = 2 * 3600.0
"""How long after the last thing that is said everything must be over."""
ANSWERS_WITHIN_S = 300.0

Maker = Callable[..., Any]
AtTheEnd = Callable[[World], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What is said together: behaviours that hold from then on, and messages that are sent at once.

    Attributes:
        after_s: how long after the turn before it begins.
    """

    after_s: float = 0.0
    behaviours: tuple[Behaviour, ...] = ()
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that a sentence says before its first `then`."""

    app: App
    words: Vocabulary
    coordinations: tuple[str, ...]
    seed: int = 0
    provided: tuple[tuple[type[Any], Maker], ...] = ()
    having: tuple[Message, ...] = ()
    turns: tuple[Turn, ...] = ()

    @property
    def behaviours(self) -> list[Behaviour]:
        return [one for turn in self.turns for one in turn.behaviours]


def play(story: Story, coordination: str, at_the_end: AtTheEnd | None = None) -> Happened:
    """What happens. Its world can be looked into until it is closed.

    Args:
        coordination: empty for an app without sagas.
        at_the_end: done in the world when all is over.

    Raises:
        WrongSentence: the beginning cannot be had.
        AssertionError: something that minuet promises does not hold.
    """
    return _Stage(story, coordination, at_the_end).play()


class _Stage:
    """One run."""

    def __init__(self, story: Story, coordination: str, at_the_end: AtTheEnd | None) -> None:
        self.story = story
        self.at_the_end = at_the_end
        self.happened = Happened(
            words=story.words, coordination=coordination, seed=story.seed, remarks=list(_not_provided(story))
        )
        self.players = Players(story.behaviours)
        self._witness: Witness | None = None
        self._down_until = 0.0
        self._world: World | None = None

    @property
    def world(self) -> World:
        assert self._world is not None
        return self._world

    def play(self) -> Happened:
        story, happened = self.story, self.happened
        lasts_s = sum(turn.after_s for turn in story.turns)
        lasts_s += sum(one.seconds for one in story.behaviours if isinstance(one, IsDown | Takes))
        lasts_s += max((saga.rules.waits_s for saga in story.app.sagas), default=0.0)
        simulation = Simulation(
            self.players.app(story.app, story.words),
            seed=story.seed,
            coordination=happened.coordination or "any",
            machines="apart",
            faults=Faults(until_s=0.0),
            provided=self._provided,
            patience_s=PATIENCE_S + lasts_s,
            retries_parked=False,
        )
        simulation.drive(self._drive)
        for name in everything(simulation.app):
            simulation.always(of=name)(functools.partial(self._committed, name))
        try:
            simulation.run()
        except SimulationFailed as failed:
            happened.close()
            raise AssertionError(
                f"played {happened.where}(seed {story.seed}), a promise is broken: {failed.promise}\n  {failed.how}\n\n"
                + "".join(f"{one}\n\n" for one in happened.remarks)
                + failed.trace.diagram()
            ) from failed
        except BaseException:
            happened.close()
            raise
        happened.unused = [one for one in story.behaviours if one not in self.players.used]
        return happened

    # -- what is done --------------------------------------------------------------------------------------------------

    def _provided(self, world: World) -> Mapping[type[Any], Any]:
        return {kind: _made(maker, world) for kind, maker in self.story.provided}

    async def _drive(self, world: World) -> None:
        self._world = world
        self.players.enter(world)
        # Its databases are looked into when all is over.
        self.happened.world, self.happened.close = world, world.close
        world.close = _later  # type: ignore[method-assign]
        await self._have(world)
        begun_at = len(world.happened.moments)
        self._witness = Witness(world, self.happened)
        tasks: list[asyncio.Task[None]] = []
        begins = world.now
        for turn in self.story.turns:
            begins += turn.after_s
            await world.sleep(begins - world.now)
            for behaviour in turn.behaviours:
                self._begin(behaviour)
            tasks += [asyncio.create_task(self._send(message)) for message in turn.messages]
        await asyncio.gather(*tasks)
        await world.sleep(max(0.0, self._down_until - world.now))
        await world.quiet(PATIENCE_S)
        self._witness.end()
        self.happened.moments = [one for one in world.happened.moments[begun_at:] if _is_told(one)]
        if self.at_the_end is not None:
            await self.at_the_end(world)

    def _committed(self, service: str, world: World) -> None:
        """Called after each commit of the service."""
        if self._witness is not None:
            self._witness.look(service)
            self.players.committed(service, self._witness.new_entries(service))

    async def _have(self, world: World) -> None:
        for message in self.story.having:
            if isinstance(message, Event):
                world.tell(message)
                continue
            assert isinstance(message, Command)
            try:
                answer = await world.send(message, patience_s=ANSWERS_WITHIN_S)
            except (NotYet, Rejected, Conflict) as error:
                raise WrongSentence(f"having {message!r}: it is not done: {error}") from error
            if isinstance(answer, Refusal):
                raise WrongSentence(f"having {message!r}: it is refused with {answer!r}, so it is not done")
        await world.quiet(PATIENCE_S)
        for (name, saga_id), why in world.needing_an_operator().items():
            raise WrongSentence(f"having {', '.join(map(name_of, self.story.having))}: {name} {saga_id} needs {why}")

    def _begin(self, behaviour: Behaviour) -> None:
        world = self.world
        self.players.begin(behaviour)
        if isinstance(behaviour, IsDown):
            self.players.used.add(behaviour)
            world.note(behaviour.service, f"is down for {behaviour.seconds:g} seconds")
            world.machines[behaviour.service].pause(behaviour.seconds)
            self._down_until = max(self._down_until, world.now + behaviour.seconds)
        elif isinstance(behaviour, OperatorRetries) and world.retry_parked():
            self.players.used.add(behaviour)

    async def _send(self, message: Message) -> None:
        world = self.world
        if isinstance(message, Event):
            world.tell(message)
            return
        assert isinstance(message, Command)
        lasts_s = ANSWERS_WITHIN_S + max(0.0, self._down_until - world.now)
        try:
            await world.send(message, patience_s=lasts_s)
        except (Rejected, Conflict, MessageError) as error:
            self.happened.problems.append(f"{name_of(message)} was rejected: {error}")
        except NotYet as error:
            self.happened.problems.append(f"{name_of(message)} was not answered within {lasts_s:g} seconds: {error}")


def _not_provided(story: Story) -> Iterator[str]:
    """What handlers get from their service itself, which may be nothing for a simulated world."""
    provided = {kind for kind, _ in story.provided}
    for service in story.app.services.values():
        wanted = {kind for handler in service.commands.values() for kind in handler.wants.values()}
        for kind, provider in service.providers.items():
            if kind in wanted and kind not in provided:
                yield (
                    f"{service.name} made its {kind.__name__} itself, with {provider.__name__}; if that opens "
                    f"connections, give it something else: .provided({kind.__name__}, ...)"
                )


def _later() -> None:
    """Whoever has the `Happened` closes its world."""


def _is_told(one: Moment) -> bool:
    """Whether a reader of the diagram has something of it."""
    is_bookkeeping = one.kind == "commits" and one.what.startswith("ask/") and one.what.endswith(": ")
    return one.kind != "says" and not is_bookkeeping and one.what != "nothing goes wrong from here on"


def _made(maker: Maker, world: World) -> Any:
    """What stands for the world outside. A maker with a parameter that has no default gets the simulated world."""
    try:
        parameters = list(inspect.signature(maker).parameters.values())
    except ValueError:  # some builtin classes do not say
        parameters = []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wants_world = any(one.default is inspect.Parameter.empty and one.kind in positional for one in parameters)
    return maker(world) if wants_world else maker()
