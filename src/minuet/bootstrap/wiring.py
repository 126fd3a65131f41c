"""Putting a system together: the one place that knows every part."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from minuet.adapters.system import SystemClock, SystemIds
from minuet.app import App, Handler, IdempotencyKey, NewId, Now, Service
from minuet.bootstrap import engines
from minuet.bootstrap.parts import Adapters, Parts
from minuet.bootstrap.stores import Stores
from minuet.bootstrap.system import System, chosen, everything, participants_of
from minuet.bootstrap.transports import channels_of, commanded_in
from minuet.core.compile import Kind
from minuet.core.errors import ConfigurationError
from minuet.core.messages import name_of
from minuet.core.projection import Coordination
from minuet.ports import Transport
from minuet.runtime.directory import Directory, Elsewhere
from minuet.runtime.gather import Gatherer
from minuet.runtime.limits import Limit
from minuet.runtime.orchestrator import AsksByMessages, Orchestrator, asking_handlers
from minuet.runtime.participant import Participant
from minuet.runtime.performer import REACTION
from minuet.runtime.place import Place
from minuet.runtime.pruner import Pruner
from minuet.runtime.reactor import ORCHESTRATOR, Reactor
from minuet.runtime.relay import Relay
from minuet.runtime.worker import Worker
from minuet.settings import Settings, way_of

log = logging.getLogger("minuet")


class Wiring:
    """One start-up. Opens everything into the stack, so that it closes in the reverse order."""

    def __init__(self, system: System, stack: AsyncExitStack, parts: Parts | None = None) -> None:
        self.system = system
        self.stack = stack
        self.app = system.app
        self.settings = system.settings
        self.parts = parts or Adapters(system)
        self.elsewhere: Elsewhere | None = None
        self.engine: Any = None
        self.read_models = [
            model for model in self.app.read_models if self.settings.queries.get(name_of(model.query)) == "read_model"
        ]
        self.check()

    def check(self) -> None:
        """Settings that name nothing are mistakes, not wishes."""
        engines.check(self.settings)
        sagas = {saga.name for saga in self.app.sagas}
        queries = {name_of(query) for service in self.app.services.values() for query in service.queries}
        for given, there, what, nouns in (
            (self.settings.coordination, sagas, "coordination", "sagas"),
            (self.settings.queries, queries, "queries", "queries"),
            (self.settings.stores, {"default", *everything(self.app)}, "stores", "services"),
            (self.settings.limits, participants_of(self.app), "limits", "services"),
        ):
            for name in given:
                if name not in there:
                    known = f"there is only {', '.join(sorted(there))}" if there else f"the app has no {nouns}"
                    raise ConfigurationError(f"settings: [{what}] names {name}, but {known}")
        kept = {name_of(model.query) for model in self.read_models}
        for query, how in self.settings.queries.items():
            if how == "read_model" and query not in kept:
                raise ConfigurationError(
                    f"settings: {query} = read_model, but the app keeps no read model of it; declare one with "
                    f"@read_model({query})"
                )

    def coordination_of(self, saga: str) -> Coordination:
        return self.settings.coordination.get(saga, Coordination.CHOREOGRAPHY)

    def way_of(self, service: str) -> str:
        return way_of(self.settings, service)

    def reactor(self, name: str) -> Reactor:
        commanded = commanded_in(self.app, self.settings)
        kind = engines.reactor_for(self.settings, name)
        return kind(self.app, self.system.codec, self.system.clock, name, self.coordination_of, commanded)

    def warn_of_absent(self) -> None:
        """A step for a service that nobody may run would wait for ever, and look like a slow one."""
        for saga in self.app.current_sagas.values():
            absent = {rule.service for rule in saga.rules.every} - self.app.services.keys()
            for service in sorted(absent - self.settings.participants.keys()):
                log.warning(
                    "saga %s sends commands to service %s, which is neither in App(services=...) nor in [participants] "
                    "of the settings: its steps wait until some other program performs them",
                    saga.name,
                    service,
                )

    def warn_of_commands_without_an_address(self) -> None:
        """What cannot be asked over HTTP would need an operator at its first order."""
        if ORCHESTRATOR not in self.system.services:
            return
        for saga in self.app.current_sagas.values():
            if self.coordination_of(saga.name) is not Coordination.ORCHESTRATION:
                continue
            for rule in saga.rules.every:
                if rule.kind is Kind.WATCH:
                    continue
                is_here = rule.service in self.system.services and self.way_of(rule.service) == "local"
                if is_here or self.way_of(rule.service) == "commands" or rule.command.__contract__.http:
                    continue
                log.warning(
                    'saga %s asks %s for %s over HTTP, which has no address: declare it with http="POST /...", or '
                    'ask by messages: [participants] %s = "commands"',
                    saga.name,
                    rule.service,
                    name_of(rule.command),
                    rule.service,
                )

    async def open(self) -> None:
        """Open stores, transports and places, from the leaves inward."""
        self.warn_of_absent()
        self.warn_of_commands_without_an_address()
        reactors = {name: self.reactor(name) for name in everything(self.app)}
        for name in self.system.services:
            await self.open_store(name)
        subscriptions = {name: reactor.subscription(self.models_of(reactor)) for name, reactor in reactors.items()}
        await self.open_transports(channels_of(self.app, self.settings))
        for transport in self.system.transports.values():
            wanted = [one for one in subscriptions.values() if one.wanted]
            await transport.declare([one for one in wanted if one.group in self.system.services])
            # What services elsewhere want only they know, but until they come their messages are kept for them.
            others = [one for one in wanted if one.group not in self.system.services]
            await transport.declare(others, only_new=True)
        self.elsewhere = self.parts.elsewhere(self.system, self.stack)
        everywhere = Directory(self.system.places, self.elsewhere)
        asked = Directory(self.system.places, self.elsewhere, is_local=lambda name: self.way_of(name) == "local")
        for name in self.system.services:
            if name in self.system.stores:
                place = self._place(name, reactors[name], asked if name == ORCHESTRATOR else everywhere)
                self.system.places[name] = place
                await place.look_for_instructions()  # before anything can be handed in
                hears = list({id(one): one for one in map(self.transport_of, subscriptions[name].wanted)}.values())
                relay = Relay(place.store, self.transport_of, self.system.ids)
                worker = Worker(place, relay, hears, self.system.ids, grace_s=self.settings.grace_s)
                if name == ORCHESTRATOR and self.engine is not None:
                    worker = engines.WorkerWithTemporal(self.engine, worker)
                self.system.workers[name] = worker

    async def open_alone(self, name: str) -> Place:
        """A place that begins nothing and is connected to nothing but its store, for a message that it will hear."""
        await self.open_store(name, with_schema=False)
        place = self._place(name, self.reactor(name), Directory({}, None))
        place.stand_aside()
        return place

    async def open_stored(self) -> None:
        """Open the stores in which there is something.

        Raises:
            ConfigurationError: there is none.
        """
        stores = Stores(self.settings, self.system.ids)
        for name in self.system.services:
            if stores.is_there(name):
                await self.open_store(name, with_schema=False)
        if not self.system.stores:
            raise ConfigurationError(
                f"no service of app {self.app.name} has stored anything in {self.settings.data}; name the folder with "
                "--data"
            )

    async def open_unconnected(self) -> None:
        """Places that begin nothing and are connected to nothing but their stores, where there is one."""
        await self.open_stored()
        # Made, for what they can carry; connected to nothing.
        self.parts.transports(channels_of(self.app, self.settings))
        for name in self.system.stores:
            reactor = self.reactor(name)
            place = self.system.places[name] = self._place(name, reactor, Directory({}, None))
            place.stand_aside()

    async def start(self) -> None:
        # All at once: one after the other, the first would wait for answers of those that are stopped already.
        self.stack.push_async_callback(self._stop_all)
        for worker in self.system.workers.values():
            await worker.start()

    def reconcile(self) -> None:
        """Look for messages that get lost, if that can happen and all stores are here to be compared."""
        chosen = self.settings.reconciliation
        brokers = any(not url.startswith(("embedded:", "memory:")) for url in self.settings.channels.values())
        if not (chosen.every_s and brokers and set(everything(self.app)) == set(self.system.services)):
            return
        run = self.system.reconciler().run(
            every_s=chosen.every_s,
            after_s=chosen.after_s,
            back_s=chosen.back_s,
            ready=lambda: not any(worker.relay.is_stuck for worker in self.system.workers.values()),
        )
        self._beside(run, "reconciliation")

    def prune(self) -> None:
        """Forget what is over, if the deployment says after how long."""
        keep_s = self.settings.retention.keep_days * 86_400
        if keep_s:
            stores = {name: place.store for name, place in self.system.places.items()}
            self._beside(Pruner(stores, self.system.clock, keep_s=keep_s).run(), "retention")

    def _beside(self, run: Coroutine[Any, Any, None], name: str) -> None:
        """Run it until the system stops."""
        task = asyncio.get_running_loop().create_task(run, name=name)

        async def stop() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self.stack.push_async_callback(stop)

    async def _stop_all(self) -> None:
        self.system.deployment.close()  # others go to our twins, if there are any
        stopping = (worker.stop() for worker in self.system.workers.values())
        problems = [one for one in await asyncio.gather(*stopping, return_exceptions=True) if one is not None]
        if problems:
            raise problems[0]

    # -- parts ---------------------------------------------------------------------------------------------------------

    async def open_store(self, name: str, *, with_schema: bool = True) -> None:
        service = self.app.services.get(name)
        if service is not None and not (service.commands or service.queries or service.reactions):
            return
        store = self.parts.store(name, service.schema if service and with_schema else "")
        await store.start()
        self.stack.push_async_callback(store.close)
        self.system.stores[name] = store

    def transport_of(self, channel: str) -> Transport:
        return self.parts.transport_of(channel)

    async def open_transports(self, channels: Iterable[str]) -> None:
        """Connect to everything that carries one of these channels."""
        for name, transport in self.parts.transports(channels).items():
            await transport.start()
            self.stack.push_async_callback(transport.close)
            self.system.transports[name] = transport

    def models_of(self, reactor: Reactor) -> list[Any]:
        return [model for model in self.read_models if reactor.asks(model.query)]

    def _place(self, name: str, reactor: Reactor, directory: Directory) -> Place:
        store, codec, clock = self.system.stores[name], self.system.codec, self.system.clock
        service = self.app.services.get(name)
        handlers = _handlers(service) if service else asking_handlers(self.app.sagas)
        models = self.models_of(reactor)
        participant = Participant(
            reactor,
            codec,
            clock,
            self.system.ids,
            handlers,
            models,
            publishes=service is not None,
            body_bytes_max=lambda channel: self.transport_of(channel).features.body_bytes_max,
        )
        kept = {model.query for model in models}
        gatherer = Gatherer(store, reactor, codec, directory, kept.__contains__)
        queries = dict(service.queries) if service else {}
        limits = {
            service: Limit(in_flight=one.in_flight, rate_per_s=one.rate_per_s)
            for service, one in self.settings.limits.items()
        }
        place = Place(store, participant, gatherer, codec, clock, queries, limits)
        if service is None:
            asks_by_messages = AsksByMessages(
                store, self.system.ids, commanded_in(self.app, self.settings), self.settings.orchestration.ask_again_s
            )
            orchestrator = Orchestrator(directory, handlers, asks_by_messages)
            place.attempts.perform = orchestrator.perform
            if not engines.is_embedded(self.settings):
                self.engine = engines.hand_over_to_temporal(self.app, self.settings, place, orchestrator)
        place.touched = self.system.touched
        return place

    async def provide(self, given: Mapping[type[Any], Any]) -> None:
        """Open what handlers ask for by its type, but for what is given."""
        for name, place in self.system.places.items():
            service = self.app.services.get(name)
            place.participant.provided.update(given)
            for wanted, factory in (service.providers if service else {}).items():
                if wanted in given:
                    continue
                made = asynccontextmanager(factory)(self.system.deployment)
                place.participant.provided[wanted] = await self.stack.enter_async_context(made)
            self._check_provided(name, place)

    def _check_provided(self, name: str, place: Place) -> None:
        """An ``async`` handler has no transaction that could give it anything else."""
        there = {*place.participant.provided, IdempotencyKey, NewId, Now}
        for handler in place.participant.handlers.values():
            for wanted in handler.wants.values() if handler.is_async and name != ORCHESTRATOR else ():
                if wanted not in there:
                    raise ConfigurationError(
                        f"{handler.name} of {name} asks for {wanted.__name__}, and nothing provides one; declare an "
                        f"async generator of it with @{name}.provides, as in docs/writing-an-app.md"
                    )

    async def serve(self) -> None:
        """Answer HTTP for the services of this process, and let the other processes know where."""
        from minuet.doors.http import http_app
        from minuet.doors.parked import ParkedDoor
        from minuet.doors.sagas import SagasDoor
        from minuet.doors.server import serve

        mounted = {
            name: service.mounted(self.system.deployment)
            for name in self.system.services
            if (service := self.app.services.get(name)) and service.mounted
        }
        for one in mounted.values():
            if hasattr(one, "router"):  # a web framework does not open what is mounted into another application
                await self.stack.enter_async_context(one.router.lifespan_context(one))
        desks = {name: place for name, place in self.system.places.items() if name != ORCHESTRATOR}
        sagas = None
        if ORCHESTRATOR in self.system.places:
            sagas = SagasDoor(self.app.current_sagas, self.system, self.system.observer, self.system.operator)
        parked = ParkedDoor(self.system.observer, self.system.operator)
        asgi = http_app(self.app, desks, self.system.codec, self.system.clock, self.system.ids, mounted, sagas, parked)
        self.system.url = await self.stack.enter_async_context(serve(asgi, self.settings.host, self.settings.port))
        self.stack.callback(self.system.deployment.close)
        self.system.deployment.announce(self.system.url)


def _handlers(service: Service) -> dict[str, Handler]:
    commands = {name_of(command): handler for command, handler in service.commands.items()}
    return commands | {f"{REACTION}{reaction.name}": reaction for reaction in service.reactions}


def wired(app: App, settings: Settings, services: Sequence[str] | None = None) -> Wiring:
    """Knows every part; opens none."""
    system = System(app, settings, chosen(app, services), SystemClock(), SystemIds())
    return Wiring(system, AsyncExitStack())
