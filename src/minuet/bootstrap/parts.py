"""What a system is put together from: real adapters as the settings say, or, in a simulation, others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Protocol

from minuet.bootstrap.stores import Stores
from minuet.bootstrap.system import System
from minuet.bootstrap.transports import Transports
from minuet.ports import Store, Transport
from minuet.runtime.directory import Elsewhere


class Parts(Protocol):
    """Makes the parts of a system; opens none of them."""

    def store(self, name: str, schema: Any) -> Store:
        """The store of a service, or of the orchestrator, with the service's own tables."""

    def transports(self, channels: Iterable[str]) -> Mapping[str, Transport]:
        """Every transport that carries one of these channels, by its name."""

    def transport_of(self, channel: str) -> Transport:
        """One of those."""

    def elsewhere(self, system: System, stack: AsyncExitStack) -> Elsewhere | None:
        """How services that run elsewhere are asked; what has to be closed goes into the stack."""


class Adapters:
    """The parts that the settings name."""

    def __init__(self, system: System) -> None:
        self.stores = Stores(system.settings, system.ids)
        self._transports = Transports(system.settings, system.clock, system.ids)

    def store(self, name: str, schema: Any) -> Store:
        return self.stores.make(name, schema)

    def transports(self, channels: Iterable[str]) -> Mapping[str, Transport]:
        return self._transports.make(channels)

    def transport_of(self, channel: str) -> Transport:
        return self._transports.of(channel)

    def elsewhere(self, system: System, stack: AsyncExitStack) -> Elsewhere | None:
        from minuet.adapters.http_participants import HttpParticipants

        client = HttpParticipants(system.deployment.url_of, system.codec, clock=system.clock)
        stack.push_async_callback(client.close)
        stack.callback(system.deployment.close)
        return client
