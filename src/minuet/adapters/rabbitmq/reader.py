"""Lets the client survive a stranger's message whose properties it cannot read.

A timestamp in microseconds or a name that is not UTF-8 makes pamqp raise, and aiormq ends the connection over it. The
broker would give the same message out again after each reconnect, for ever, and the group would stand still. So the
properties of such a message are taken away before the client sees them: it arrives as a bare message, and is parked if
its body does not say enough.
"""

from __future__ import annotations

import asyncio
from typing import Final

import pamqp.frame
from pamqp.constants import FRAME_HEADER

HEAD_BYTES: Final = 7  # of a frame: type, channel, size
FLAGS: Final = slice(12, 14)  # of a content header: which properties follow; what follows without a flag is not read


class TolerantReader(asyncio.StreamReader):
    """Reads as the client asks: the head of a frame in one or more pieces, then the rest in one."""

    _head: bytes = b""

    async def readexactly(self, n: int) -> bytes:
        data = await super().readexactly(n)
        if len(self._head) < HEAD_BYTES:
            self._head += data
            return data
        head, self._head = self._head, b""
        return readable(head, data) if head[0] == FRAME_HEADER else data


def readable(head: bytes, rest: bytes) -> bytes:
    """The rest of a content header's frame, without its properties if they cannot be read."""
    try:
        pamqp.frame.unmarshal(head + rest)
    except Exception:  # whatever it is, it would end the connection
        return rest[: FLAGS.start] + bytes(FLAGS.stop - FLAGS.start) + rest[FLAGS.stop :]
    return rest
