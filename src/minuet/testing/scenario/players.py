"""The participants of a sentence at work: the app's own handlers, and around them what they are told to do."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from minuet.app import App, Handler, IdempotencyKey, Service
from minuet.core.errors import NotYet
from minuet.core.messages import Command, Event, name_of
from minuet.core.retry import RetryPolicy
from minuet.ports import Entry
from minuet.testing.scenario.participants import Behaviour, Crashes, Fails, OfCommand, Says, Takes
from minuet.testing.scenario.vocabulary import Vocabulary
from minuet.testing.scenario.witness import command_of
from minuet.testing.simulation import World
from minuet.testing.simulation.machine import Process

KEY = "minuet_key_of_the_test"
"""The parameter by which a handler that is told something learns which command it is that it does."""


class Players:
    """
    Args:
        behaviours: all that will ever be begun.

    Attributes:
        used: those that came to pass.
    """

    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        self.used: set[Behaviour] = set()
        self._about = [one for one in behaviours if isinstance(one, OfCommand)]
        self._acting: list[Behaviour] = []
        self._tried: dict[tuple[Behaviour, str], tuple[int, float]] = {}
        self._crashed: set[tuple[Behaviour, str]] = set()
        self._doomed: dict[str, dict[tuple[Crashes, str], None]] = {}
        self._world: World | None = None

    @property
    def world(self) -> World:
        assert self._world is not None
        return self._world

    def enter(self, world: World) -> None:
        """Be asked by this world whether something goes wrong, before it rolls its dice."""
        self._world = world
        world.strikes = functools.partial(self._strikes, world.strikes)  # type: ignore[method-assign]

    def begin(self, behaviour: Behaviour) -> None:
        """From now on it holds."""
        self._acting.append(behaviour)

    # -- the app -------------------------------------------------------------------------------------------------------

    def app(self, app: App, words: Vocabulary) -> App:
        """The same app, whose handlers do what they are told."""
        services = [self._service(service) for service in app.services.values()]
        # A service that somebody else writes is played by what the sentence says of it.
        played: dict[str, Service] = {}
        for command in sorted({one.command for one in self._about} & words.absent().keys(), key=name_of):
            service = played.setdefault(command.__contract__.service, Service(command.__contract__.service, schema=""))
            service.commands[command] = self._handler(_nobody(command))
        return App(app.name, services=[*services, *played.values()], sagas=app.sagas, read_models=app.read_models)

    def _service(self, service: Service) -> Service:
        same = Service(service.name, schema=service.schema)
        same.commands = {command: self._handler(handler) for command, handler in service.commands.items()}
        same.queries, same.reactions = service.queries, service.reactions
        same.providers, same.mounted = service.providers, service.mounted
        return same

    def _handler(self, handler: Handler) -> Handler:
        mine = [one for one in self._about if one.command is handler.message and one.service == handler.service]
        if not mine:
            return handler
        function = handler.function

        @functools.wraps(function)
        async def asynchronous(command: Command, **wants: Any) -> Any:
            key = wants.pop(KEY)
            acting = self._acting_on(mine, command)
            for one in acting:
                if isinstance(one, Takes):
                    self.used.add(one)
                    await asyncio.sleep(one.seconds)
            returned = self._instead(acting, command, key)
            if returned is None:
                returned = await function(command, **wants)
            self._afterwards(acting, key)
            for one in acting:
                if isinstance(one, Crashes) and self._crashes_now(one, key):
                    await self._process_of(handler.service).die_here()
            return returned

        @functools.wraps(function)
        def synchronous(command: Command, **wants: Any) -> Any:
            key = wants.pop(KEY)
            acting = self._acting_on(mine, command)
            returned = self._instead(acting, command, key)
            if returned is None:
                returned = function(command, **wants)
            self._afterwards(acting, key)
            for one in acting:
                if isinstance(one, Crashes) and one.at == "during":
                    self._doomed.setdefault(handler.service, {})[one, key] = None
            return returned

        return replace(
            handler,
            function=asynchronous if handler.is_async else synchronous,
            wants={**handler.wants, KEY: IdempotencyKey},
        )

    def _acting_on(self, mine: list[OfCommand], command: Command) -> list[OfCommand]:
        return [one for one in mine if one in self._acting and one.acts_on(command)]

    def _instead(self, acting: list[OfCommand], command: Command, key: str) -> Event | None:
        """What is answered without calling the handler, or None. Raises what a participant is told to fail with."""
        said = None
        for one in acting:
            if isinstance(one, Fails) and not one.after_its_work and self._fails_now(one, key):
                raise one.raised()
            if isinstance(one, Says):
                self.used.add(one)
                said = one.answered(command)
        return said

    def _afterwards(self, acting: list[OfCommand], key: str) -> None:
        for one in acting:
            if isinstance(one, Fails) and one.after_its_work and self._fails_now(one, key):
                raise one.raised()

    def _fails_now(self, one: Fails, key: str) -> bool:
        """Whether this attempt is one of those that fail. A transaction's work may run twice: that is one attempt."""
        count, last_s = self._tried.get((one, key), (0, -1.0))
        if self.world.now != last_s:
            count += 1
            self._tried[one, key] = (count, self.world.now)
        if one.times is not None and count > one.times:
            return False
        self.used.add(one)
        return True

    # -- crashes -------------------------------------------------------------------------------------------------------

    def _crashes_now(self, one: Crashes, key: str) -> bool:
        if one.at != "during" or (one, key) in self._crashed:
            return False
        self._note_crash(one, key)
        return True

    def _note_crash(self, one: Crashes, key: str) -> None:
        self._crashed.add((one, key))
        self.used.add(one)
        self.world.note(one.service, f"is told to crash {one.at} {name_of(one.command)}")

    def _strikes(self, usual: Callable[..., bool], kind: str, where: str, *more: Any) -> bool:
        """What the world asks at each point where a fault can happen."""
        if kind == "crash_before_commit":
            doomed = [one for one in self._doomed.pop(where, {}) if one not in self._crashed]
            for one, key in doomed:
                self._note_crash(one, key)
            if doomed:
                return True
        return usual(kind, where, *more)

    def committed(self, service: str, entries: Iterable[Entry]) -> None:
        """Told after each commit of a service what is in its inbox since the first `when`. May not return."""
        crashes = [one for one in self._acting if isinstance(one, Crashes) and one.at == "after"]
        for one in (one for one in crashes if one.service == service):
            for entry in entries:
                if entry.handler != name_of(one.command) or entry.answer is None or (one, entry.key) in self._crashed:
                    continue
                message = command_of(self.world, entry)
                if message is not None and one.acts_on(message):
                    self._note_crash(one, entry.key)
                    self._process_of(service).die()

    def _process_of(self, service: str) -> Process:
        process = self.world.machines[service].process
        assert process is not None
        return process


def _nobody(command: type[Command]) -> Handler:
    """The handler of a service that is not in the app, for what the sentence does not say of it."""

    async def unwritten(command: Any) -> Event:
        raise NotYet(f"nothing is said of what {command.__contract__.service} does with it now", retry_after_s=60.0)

    service, answers = command.__contract__.service, command.__contract__.answers
    return Handler(service, "unwritten", unwritten, command, {}, True, answers, RetryPolicy())
