"""What an app needs on its brokers: shown, compared, and made, without running any service.

A start does the same for itself, if the settings let it. In production somebody with more rights does it beforehand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import NamedTuple

from minuet.adapters.broker.link import say
from minuet.adapters.broker.port import Broker
from minuet.adapters.broker.transport import BrokerTransport
from minuet.app import App, events_returned_by
from minuet.bootstrap.system import everything
from minuet.bootstrap.transports import Place, Transports, channels_of, commanded_in, shown
from minuet.bootstrap.wiring import Wiring, wired
from minuet.core.compile import Kind
from minuet.core.errors import ConfigurationError
from minuet.core.messages import (
    Command,
    Event,
    InstructionGiven,
    SagaCancelled,
    StepRefused,
    channel_for,
    name_of,
)
from minuet.ports import Ids, Subscription
from minuet.runtime.reactor import ORCHESTRATOR, commands_channel
from minuet.settings import Settings

CONNECT_S = 6.0
"""A person waits: a server that is not there now is told at once, other than at the start of a service."""
ANSWER_S = 60.0
WITHOUT_TOPOLOGY = ("embedded:", "memory:")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelView:
    """Where a channel lies, and who has to do with it.

    Attributes:
        broker: its address without user and password; or ``embedded:`` or ``memory:``.
        publishes, listens: the names of services, or ``orchestrator``.
    """

    channel: str
    events: tuple[str, ...]
    broker: str
    destination: str
    publishes: tuple[str, ...]
    listens: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerView:
    """How a broker stands.

    Attributes:
        broker: its address without user and password.
        has_topology: whether there is anything to make; not on embedded and memory transports.
        made: what was missing or different and was put right, a sentence for each.
        missing: what is missing or different now, likewise.
        destinations: of the app's channels that lie there. groups: that have something to hear there.
    """

    broker: str
    has_topology: bool = True
    made: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def show_topology(app: App, settings: Settings) -> list[ChannelView]:
    """Every channel of the app, as the settings place it. Asks no server.

    Raises:
        ConfigurationError: a setting does not fit, or what it needs is not installed.
    """
    wiring = wired(app, settings)
    listening = _subscriptions(wiring)
    publishing = _publishing(app, commanded_in(app, settings))
    found = []
    for channel, place in Servers(wiring).places.items():
        events = [*publishing.get(channel, {}), *(name for one in listening for name in one.wanted.get(channel, ()))]
        publishers = (service for services in publishing.get(channel, {}).values() for service in services)
        found.append(
            ChannelView(
                channel=channel,
                events=tuple(dict.fromkeys(events)),
                broker=_name(place),
                destination=place.destination,
                publishes=tuple(dict.fromkeys(publishers)),
                listens=tuple(one.group for one in listening if channel in one.wanted),
            )
        )
    return sorted(found, key=lambda one: one.channel)


async def check_topology(app: App, settings: Settings) -> list[BrokerView]:
    """Compare each broker with what the app needs there; changes nothing.

    Raises:
        ConfigurationError: a setting does not fit, or a broker cannot be asked.
    """
    wiring = wired(app, settings)

    async def compare(server: Server, wanted: Sequence[Subscription]) -> BrokerView:
        return server.view(wanted, missing=tuple(await server.transport.check(wanted)))

    return await _at_each(wiring, compare)


async def apply_topology(app: App, settings: Settings, services: Sequence[str] | None = None) -> list[BrokerView]:
    """Make on each broker what the app needs there. Nothing is made anywhere unless every broker is there.

    Args:
        services: whose groups; by default all. Destinations are made for all channels.

    Raises:
        ConfigurationError: a setting does not fit, a broker cannot be asked, or it refuses.
    """
    wiring = wired(app, settings, services)

    async def make(server: Server, wanted: Sequence[Subscription]) -> BrokerView:
        # Destinations first: of a broker that has none yet, nobody can say which groups are missing.
        made = list(await server.transport.check([]))
        if made:
            await server.transport.declare([])
        made += await server.transport.check(wanted)
        # Even if nothing was found: not every broker lets us see all that there is, as RabbitMQ its bindings.
        await server.transport.declare(wanted)
        missing = await server.transport.check(wanted)
        return server.view(
            wanted,
            made=tuple(one for one in dict.fromkeys(made) if one not in missing),
            missing=tuple(dict.fromkeys(missing)),
        )

    return await _at_each(wiring, make)


async def _at_each(
    wiring: Wiring, work: Callable[[Server, Sequence[Subscription]], Awaitable[BrokerView]]
) -> list[BrokerView]:
    servers = Servers(wiring)
    wanted = [one for one in _subscriptions(wiring) if one.group in wiring.system.services]
    found = [BrokerView(broker=name, has_topology=False) for name in servers.without_topology()]
    connected = servers.with_topology()
    unreachable = [one for one in await asyncio.gather(*map(_try_to_connect, connected)) if one]
    if unreachable:
        raise ConfigurationError("; ".join(unreachable))
    for server in connected:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.transport.close)
            try:
                await server.transport.start()
                found.append(await work(server, wanted))
            except ConfigurationError as error:
                raise ConfigurationError(f"{server.name}: {_without_name(server, error)}") from error
    return found


async def _try_to_connect(server: Server) -> str:
    """Why it cannot be reached; empty if it can."""
    problem = ""
    try:
        async with asyncio.timeout(CONNECT_S):
            await server.broker.connect()
    except ConfigurationError as error:
        problem = f"{server.name}: {_without_name(server, error)}"
    except TimeoutError:
        problem = f"cannot connect to {server.name}: it did not answer within {CONNECT_S:g} s"
    except Exception as error:
        why = _without_name(server, error)
        problem = f"cannot connect to {server.name}: {why}; is it running, and is the address right?"
    with suppress(TimeoutError):
        async with asyncio.timeout(CONNECT_S):
            await server.broker.disconnect()
    return problem


def _without_name(server: Server, error: Exception) -> str:
    return say(error).removeprefix(f"{server.name}: ")


class Server(NamedTuple):
    """A broker of the settings. Not connected."""

    name: str
    broker: Broker
    transport: BrokerTransport
    destinations: Mapping[str, str]

    def view(
        self, wanted: Iterable[Subscription], *, made: tuple[str, ...] = (), missing: tuple[str, ...] = ()
    ) -> BrokerView:
        return BrokerView(
            broker=self.name,
            made=made,
            missing=missing,
            destinations=tuple(sorted(set(self.destinations.values()))),
            groups=tuple(one.group for one in wanted if self.destinations.keys() & one.wanted.keys()),
        )


class Servers(Transports):
    """Where the app's channels lie.

    Attributes:
        places: of each channel.
    """

    def __init__(self, wiring: Wiring) -> None:
        super().__init__(wiring.settings, wiring.system.clock, wiring.system.ids)
        channels = channels_of(wiring.app, wiring.settings)
        self.places: Mapping[str, Place] = {channel: self.place_of(channel) for channel in channels}

    def without_topology(self) -> list[str]:
        """Those on which there is nothing to make."""
        return sorted({place.server for place in self.places.values() if place.scheme in WITHOUT_TOPOLOGY})

    def with_topology(self) -> list[Server]:
        """Those on which something has to be there. May make it, whatever the settings say of a start."""
        by_server = {place.server: place for place in self.places.values() if place.scheme not in WITHOUT_TOPOLOGY}
        return sorted((self._server(place, self._ids) for place in by_server.values()), key=lambda one: one.name)

    def _server(self, place: Place, ids: Ids) -> Server:
        destinations = {name: one.destination for name, one in self.places.items() if one.server == place.server}
        broker = self.kind_of(place.scheme, next(iter(destinations))).make(place.server, ids)
        name = shown(place.server)
        transport = BrokerTransport(
            broker, destinations, ids=ids, provision=True, name=name, start_s=ANSWER_S, call_s=ANSWER_S
        )
        return Server(name, broker, transport, destinations)


def _name(place: Place) -> str:
    return place.server if place.scheme in WITHOUT_TOPOLOGY else shown(place.server)


def _subscriptions(wiring: Wiring) -> list[Subscription]:
    """What the group of each service, and of the orchestrator, wants to hear; without those that want nothing."""
    reactors = map(wiring.reactor, everything(wiring.app))
    wanted = (reactor.subscription(wiring.models_of(reactor)) for reactor in reactors)
    return [one for one in wanted if one.wanted]


def _publishing(app: App, commanded: Collection[str]) -> dict[str, dict[str, list[str]]]:
    """Who publishes which event, by channel. Of services that are not in the app, what its sagas ask of them."""
    found: dict[str, dict[str, list[str]]] = {}

    def publishes(service: str, event: type[Event | Command], channel: str = "") -> None:
        services = found.setdefault(channel or event.__contract__.channel, {}).setdefault(name_of(event), [])
        if service not in services:
            services.append(service)

    for service in app.services.values():
        for command, handler in service.commands.items():
            for event in (*command.__contract__.answers, *events_returned_by(handler.function)):
                publishes(service.name, event)
        for reaction in service.reactions:
            for event in reaction.answers:
                publishes(service.name, event)
    for saga in app.sagas:
        for rule in saga.rules.every:
            for event in rule.command.__contract__.answers:
                publishes(rule.service, event, channel_for(event, rule.service))
            if rule.kind is Kind.WATCH:
                continue
            publishes(rule.service, StepRefused, f"{rule.service}.refused")
            publishes(ORCHESTRATOR, SagaCancelled)
            publishes(ORCHESTRATOR, InstructionGiven)
            if rule.service in commanded:
                publishes(ORCHESTRATOR, rule.command, commands_channel(rule.service))
    return found
