"""Which transport carries a channel, as the settings say."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from minuet.adapters.broker.port import Broker
from minuet.adapters.broker.transport import BrokerTransport
from minuet.app import App
from minuet.bootstrap.extras import extra
from minuet.core.errors import ConfigurationError
from minuet.core.messages import Event, StepAbandoned, StepAccepted, StepRefused, channel_for
from minuet.ports import Clock, Ids, Transport
from minuet.runtime.reactor import commands_channel
from minuet.settings import Settings, way_of, writable


class Kind(NamedTuple):
    """A kind of broker: how it divides a URL into server and destination, and how it is made."""

    split: Callable[[str, str], tuple[str, str]]
    make: Callable[[str, Ids], Broker]


def _kafka() -> Kind:
    from minuet.adapters.kafka import KafkaBroker, split

    return Kind(split, KafkaBroker)


def _rabbitmq() -> Kind:
    from minuet.adapters.rabbitmq import RabbitMqBroker, split

    return Kind(split, RabbitMqBroker)


def _nats() -> Kind:
    from minuet.adapters.nats import NatsBroker, split

    return Kind(split, NatsBroker)


def _aws() -> Kind:
    from minuet.adapters.sns_sqs import SnsSqsBroker, split

    return Kind(split, SnsSqsBroker)


def _redis() -> Kind:
    from minuet.adapters.redis_streams import RedisBroker, split

    return Kind(split, RedisBroker)


KINDS: Mapping[str, tuple[str, Callable[[], Kind]]] = {
    "kafka": ("kafka", _kafka),
    "amqp": ("rabbitmq", _rabbitmq),
    "amqps": ("rabbitmq", _rabbitmq),
    "nats": ("nats", _nats),
    "nats+tls": ("nats", _nats),
    "sns": ("aws", _aws),
    "redis": ("redis", _redis),
    "rediss": ("redis", _redis),
}
"""By the URL's scheme: the extra that brings the client, and the adapter."""


class Place(NamedTuple):
    """Where a channel lies."""

    scheme: str
    server: str
    destination: str


class Transports:
    """Makes the transports of a deployment: one for each server that carries a channel; connects none."""

    def __init__(self, settings: Settings, clock: Clock, ids: Ids) -> None:
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._by_server: dict[str, Transport] = {}
        self._by_channel: dict[str, Transport] = {}

    def of(self, channel: str) -> Transport:
        """
        Raises:
            ConfigurationError: nothing carries the channel here.
        """
        if channel not in self._by_channel:
            self._by_channel[channel] = self._found(channel)
        return self._by_channel[channel]

    def _found(self, channel: str) -> Transport:
        server = self.place_of(channel).server
        if server not in self._by_server:
            raise ConfigurationError(f"nothing that was started here carries the channel {channel}")
        return self._by_server[server]

    def make(self, channels: Iterable[str]) -> dict[str, Transport]:
        """The transports that carry these channels, by server.

        Raises:
            ConfigurationError: a URL is of no known form, or what it needs is not installed.
        """
        places = {channel: self.place_of(channel) for channel in channels}
        self._check_options(places)
        for place in places.values():
            if place.server not in self._by_server:
                destinations = {name: one.destination for name, one in places.items() if one.server == place.server}
                self._by_server[place.server] = self._transport(place, destinations)
        return dict(self._by_server)

    def place_of(self, channel: str) -> Place:
        url = self._url_of(channel)
        if url in ("embedded:", "memory:"):
            return Place(url, url, channel)
        scheme = url.partition(":")[0]  # what follows may hold a password
        where = f'settings: [channels] {channel} = "{scheme}:..."'
        if scheme not in KINDS or not url.startswith(f"{scheme}://"):
            raise ConfigurationError(
                f"{where} is none of embedded:, memory:, {', '.join(f'{name}://...' for name in KINDS)}"
            )
        if not is_well_formed(url):
            raise ConfigurationError(
                f"{where} is not a URL; in a user's name and a password, write %2F for /, %3F for ?, %23 for # and "
                f"%40 for @"
            )
        return Place(scheme, *self.kind_of(scheme, channel).split(url, channel))

    def _check_options(self, places: Mapping[str, Place]) -> None:
        """Two connections with one group's name to one server would take each other's messages."""
        seen: dict[str, tuple[str, str]] = {}
        for channel, place in places.items():
            other, server = seen.setdefault(place.server.partition("?")[0], (channel, place.server))
            if server != place.server and "vhost=" not in server + place.server:
                raise ConfigurationError(
                    f"settings: [channels] {other} and {channel} lie on one server, {shown(server)}, with different "
                    f"options; give both the same"
                )

    def _url_of(self, channel: str) -> str:
        for pattern, url in self._settings.channels.items():
            if fnmatch.fnmatchcase(channel, pattern):
                return url
        raise ConfigurationError(f'settings: [channels] has no entry for {channel}; add "*" = "embedded:"')

    def kind_of(self, scheme: str, channel: str) -> Kind:
        name, load = KINDS[scheme]
        with extra(name, f"[channels] {channel} = {scheme}://..."):
            return load()

    def _transport(self, place: Place, destinations: Mapping[str, str]) -> Transport:
        if place.scheme == "memory:":
            from minuet.adapters.memory import MemoryBroker, MemoryTransport

            return MemoryTransport(MemoryBroker())
        if place.scheme == "embedded:":
            from minuet.adapters.sqlite import SqliteTransport

            return SqliteTransport(writable(self._settings.data) / "broker.db", clock=self._clock, ids=self._ids)
        broker = self.kind_of(place.scheme, next(iter(destinations))).make(place.server, self._ids)
        return BrokerTransport(
            broker, destinations, ids=self._ids, provision=self._settings.provision, name=shown(place.server)
        )


def is_well_formed(url: str) -> bool:
    """Whether user and password end where the host begins; a raw ``/`` in a password would move it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return "@" not in parts.path + parts.query + parts.fragment


def shown(url: str) -> str:
    """The server's URL for people: without user, password and options."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2].rstrip('/')}"


def channels_of(app: App, settings: Settings) -> list[str]:
    """Every channel on which a service of the app, or the orchestrator, publishes."""
    own = (StepRefused, StepAccepted, StepAbandoned)
    events = (one for one in app.messages() if issubclass(one, Event) and one not in own)
    rules = [rule for saga in app.sagas for rule in saga.rules.every]
    refused = (channel_for(StepRefused, rule.service) for rule in rules if not rule.watch)
    decided = (channel_for(StepAccepted, rule.service) for rule in rules if rule.watch)
    commands = (commands_channel(service) for service in commanded_in(app, settings))
    return list(dict.fromkeys((*(event.__contract__.channel for event in events), *refused, *decided, *commands)))


def commanded_in(app: App, settings: Settings) -> list[str]:
    """The services that the orchestrator asks by messages."""
    asked = dict.fromkeys(rule.service for saga in app.sagas for rule in saga.rules.every if not rule.watch)
    return [service for service in asked if way_of(settings, service) == "commands"]
