"""What one connection takes from a group's consumer.

One pull request at a time is open. It asks for what is there, up to a limit; the server ends it with a status when
there is no more, and if there is nothing at all it lingers for a moment. There is no way to take a request back: when
the inbox is unsubscribed, the server may just have given out a message for it, which is then nobody's until `hold_s` is
over. So whoever stops waiting leaves the request open, and what comes for it is given back at once unless somebody
waits again by then; and before disconnecting one waits for its end.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence

from minuet.adapters.broker.port import Disconnected
from minuet.adapters.nats.connection import ANSWER_S, Connection, Request
from minuet.adapters.nats.wire import Heard, status_of

log = logging.getLogger("minuet.nats")

LINGER_S = 0.5
BYTES_MAX = 32 * 1024 * 1024
NO_MORE = {"404", "408"}
CONFLICT = "409"
HARMLESS = ("message size exceeds", "exceeded maxackpending", "batch completed")


class Puller:
    """One group's end of the connection.

    Args:
        subject: where the consumer takes requests.
        came: told of each message as soon as it is in our hands.
        give_back: what came for nobody.
    """

    def __init__(
        self,
        connection: Connection,
        subject: str,
        *,
        came: Callable[[Heard], None],
        give_back: Callable[[Sequence[Heard]], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._subject = subject
        self._came = came
        self._give_back = give_back
        self._inbox = ""
        self._arrived: list[Heard] = []
        self._missing = 0  # so many may still come for the open request; none is open if it is 0
        self._fault: str | None = None
        self._is_awaited = False
        self._ended = asyncio.Event()
        self._giving_back: set[asyncio.Task[None]] = set()

    async def fetch(self, limit: int) -> Sequence[Heard]:
        """See `minuet.adapters.broker.port.Broker.fetch`."""
        self._is_awaited = True
        try:
            while self._missing or not self._arrived:
                if not self._missing:
                    await self._request(limit)
                if not await self._connection.wait_for(self._ended, LINGER_S + ANSWER_S):
                    raise Disconnected(f"{self._connection.address.name}: no answer to a request to {self._subject}")
                if self._fault is not None and not self._arrived:
                    raise Disconnected(
                        f"{self._connection.address.name}: no messages from {self._subject}: {self._fault}"
                    )
            taken, self._arrived = self._arrived[:limit], self._arrived[limit:]
        finally:
            self._is_awaited = False
            self._free()
        return taken

    async def finish(self) -> None:
        """Wait until the open request has ended, and what came for nobody is given back."""
        while self._missing:
            if not await self._connection.wait_for(self._ended, 2 * LINGER_S):
                return
        self._free()
        if self._giving_back:
            await asyncio.wait(self._giving_back)

    async def _request(self, limit: int) -> None:
        if not self._inbox:
            inbox = self._connection.new_inbox()
            await self._connection.subscribe(inbox, self._heard)
            self._inbox = inbox
        self._missing = limit
        self._fault = None
        self._ended.clear()
        what = {
            "batch": limit,
            "max_bytes": max(BYTES_MAX, 2 * self._connection.bytes_max),
            "no_wait": True,
            "expires": int(LINGER_S * 10**9),
        }
        await self._connection.publish([Request(self._subject, json.dumps(what).encode())], self._inbox)

    def _heard(self, message: Heard) -> None:
        status, said = status_of(message)
        if not status:
            self._arrived.append(message)
            self._came(message)
            self._missing = max(0, self._missing - 1)
        else:
            self._missing = 0
            if status not in NO_MORE and not (status == CONFLICT and said.lower().startswith(HARMLESS)):
                self._fault = f"{status} {said}".strip()
        if not self._missing:
            self._ended.set()
            self._free()

    def _free(self) -> None:
        """Give back what came, if the request has ended and nobody waits."""
        if self._is_awaited or self._missing or not self._arrived:
            return
        left, self._arrived = self._arrived, []
        task = asyncio.get_running_loop().create_task(self._free_all(left))
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)

    async def _free_all(self, messages: Sequence[Heard]) -> None:
        try:
            await self._give_back(messages)
        except Exception as error:  # then the connection is gone, and the next one frees them
            log.debug("%s: %s", self._subject, error)
