"""Builds a running system from an app and its settings. The only importer of adapters; the whole wiring is in here."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from minuet.adapters.endpoints import Endpoints
from minuet.adapters.system import SystemClock, SystemIds
from minuet.app import App, Handler, Service
from minuet.codec import Codec, remember
from minuet.core.coordinator import Status, is_last
from minuet.core.envelope import Envelope
from minuet.core.errors import ConfigurationError, MessageError
from minuet.core.messages import Command, Event, Query, View, name_of
from minuet.core.projection import Coordination
from minuet.core.saga import COMPENSATED, COMPLETED
from minuet.observer import Observer
from minuet.ports import Clock, Entry, Ids, Outgoing, Store, Transport
from minuet.runtime.directory import Directory, Elsewhere
from minuet.runtime.gather import Gatherer
from minuet.runtime.orchestrator import Orchestrator, asking_handlers
from minuet.runtime.participant import REACTION, Participant
from minuet.runtime.place import Place
from minuet.runtime.reactor import ORCHESTRATOR, Reactor
from minuet.runtime.relay import Relay
from minuet.runtime.worker import Worker
from minuet.settings import Settings, spelled, writable

log = logging.getLogger("minuet")


class System:
    """An app at work in this process. Made by `running`.

    Attributes:
        observer: what sagas, messages and failures look like.
        url: where HTTP is served, once `serve` was called.
    """

    def __init__(self, app: App, settings: Settings, services: Sequence[str], clock: Clock, ids: Ids) -> None:
        self.app = app
        self.settings = settings
        self.services = tuple(services)
        self.clock = clock
        self.ids = ids
        self.codec = Codec(app.messages())
        self.url: str | None = None
        self.places: dict[str, Place] = {}
        self.workers: dict[str, Worker] = {}
        self.stores: dict[str, Store] = {}
        self.transports: dict[str, Transport] = {}
        self.deployment = LocalDeployment(self)
        self.observer = Observer(app, self.codec, self.stores)
        self._ending: dict[tuple[str, str], asyncio.Future[Status | None]] = {}

    async def send(self, command: Command, *, key: str = "", wait_s: float = 30.0) -> Event:
        """Hand a command to its service and return its answer, a refusal too.

        Args:
            key: the same key is the same command; without one, the command's own key, or each call is another.

        Raises:
            NotYet, Conflict, Rejected: there is no answer.
        """
        if not isinstance(command, Command):
            raise ConfigurationError(f"{name_of(command)} is not a command; only commands are sent, and queries asked")
        now = self.clock.now()
        envelope = Envelope(
            id=self.ids.new(),
            type=name_of(command),
            source="client",
            time=now,
            body=self.codec.encode(command, time=now),
        )
        place = self._place(command.__contract__.service)
        answer = await place.ask(remember(envelope, command), key=key, wait_s=wait_s)
        event = self.codec.decode(answer)
        assert isinstance(event, Event)
        return event

    async def ask(self, query: Query) -> View:
        """The query's view. Raises NotFound."""
        return await self._place(query.__contract__.service).read(query)

    def _place(self, service: str) -> Place:
        if service not in self.places:
            raise ConfigurationError(
                f"service {service} does not run in this process; here are {', '.join(self.places)}"
            )
        return self.places[service]

    async def ended(self, saga: str, saga_id: str) -> Status:
        """Wait until the saga is completed or compensated, as far as the services of this process know.

        It may not end before an operator has done something; put `asyncio.timeout` around it to wait no longer.
        """
        if saga not in self.app.current_sagas:
            raise ConfigurationError(
                f"app {self.app.name} has no saga {saga!r}; it has {_listed(self.app.current_sagas)}"
            )
        while True:
            # The future first: what ends the saga while its status is read must not be missed.
            ending = self._ending.setdefault((saga, saga_id), asyncio.get_running_loop().create_future())
            status = await self.observer.end_of(saga, saga_id)
            if status is None:
                status = await asyncio.shield(ending)
            if status is not None:
                self._ending.pop((saga, saga_id), None)
                return status

    def touched(self, entry: Entry) -> None:
        """Told of each entry that was decided, or failed, here."""
        ref = entry.envelope.saga
        if ref is None or (ref.name, ref.id) not in self._ending:
            return
        definition = self.app.saga(ref.name, ref.definition)
        if definition is None or is_last(definition, ref.step):
            is_end = ref.step in (COMPLETED, COMPENSATED) and entry.answer is not None
            self._ending.pop((ref.name, ref.id)).set_result(Status(ref.step) if is_end else None)

    async def drained(self) -> None:
        """Until nothing committed waits to be published."""
        for worker in self.workers.values():
            await worker.relay.drained()


class LocalDeployment:
    """What providers see of the place the app runs in."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.data: Path = system.settings.data
        self.settings: Mapping[str, Any] = system.settings.app
        self._endpoints = Endpoints(self.data / "endpoints", system.ids)

    def url_of(self, service: str) -> str:
        """See `minuet.app.Deployment.url_of`."""
        configured = self._system.settings.participants.get(service)
        if configured:
            return configured.rstrip("/")
        if service in self._system.services and self._system.url:
            return self._system.url
        return self._endpoints.url_of(service)

    def announce(self, url: str) -> None:
        """Let other processes on the same data directory find this one's services."""
        for service in self._system.services:
            self._endpoints.announce(service, url)

    def close(self) -> None:
        """Be found no more. May be called again."""
        self._endpoints.withdraw()


@asynccontextmanager
async def running(
    app: App,
    settings: Settings | None = None,
    *,
    services: Sequence[str] | None = None,
    serve: bool = False,
    provided: Mapping[type[Any], Any] | None = None,
    clock: Clock | None = None,
    ids: Ids | None = None,
) -> AsyncIterator[System]:
    """Run an app, or some of its services, in this process until the block ends.

    Args:
        services: their names, ``orchestrator`` among them; by default all.
        serve: also answer HTTP, at ``settings.host`` and ``settings.port``.
        provided: what handlers get by its type, instead of what their services provide; for tests.

    Raises:
        ConfigurationError: says which setting does not fit.
    """
    settings = settings or Settings()
    system = System(app, settings, _chosen(app, services), clock or SystemClock(), ids or SystemIds())
    async with AsyncExitStack() as stack:
        wiring = _Wiring(system, stack)
        await wiring.open()
        await wiring.provide(provided or {})
        if serve:
            await wiring.serve()
        await wiring.start()
        yield system


@asynccontextmanager
async def stored(app: App, settings: Settings) -> AsyncIterator[Observer]:
    """Open what the services of a deployment have stored, to look at it and to mend it; none of them is run.

    Raises:
        ConfigurationError: there is nothing that another process can see.
    """
    system = System(app, settings, everything(app), SystemClock(), SystemIds())
    async with AsyncExitStack() as stack:
        wiring = _Wiring(system, stack)
        for name in system.services:
            if wiring.is_stored(name):
                await wiring.open_store(name, with_schema=False)
        if not system.stores:
            raise ConfigurationError(
                f"no service of app {app.name} has stored anything in {settings.data}; name the folder with --data"
            )
        yield system.observer


async def publish_again(
    app: App, settings: Settings, service: str, channel: str, attributes: Mapping[str, str], body: bytes
) -> None:
    """Publish a message that a service had parked. Whoever understood it the first time will know it again.

    Raises:
        MessageError: the service would park it again, or would not hear of it.
    """
    system = System(app, settings, everything(app), SystemClock(), SystemIds())
    async with AsyncExitStack() as stack:
        wiring = _Wiring(system, stack)
        envelope = system.codec.envelope_of(attributes, body, channel=channel, now=system.clock.now())
        system.codec.decode(envelope)
        reactor = Reactor(app, system.codec, system.clock, service, wiring.coordination_of)
        subscription = reactor.subscription(wiring.models_of(reactor))
        if not subscription.wants(channel, envelope):
            raise MessageError(
                f"{service} does not listen to {envelope.type} on {channel}, so it would not hear it; discard it"
            )
        await wiring.open_transport(channel)
        (problem,) = await wiring.transport_of(channel).publish([Outgoing(0, channel, envelope)])
        if problem is not None:
            raise ConfigurationError(f"{channel} does not take it: {problem}") from problem


def everything(app: App) -> list[str]:
    """The names of all that can run: the app's services, and the orchestrator if there are sagas."""
    return [*app.services, *([ORCHESTRATOR] if app.sagas else [])]


def _chosen(app: App, services: Sequence[str] | None) -> list[str]:
    names = everything(app)
    for name in services or ():
        if name not in names:
            raise ConfigurationError(f"app {app.name} has no service {name!r}; it has {', '.join(names)}")
    return [name for name in names if services is None or name in services]


def _spelled(app: App, settings: Settings) -> Settings:
    """The settings with the app's own spelling of its names."""
    places = {"default", *everything(app), *(rule.service for saga in app.sagas for rule in saga.rules.every)}
    names = {
        "coordination": [saga.name for saga in app.sagas],
        "queries": [name_of(query) for service in app.services.values() for query in service.queries],
        "stores": places,
        "participants": places,
    }
    return settings.model_copy(update={name: spelled(getattr(settings, name), known) for name, known in names.items()})


class _Wiring:
    """One start-up. Opens everything into the stack, so that it closes in the reverse order."""

    def __init__(self, system: System, stack: AsyncExitStack) -> None:
        self.system = system
        self.stack = stack
        self.app = system.app
        self.settings = system.settings = _spelled(system.app, system.settings)
        self.transports = system.transports
        self.elsewhere: Elsewhere | None = None
        self.read_models = [
            model for model in self.app.read_models if self.settings.queries.get(name_of(model.query)) == "read_model"
        ]
        self.check()

    def check(self) -> None:
        """Settings that name nothing are mistakes, not wishes."""
        sagas = {saga.name for saga in self.app.sagas}
        queries = {name_of(query) for service in self.app.services.values() for query in service.queries}
        for given, there, what, nouns in (
            (self.settings.coordination, sagas, "coordination", "sagas"),
            (self.settings.queries, queries, "queries", "queries"),
            (self.settings.stores, {"default", *everything(self.app)}, "stores", "services"),
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

    async def open(self) -> None:
        """Open stores, transports and places, from the leaves inward."""
        self.warn_of_absent()
        reactors = {
            name: Reactor(self.app, self.system.codec, self.system.clock, name, self.coordination_of)
            for name in everything(self.app)
        }
        for name in self.system.services:
            await self.open_store(name)
        subscriptions = {name: reactor.subscription(self.models_of(reactor)) for name, reactor in reactors.items()}
        for channel in self._channels():
            await self.open_transport(channel)
        for transport in self.transports.values():
            wanted = [one for one in subscriptions.values() if one.wanted]
            await transport.declare([one for one in wanted if one.group in self.system.services])
            # What services elsewhere want only they know, but until they come their messages are kept for them.
            others = [one for one in wanted if one.group not in self.system.services]
            await transport.declare(others, only_new=True)
        self.elsewhere = self._participants_over_http()
        everywhere = Directory(self.system.places, self.elsewhere)
        asked = everywhere if self.settings.orchestration.participants == "local" else Directory({}, self.elsewhere)
        for name in self.system.services:
            if name in self.system.stores:
                place = self._place(name, reactors[name], asked if name == ORCHESTRATOR else everywhere)
                self.system.places[name] = place
                hears = list({id(one): one for one in map(self.transport_of, subscriptions[name].wanted)}.values())
                relay = Relay(place.store, self.transport_of, self.system.ids)
                self.system.workers[name] = Worker(place, relay, hears, self.system.ids, grace_s=self.settings.grace_s)

    async def start(self) -> None:
        # All at once: one after the other, the first would wait for answers of those that are stopped already.
        self.stack.push_async_callback(self._stop_all)
        for worker in self.system.workers.values():
            await worker.start()

    async def _stop_all(self) -> None:
        self.system.deployment.close()  # others go to our twins, if there are any
        stopping = (worker.stop() for worker in self.system.workers.values())
        problems = [one for one in await asyncio.gather(*stopping, return_exceptions=True) if one is not None]
        if problems:
            raise problems[0]

    # -- parts ---------------------------------------------------------------------------------------------------------

    def is_stored(self, name: str) -> bool:
        """Whether the place has a database file; opening it would make one."""
        url = self.settings.stores.get(name) or self.settings.stores.get("default", "sqlite:")
        return url == "sqlite:" and (self.settings.data / f"{name}.db").exists()

    async def open_store(self, name: str, *, with_schema: bool = True) -> None:
        service = self.app.services.get(name)
        if service is not None and not (service.commands or service.queries or service.reactions):
            return
        url = self.settings.stores.get(name) or self.settings.stores.get("default", "sqlite:")
        store = self._store(name, url, service.schema if service and with_schema else "")
        await store.start()
        self.stack.push_async_callback(store.close)
        self.system.stores[name] = store

    def _store(self, name: str, url: str, schema: Any) -> Store:
        if url == "memory:":
            from minuet.adapters.memory import MemoryStore

            return MemoryStore(ids=self.system.ids)
        if url == "sqlite:":
            from minuet.adapters.sqlite import SqliteStore

            return SqliteStore(writable(self.settings.data) / f"{name}.db", ids=self.system.ids, schema=schema)
        raise ConfigurationError(f'settings: [stores] {name} = "{url}" is none of sqlite: and memory:')

    def _channels(self) -> list[str]:
        """Every channel on which a service of the app publishes."""
        events = (message for message in self.app.messages() if issubclass(message, Event))
        refused = (f"{rule.service}.refused" for saga in self.app.sagas for rule in saga.rules.every)
        return list(dict.fromkeys((*(event.__contract__.channel for event in events), *refused)))

    def _url_of(self, channel: str) -> str:
        for pattern, url in self.settings.channels.items():
            if fnmatch.fnmatchcase(channel, pattern):
                return url
        raise ConfigurationError(f'settings: [channels] has no entry for {channel}; add "*" = "embedded:"')

    def transport_of(self, channel: str) -> Transport:
        return self.transports[self._url_of(channel)]

    async def open_transport(self, channel: str) -> None:
        url = self._url_of(channel)
        if url in self.transports:
            return
        transport: Transport
        if url == "memory:":
            from minuet.adapters.memory import MemoryBroker, MemoryTransport

            transport = MemoryTransport(MemoryBroker())
        elif url == "embedded:":
            from minuet.adapters.sqlite import SqliteTransport

            database = writable(self.settings.data) / "broker.db"
            transport = SqliteTransport(database, clock=self.system.clock, ids=self.system.ids)
        else:
            raise ConfigurationError(f'settings: [channels] "{channel}" = "{url}" is none of embedded: and memory:')
        await transport.start()
        self.stack.push_async_callback(transport.close)
        self.transports[url] = transport

    def models_of(self, reactor: Reactor) -> list[Any]:
        return [model for model in self.read_models if reactor.asks(model.query)]

    def _participants_over_http(self) -> Elsewhere | None:
        from minuet.adapters.http_participants import HttpParticipants

        client = HttpParticipants(self.system.deployment.url_of, self.system.codec, clock=self.system.clock)
        self.stack.push_async_callback(client.close)
        self.stack.callback(self.system.deployment.close)
        return client

    def _place(self, name: str, reactor: Reactor, directory: Directory) -> Place:
        store, codec, clock = self.system.stores[name], self.system.codec, self.system.clock
        service = self.app.services.get(name)
        handlers = _handlers(service) if service else asking_handlers(self.app.sagas)
        models = self.models_of(reactor)
        participant = Participant(
            reactor, codec, clock, self.system.ids, handlers, models, publishes=service is not None
        )
        kept = {model.query for model in models}
        gatherer = Gatherer(store, reactor, codec, directory, kept.__contains__)
        queries = dict(service.queries) if service else {}
        place = Place(store, participant, gatherer, codec, clock, queries)
        if service is None:
            place.perform = Orchestrator(directory, handlers).perform
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

    async def serve(self) -> None:
        """Answer HTTP for the services of this process, and let the other processes know where."""
        from minuet.doors.http import http_app
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
        asgi = http_app(self.app, desks, self.system.codec, self.system.clock, self.system.ids, mounted)
        self.system.url = await self.stack.enter_async_context(serve(asgi, self.settings.host, self.settings.port))
        self.stack.callback(self.system.deployment.close)
        self.system.deployment.announce(self.system.url)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _handlers(service: Service) -> dict[str, Handler]:
    commands = {name_of(command): handler for command, handler in service.commands.items()}
    return commands | {f"{REACTION}{reaction.name}": reaction for reaction in service.reactions}
