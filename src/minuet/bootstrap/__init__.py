"""Builds a running system from an app and its settings. The only importer of adapters; the whole wiring is in here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from minuet.adapters.system import SystemClock, SystemIds
from minuet.app import App
from minuet.bootstrap.parts import Adapters, Parts
from minuet.bootstrap.system import System, chosen, everything
from minuet.bootstrap.wiring import Wiring
from minuet.observer import Observer
from minuet.ports import Act, Clock, Delivery, Ids
from minuet.settings import Settings

__all__ = ["System", "everything", "hear_again", "outside", "running", "stored"]


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
    parts: Callable[[System], Parts] = Adapters,
) -> AsyncIterator[System]:
    """Run an app, or some of its services, in this process until the block ends.

    Args:
        services: their names, ``orchestrator`` among them; by default all.
        serve: also answer HTTP, at ``settings.host`` and ``settings.port``.
        provided: what handlers get by its type, instead of what their services provide; for tests.
        parts: makes stores and transports, instead of those that the settings name; for simulations.

    Raises:
        ConfigurationError: says which setting does not fit.
    """
    settings = settings or Settings()
    system = System(app, settings, chosen(app, services), clock or SystemClock(), ids or SystemIds())
    async with AsyncExitStack() as stack:
        wiring = Wiring(system, stack, parts(system))
        await wiring.open()
        await wiring.provide(provided or {})
        if serve:
            await wiring.serve()
        await wiring.start()
        wiring.reconcile()
        wiring.prune()
        yield system


@asynccontextmanager
async def stored(app: App, settings: Settings) -> AsyncIterator[Observer]:
    """Open what the services of a deployment have stored, to look at it and to mend it; none of them is run.

    Raises:
        ConfigurationError: there is nothing that another process can see.
    """
    system = System(app, settings, everything(app), SystemClock(), SystemIds())
    async with AsyncExitStack() as stack:
        await Wiring(system, stack).open_stored()
        yield system.observer


@asynccontextmanager
async def outside(app: App, settings: Settings) -> AsyncIterator[System]:
    """The app as somebody sees it who runs none of it: to begin sagas, and to hand over what was lost.

    What is written waits for a process that runs the service.

    Raises:
        ConfigurationError: there is nothing that another process can see.
    """
    system = System(app, settings, everything(app), SystemClock(), SystemIds())
    async with AsyncExitStack() as stack:
        await Wiring(system, stack).open_unconnected()
        yield system


async def hear_again(
    app: App,
    settings: Settings,
    service: str,
    parked_id: str,
    channel: str,
    attributes: Mapping[str, str],
    body: bytes,
    act: Act | None = None,
) -> None:
    """Have a service take in a message that it had parked, and park it no more, in one transaction.

    Nothing is done yet: what the message makes due waits for a process that runs the service. The transport is not
    asked, which might take the message for one that it has delivered already.

    Args:
        act: to be kept with it.

    Raises:
        MessageError: the service would park it again, or would not hear of it.
        NotFound: it is not parked any more.
    """
    system = System(app, settings, chosen(app, [service]), SystemClock(), SystemIds())
    async with AsyncExitStack() as stack:
        place = await Wiring(system, stack).open_alone(service)
        await place.hear_again(parked_id, Delivery(channel, attributes, body, 1, None), act)
