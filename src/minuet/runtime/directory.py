"""Finds who answers a command or a query: a service of this process, or one elsewhere over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from minuet.core.envelope import Envelope
from minuet.core.errors import NotYet
from minuet.core.messages import Command, Query, View
from minuet.runtime.desk import Desk

WAIT_S = 20.0


class Elsewhere(Protocol):
    """Services of other processes."""

    async def ask(self, command: type[Command], envelope: Envelope, *, key: str) -> Envelope: ...
    async def read(self, query: Query) -> View: ...


class Directory:
    """Who answers for each service.

    Args:
        local: the desks of this process.
        is_local: whether a service that runs here is asked here, and not over HTTP all the same.
    """

    def __init__(
        self,
        local: Mapping[str, Desk],
        elsewhere: Elsewhere | None,
        *,
        is_local: Callable[[str], bool] = lambda service: True,
    ) -> None:
        self.local = local
        self.elsewhere = elsewhere
        self.is_local = is_local

    async def ask(self, command: type[Command], envelope: Envelope, *, key: str) -> Envelope:
        """The recorded answer of the participant.

        Raises:
            NotYet, Conflict, Rejected, MessageError: as `Desk.ask` says.
        """
        service = command.__contract__.service
        desk = self._desk(service)
        if desk is not None:
            return await desk.ask(envelope, key=key, wait_s=WAIT_S)
        return await self._elsewhere(service).ask(command, envelope, key=key)

    async def read(self, query: Query) -> View:
        """The view. Raises NotFound, NotYet, Rejected."""
        service = query.__contract__.service
        desk = self._desk(service)
        if desk is not None:
            return await desk.read(query)
        return await self._elsewhere(service).read(query)

    def _desk(self, service: str) -> Desk | None:
        return self.local.get(service) if self.is_local(service) else None

    def _elsewhere(self, service: str) -> Elsewhere:
        if self.elsewhere is None:
            raise NotYet(f"service {service} does not run in this process, and calls over HTTP are not set up")
        return self.elsewhere
