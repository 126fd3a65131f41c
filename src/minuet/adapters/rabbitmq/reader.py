"""Reads what comes by the thousand, and leaves the rest to the client.

aiormq reads a frame in three pieces, decodes each property of each message, passes every frame on over two queues and
starts a task for each message; that was most of what a message cost. So messages, and the broker's answers to what we
send, go straight from the socket to whoever hears that channel. Everything else the client sees as if nothing had been.

It also lets us survive a stranger's message whose properties cannot be read, such as a timestamp in microseconds or a
name that is not UTF-8: aiormq ends the connection over it, and the broker would give the same message out again after
each reconnect, for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol, SupportsIndex

from minuet.adapters.rabbitmq.frames import BODY, DELIVER, END, HEAD, HEADER, HEARTBEAT, METHOD, METHOD_BYTES, RETURN

SIGN_S: Final = 0.25  # less than the shortest heartbeat, which is a second


class Hearer(Protocol):
    """Who hears a channel. It is called while the socket is read: it may neither raise nor take long."""

    def came(self, method: bytes, header: bytes, body: bytes) -> None:
        """A message: the payloads of its ``Basic.Deliver`` or ``Basic.Return`` and of its content header, its body."""

    def told(self, method: bytes) -> bool:
        """The payload of another method; True if the client is not to see it."""


@dataclass(slots=True)
class Coming:
    """A message of which parts are here."""

    method: bytes
    header: bytes = b""
    parts: list[bytes] = field(default_factory=list)
    missing: int = 0


class FrameReader(asyncio.StreamReader):
    """See the top of this file."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._clock = loop.time
        self._hearers: dict[int, Hearer] = {}
        self._coming: dict[int, Coming] = {}
        self._begun = b""  # a frame whose end is not here yet
        self._signed_at = 0.0

    def hear(self, channel: int, hearer: Hearer) -> None:
        """From now on what comes by the thousand on this channel goes there."""
        self._hearers[channel] = hearer
        self._coming.pop(channel, None)

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        data = self._begun + bytes(data)
        start, has_taken = 0, False
        while len(data) - start >= HEAD.size:
            kind, channel, size = HEAD.unpack_from(data, start)
            end = start + HEAD.size + size + len(END)
            if end > len(data):
                break
            # A frame without its end mark is for the client to complain of.
            hearer = self._hearers.get(channel) if data[end - 1 : end] == END else None
            if hearer is not None and self._take(kind, channel, data[start + HEAD.size : end - 1], hearer):
                has_taken = True
            else:
                super().feed_data(data[start:end])
            start = end
        self._begun = data[start:]
        if has_taken:
            self._show_a_sign()

    def feed_eof(self) -> None:
        # asyncio says it twice: when the other side ends the stream, and when ours is closed. Then no data may follow.
        begun, self._begun = self._begun, b""
        if begun:
            super().feed_data(begun)
        super().feed_eof()

    def _take(self, kind: int, channel: int, payload: bytes, hearer: Hearer) -> bool:
        if kind == METHOD:
            if payload[:METHOD_BYTES] not in (DELIVER, RETURN):
                return hearer.told(payload)
            self._coming[channel] = Coming(payload)
            return True
        coming = self._coming.get(channel)
        if coming is None:
            return False
        if kind == HEADER:
            coming.header = payload
            coming.missing = int.from_bytes(payload[4:12], "big")
        elif kind == BODY:
            coming.parts.append(payload)
            coming.missing -= len(payload)
        if coming.missing <= 0:
            del self._coming[channel]
            hearer.came(coming.method, coming.header, b"".join(coming.parts))
        return True

    def _show_a_sign(self) -> None:
        """The client ends a connection on which it sees nothing: let it see that the broker is there."""
        now = self._clock()
        if now - self._signed_at >= SIGN_S:
            self._signed_at = now
            super().feed_data(HEARTBEAT)
