"""What an app needs on its brokers and in its databases: shown, compared, and made, without running any service.

A start does the same for itself, if the settings let it. In production somebody with more rights does it beforehand.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from minuet.adapters.broker.link import say
from minuet.adapters.broker.port import Broker
from minuet.adapters.broker.transport import BrokerTransport
from minuet.adapters.system import SystemClock, SystemIds
from minuet.app import App, _returned
from minuet.bootstrap import _chosen
from minuet.bootstrap.stores import Stores, is_postgres
from minuet.bootstrap.system import System, everything
from minuet.bootstrap.transports import Place, Transports, channels_of, shown
from minuet.bootstrap.wiring import Wiring
from minuet.core.errors import ConfigurationError
from minuet.core.messages import Event, StepRefused, name_of
from minuet.ports import Ids, Subscription
from minuet.runtime.reactor import Reactor
from minuet.settings import Settings

CONNECT_S = 6.0
"""A person waits: a server that is not there now is told at once, other than at the start of a service."""
ANSWER_S = 60.0
WITHOUT_TOPOLOGY = ("embedded:", "memory:")
OUR_TABLES = "minuet's tables"
COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
SQLITE_SCHEMA = "schema.sql"
VERSION = f"SELECT value FROM minuet_meta WHERE name = '{SQLITE_SCHEMA}'"  # noqa: S608  a constant
TABLE = re.compile(r'\bCREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?("[^"]+"|\w+)', re.IGNORECASE)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreView:
    """How a service's tables stand.

    Attributes:
        store: where they are, without user and password.
        is_kept: whether there is anything to make; not in memory.
        applied: what was created or updated. pending: what is still to be.
    """

    service: str
    store: str
    is_kept: bool = True
    applied: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


def _wired(app: App, settings: Settings, services: Sequence[str] | None = None) -> Wiring:
    """Knows every part; opens none."""
    system = System(app, settings, _chosen(app, services), SystemClock(), SystemIds())
    return Wiring(system, AsyncExitStack())


# -- brokers -----------------------------------------------------------------------------------------------------------


def show_topology(app: App, settings: Settings) -> list[ChannelView]:
    """Every channel of the app, as the settings place it. Asks no server.

    Raises:
        ConfigurationError: a setting does not fit, or what it needs is not installed.
    """
    wiring = _wired(app, settings)
    listening = _subscriptions(wiring)
    publishing = _publishing(app)
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
    wiring = _wired(app, settings)

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
    wiring = _wired(app, settings, services)

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
        self.places: Mapping[str, Place] = {channel: self._place(channel) for channel in channels_of(wiring.app)}

    def without_topology(self) -> list[str]:
        """Those on which there is nothing to make."""
        return sorted({place.server for place in self.places.values() if place.scheme in WITHOUT_TOPOLOGY})

    def with_topology(self) -> list[Server]:
        """Those on which something has to be there. May make it, whatever the settings say of a start."""
        by_server = {place.server: place for place in self.places.values() if place.scheme not in WITHOUT_TOPOLOGY}
        return sorted((self._server(place, self._ids) for place in by_server.values()), key=lambda one: one.name)

    def _server(self, place: Place, ids: Ids) -> Server:
        destinations = {name: one.destination for name, one in self.places.items() if one.server == place.server}
        broker = self._kind(place.scheme, next(iter(destinations))).make(place.server, ids)
        name = shown(place.server)
        transport = BrokerTransport(
            broker, destinations, ids=ids, provision=True, name=name, start_s=ANSWER_S, call_s=ANSWER_S
        )
        return Server(name, broker, transport, destinations)


def _name(place: Place) -> str:
    return place.server if place.scheme in WITHOUT_TOPOLOGY else shown(place.server)


def _subscriptions(wiring: Wiring) -> list[Subscription]:
    """What the group of each service, and of the orchestrator, wants to hear; without those that want nothing."""
    system = wiring.system
    reactors = (
        Reactor(wiring.app, system.codec, system.clock, name, wiring.coordination_of) for name in everything(wiring.app)
    )
    wanted = (reactor.subscription(wiring.models_of(reactor)) for reactor in reactors)
    return [one for one in wanted if one.wanted]


def _publishing(app: App) -> dict[str, dict[str, list[str]]]:
    """Who publishes which event, by channel. Of services that are not in the app, what its sagas ask of them."""
    found: dict[str, dict[str, list[str]]] = {}

    def publishes(service: str, event: type[Event], channel: str = "") -> None:
        services = found.setdefault(channel or event.__contract__.channel, {}).setdefault(name_of(event), [])
        if service not in services:
            services.append(service)

    for service in app.services.values():
        for command, handler in service.commands.items():
            for event in (*command.__contract__.answers, *_returned(handler.function)):
                publishes(service.name, event)
        for reaction in service.reactions:
            for event in reaction.answers:
                publishes(service.name, event)
    for saga in app.sagas:
        for rule in saga.rules.every:
            for event in rule.command.__contract__.answers:
                publishes(rule.service, event)
            publishes(rule.service, StepRefused, f"{rule.service}.refused")
    return found


# -- stores ------------------------------------------------------------------------------------------------------------


async def check_stores(app: App, settings: Settings) -> list[StoreView]:
    """What `migrate_stores` would apply; changes nothing.

    Raises:
        ConfigurationError: a setting does not fit, or a database cannot be used.
    """
    tables = _tables(_wired(app, settings))
    return [one.view(pending=await one.pending()) for one in tables]


async def migrate_stores(app: App, settings: Settings, services: Sequence[str] | None = None) -> list[StoreView]:
    """Create or update the tables of each service: minuet's, and what is missing of its own.

    Raises:
        ConfigurationError: a setting does not fit, or a database cannot be used.
    """
    return [one.view(applied=await one.migrate()) for one in _tables(_wired(app, settings, services))]


def _tables(wiring: Wiring) -> list[Tables]:
    found = []
    files = Files(wiring.settings, wiring.system.ids)
    for name in wiring.system.services:
        service = wiring.app.services.get(name)
        if service is None or service.commands or service.queries or service.reactions:
            found.append(_tables_of(files, name, service.schema if service else ""))
    return found


def _tables_of(files: Files, service: str, schema: Any) -> Tables:
    url = files.url_of(service)
    if url.startswith("sqlite:"):
        return SqliteTables(service, schema, files)
    files.make(service, schema)  # refuses what is of no known form; opens nothing
    return PostgresTables(service, schema, url) if is_postgres(url) else Tables(service, schema, url, is_kept=False)


class Files(Stores):
    """Also says which file a SQLite store is."""

    def file_of(self, service: str) -> Path:
        return self._file(service, self.url_of(service))


class Tables:
    """The tables of one service: by itself, of a store that keeps nothing."""

    def __init__(self, service: str, schema: Any, store: str, *, is_kept: bool) -> None:
        self.service = service
        self.schema = schema
        self.store = store
        self.is_kept = is_kept

    def view(self, *, applied: Iterable[str] = (), pending: Iterable[str] = ()) -> StoreView:
        return StoreView(
            service=self.service,
            store=self.store,
            is_kept=self.is_kept,
            applied=tuple(applied),
            pending=tuple(pending),
        )

    async def pending(self) -> list[str]:
        """What `migrate` would apply."""
        return []

    async def migrate(self) -> list[str]:
        """What was applied."""
        return []


class SqliteTables(Tables):
    """Those of a SQLite file."""

    def __init__(self, service: str, schema: Any, files: Files) -> None:
        self._files = files
        self._path = files.file_of(service)
        super().__init__(service, schema, str(self._path), is_kept=True)

    async def pending(self) -> list[str]:
        ours, there = await asyncio.to_thread(_look_into, self._path)
        return [*ours, *_missing(self.schema, there)]

    async def migrate(self) -> list[str]:
        pending = await self.pending()
        store = self._files.make(self.service, self.schema)
        await store.start()
        await store.close()
        return pending


def _look_into(path: Path) -> tuple[list[str], set[str]]:
    """What minuet's own tables lack in the file, and the names of all tables that are there."""
    import sqlite3

    if not path.exists():
        return [OUR_TABLES], set()
    # Even a reader makes the files that a write-ahead log needs, unless it is told that nobody writes. Nobody has the
    # file open if there is no log.
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True)
        try:
            there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            found = connection.execute(VERSION).fetchone() if "minuet_meta" in there else None
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ConfigurationError(f"{path} cannot be read: {error}; is it a SQLite database?") from error
    return _lacking(path, int(found[0]) if found else 0), there


def _lacking(path: Path, version: int) -> list[str]:
    from minuet.adapters.sqlite.schema import VERSIONS

    newest = VERSIONS[SQLITE_SCHEMA]
    if version > newest:
        raise ConfigurationError(
            f"{path} has version {version} of {OUR_TABLES}, and this minuet knows {newest}; update minuet, or use "
            f"another file"
        )
    if version == newest:
        return []
    return [f"{OUR_TABLES}, version {newest}" if version else OUR_TABLES]


class PostgresTables(Tables):
    """Those of a schema in a PostgreSQL database."""

    def __init__(self, service: str, schema: Any, url: str) -> None:
        from minuet.adapters.postgres.connection import Address

        self._url = url
        self._address = Address(url)
        super().__init__(service, schema, f"{self._address} schema {service}", is_kept=True)

    async def pending(self) -> list[str]:
        from minuet.adapters.postgres import pending

        ours = await pending(self._url, self.service)  # says why, if the database cannot be used
        return [*ours, *_missing(self.schema, await asyncio.to_thread(self._look))]

    async def migrate(self) -> list[str]:
        from minuet.adapters.postgres import migrate

        before = set(await self.pending())
        applied = await migrate(self._url, self.service, schema=self.schema)
        return [*applied, *(one for one in _missing(self.schema, ()) if one in before)]

    def _look(self) -> set[str]:
        from minuet.adapters.postgres import Limits
        from minuet.adapters.postgres.connection import BoundedConnection, connect

        connection = connect(BoundedConnection, self._address, self.service, Limits(), "minuet store")
        try:
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [self.service])
            return {name for (name,) in rows}
        finally:
            connection.close()


def _missing(schema: Any, there: Iterable[str]) -> list[str]:
    """The service's own tables that are not there. What is otherwise in its SQL (indexes, rows) is not looked at."""
    known = {name.casefold() for name in there}
    return [f"table {name}" for name in _names(schema) if name.casefold() not in known]


def _names(schema: Any) -> list[str]:
    if isinstance(schema, str):
        return list(dict.fromkeys(name.strip('"') for name in TABLE.findall(COMMENT.sub(" ", schema))))
    return [table.name for table in schema.tables.values()] if schema is not None else []
