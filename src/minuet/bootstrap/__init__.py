"""Builds a running system from an app and its settings. The only importer of adapters; the whole wiring is in here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from minuet.adapters.system import SystemClock, SystemIds
from minuet.app import App
from minuet.bootstrap.system import System
from minuet.bootstrap.wiring import Wiring, everything
from minuet.core.errors import ConfigurationError, MessageError
from minuet.observer import Observer
from minuet.ports import Clock, Ids, Outgoing
from minuet.runtime.reactor import Reactor
from minuet.settings import Settings

__all__ = ["System", "everything", "publish_again", "running", "stored"]


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
        wiring = Wiring(system, stack)
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
        wiring = Wiring(system, stack)
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
        wiring = Wiring(system, stack)
        envelope = system.codec.envelope_of(attributes, body, channel=channel, now=system.clock.now())
        system.codec.decode(envelope)
        reactor = Reactor(app, system.codec, system.clock, service, wiring.coordination_of)
        subscription = reactor.subscription(wiring.models_of(reactor))
        if not subscription.wants(channel, envelope):
            raise MessageError(
                f"{service} does not listen to {envelope.type} on {channel}, so it would not hear it; discard it"
            )
        await wiring.open_transports([channel])
        (problem,) = await wiring.transport_of(channel).publish([Outgoing(0, channel, envelope)])
        if problem is not None:
            raise ConfigurationError(f"{channel} does not take it: {problem}") from problem


def _chosen(app: App, services: Sequence[str] | None) -> list[str]:
    names = everything(app)
    for name in services or ():
        if name not in names:
            raise ConfigurationError(f"app {app.name} has no service {name!r}; it has {', '.join(names)}")
    return [name for name in names if services is None or name in services]
