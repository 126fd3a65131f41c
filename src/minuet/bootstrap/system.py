"""An app at work in this process, as whoever runs it sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minuet.adapters.endpoints import Endpoints
from minuet.app import App
from minuet.bootstrap.operator import Operator
from minuet.codec import Codec, remember
from minuet.core.coordinator import Status, is_last
from minuet.core.envelope import Envelope
from minuet.core.errors import ConfigurationError, Conflict, NotFound, Rejected
from minuet.core.messages import Command, Event, Query, SagaCancelled, View, name_of
from minuet.core.operating import Scope, Verb
from minuet.core.saga import COMPENSATED, COMPLETED
from minuet.observer import FINAL, Observer
from minuet.ports import Act, Clock, Entry, Ids, Store, Transport
from minuet.runtime.place import Place
from minuet.runtime.reactor import ORCHESTRATOR
from minuet.runtime.reconciler import Reconciler
from minuet.runtime.worker import Worker
from minuet.settings import WAYS, Settings, spelled


class System:
    """An app at work in this process. Made by `running`.

    Attributes:
        observer: what sagas, messages and failures look like.
        operator: what else an operator does, to many sagas, and to what is parked.
        url: where HTTP is served, once `serve` was called.
    """

    def __init__(self, app: App, settings: Settings, services: Sequence[str], clock: Clock, ids: Ids) -> None:
        self.app = app
        self.settings = _spelled(app, settings)
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
        self.operator = Operator(self)
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

    async def begin(self, event: Event) -> bool:
        """Begin the sagas that this event begins; it is published like any other. False: it has begun them before.

        Raises:
            Conflict: another event has, as far as the services of this process know.
            ConfigurationError: no saga begins with it, or the orchestrator runs elsewhere.
        """
        begun = [saga for saga in self.app.current_sagas.values() if isinstance(event, saga.begins_with)]
        if not begun:
            raise ConfigurationError(f"no saga of app {self.app.name} begins with {name_of(event)}")
        place = self._place(ORCHESTRATOR)
        known = [await self.observer.beginning(saga.name, str(getattr(event, saga.key))) for saga in begun]
        for saga, first in zip(begun, known, strict=True):
            if first is not None and first != event:
                saga_id = getattr(event, saga.key)
                raise Conflict(f"{saga.name} {saga_id} was begun with other content; nothing was done")
        return False if all(known) else await place.begin_with(event)

    async def cancel(self, saga_id: str, *, who: str, why: str = "", saga: str | None = None) -> bool:
        """Say that a saga is no longer wanted: whoever is next refuses its step, and what was done is undone.

        It may come too late, and then the saga completes. False: it was said before.

        Args:
            who, why: are kept (`minuet.observer.Observer.audit`), and told to everybody.
            saga: its name, where several sagas use one id.

        Raises:
            NotFound: nobody here has heard of it.
            Conflict: it is over.
            ConfigurationError: the orchestrator runs elsewhere.
        """
        place = self._place(ORCHESTRATOR)
        view = await self.observer.saga(saga_id, saga)
        if view.status in FINAL:
            raise Conflict(f"{view.saga} {saga_id} is {view.status}; there is nothing to cancel")
        what = f"{view.saga}/{saga_id}"
        act = Act(at=self.clock.now(), who=who, verb="cancel", what=what, why=why)
        return await place.cancel(SagaCancelled(saga=view.saga, saga_id=saga_id, who=who, why=why), act)

    async def pause(
        self,
        saga_id: str | None = None,
        *,
        saga: str | None = None,
        all_of: str | None = None,
        service: str | None = None,
        who: str,
        why: str = "",
    ) -> bool:
        """Begin nothing more of a saga, of all sagas of a type, or of what a service does, until `resume`.

        What is under way ends, and messages are taken in and kept. Deadlines go on counting. It holds in every process
        that hears of it, also when it is started again. False: it is paused, and everybody is told once more.

        Args:
            saga_id, all_of, service: one of them: a saga; a saga's type; a service, or ``orchestrator``.
            saga: its name, where several sagas use one id.
            who, why: are kept, and told to everybody.

        Raises:
            NotFound: there is no such saga, type or service.
            Conflict: the saga is over.
            Rejected: not one of the three was said.
            ConfigurationError: the orchestrator runs elsewhere.
        """
        scope = await self.scope_of(saga_id, saga=saga, all_of=all_of, service=service)
        if scope.saga_id and (status := await self.observer.status(scope.saga, scope.saga_id)) and status.is_final:
            raise Conflict(f"{scope} is {status.value}; there is nothing to pause")
        return await self.instruct(scope, Verb.PAUSE, who=who, why=why)

    async def resume(
        self,
        saga_id: str | None = None,
        *,
        saga: str | None = None,
        all_of: str | None = None,
        service: str | None = None,
        who: str,
        why: str = "",
    ) -> bool:
        """Let go on what `pause` has stopped. False: it was not paused; everybody is told all the same.

        What is paused in several ways goes on when the last of them is taken back. For the arguments and errors see
        `pause`; a saga that is over may be resumed.
        """
        scope = await self.scope_of(saga_id, saga=saga, all_of=all_of, service=service)
        return await self.instruct(scope, Verb.RESUME, who=who, why=why)

    async def retry(
        self,
        saga_id: str | None = None,
        *,
        saga: str | None = None,
        all_of: str | None = None,
        service: str | None = None,
        who: str,
        why: str = "",
    ) -> None:
        """Try at once what has failed and waits for its next attempt. For the arguments and errors see `pause`.

        A saga that is over may still have something to undo that succeeded late; then there is something to retry.
        """
        scope = await self.scope_of(saga_id, saga=saga, all_of=all_of, service=service)
        if scope.saga_id:
            view = await self.observer.saga(scope.saga_id, scope.saga)
            if view.status in FINAL and not view.waiting:
                raise Conflict(f"{scope} is {view.status}; there is nothing to retry")
        await self.instruct(scope, Verb.RETRY, who=who, why=why)

    async def scope_of(
        self,
        saga_id: str | None = None,
        *,
        saga: str | None = None,
        all_of: str | None = None,
        service: str | None = None,
    ) -> Scope:
        """What is meant by one of these; see `pause`."""
        if sum(one is not None for one in (saga_id, all_of, service)) != 1:
            raise Rejected("say one of these: a saga's id, all sagas of a type, a service")
        if saga_id is not None:
            return Scope(saga=(await self.observer.saga(saga_id, saga)).saga, saga_id=saga_id)
        if all_of is not None:
            if all_of not in self.app.current_sagas:
                raise NotFound(f"app {self.app.name} has no saga {all_of!r}; it has {_listed(self.app.current_sagas)}")
            return Scope(saga=all_of)
        assert service is not None
        there = participants_of(self.app) | set(everything(self.app))
        if service not in there:
            raise NotFound(f"app {self.app.name} has no service {service!r}; it has {_listed(there)}")
        return Scope(service=service)

    async def instruct(self, scope: Scope, verb: Verb, *, who: str, why: str) -> bool:
        """See `pause`, `resume` and `retry`."""
        # Without sagas there is no orchestrator, and the service is all that it concerns.
        place = self._place(ORCHESTRATOR if self.app.sagas else scope.service)
        act = Act(at=self.clock.now(), who=who, verb=verb.value, what=str(scope), why=why)
        return await place.instruct(scope, verb, act)

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
                if not ending.done():
                    ending.set_result(status)  # others may wait for it
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

    def reconciler(self) -> Reconciler:
        """Compares what the places of this process told with what they heard."""
        return Reconciler(self.places, self.observer.end_of, self.clock)

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
        if configured and configured not in WAYS:
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


def everything(app: App) -> list[str]:
    """The names of all that can run: the app's services, and the orchestrator if there are sagas."""
    return [*app.services, *([ORCHESTRATOR] if app.sagas else [])]


def participants_of(app: App) -> set[str]:
    """Every service that does something, of the app or elsewhere."""
    return {*app.services, *(rule.service for saga in app.sagas for rule in saga.rules.every)}


def chosen(app: App, services: Sequence[str] | None) -> list[str]:
    names = everything(app)
    for name in services or ():
        if name not in names:
            raise ConfigurationError(f"app {app.name} has no service {name!r}; it has {', '.join(names)}")
    return [name for name in names if services is None or name in services]


def _spelled(app: App, settings: Settings) -> Settings:
    """The settings with the app's own spelling of its names."""
    places = {"default", *everything(app), *participants_of(app)}
    names = {
        "coordination": [saga.name for saga in app.sagas],
        "queries": [name_of(query) for service in app.services.values() for query in service.queries],
        "stores": places,
        "participants": places,
        "limits": places,
    }
    return settings.model_copy(update={name: spelled(getattr(settings, name), known) for name, known in names.items()})


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
