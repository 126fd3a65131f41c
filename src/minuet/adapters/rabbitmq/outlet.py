"""A channel that messages are sent on, each of which the broker confirms.

A wave of messages is written at once and waited for at once: what the broker says of each is noted down, and who waits
hears when all has been said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import takewhile
from struct import error as StructError  # noqa: N812
from typing import Final
from uuid import uuid4

from aiormq.abc import ChannelFrame
from aiormq.channel import Channel

from minuet.adapters.broker.port import Disconnected, Sending
from minuet.adapters.rabbitmq.frames import ACK, NACK, RETURN, confirmation_in, publishing, reason_in
from minuet.adapters.rabbitmq.wire import header_of, message_id_in, message_id_of
from minuet.core.errors import MessageError, MinuetError

WRITE_BYTES: Final = 128 * 1024  # at once; a larger message goes alone
FRAME_BYTES: Final = 128 * 1024  # of a body, where the server sets no limit


class NotKept(MinuetError):
    """RabbitMQ did not take a message: nobody is there to get it, or it has no room. It may be sent again."""


class Wave:
    """Messages under way together.

    Attributes:
        unconfirmed: the position of each message of which the broker has not said yet what became of it, by the number
            that the broker counts it by, ascending.
        over: done when all are written and none is unconfirmed.
    """

    def __init__(self, messages: Sequence[Sending], over: asyncio.Future[None]) -> None:
        self.messages = messages
        self.outcomes: list[Exception | None] = [None] * len(messages)
        self.unconfirmed: dict[int, int] = {}
        self.by_id: dict[str, int] = {}
        self.is_written = False
        self.over = over

    def returned(self, message_id: str, reason: str) -> None:
        """It fits no queue. The broker confirms it nevertheless, later."""
        position = self.by_id.get(message_id)
        if position is not None:
            message = self.messages[position]
            self.outcomes[position] = NotKept(
                f"{_name_of(message)} fits no queue at {message.destination} ({reason}); is its group declared?"
            )

    def confirmed(self, number: int, *, multiple: bool, is_kept: bool) -> None:
        numbers = list(takewhile(lambda one: one <= number, self.unconfirmed)) if multiple else [number]
        for one in numbers:
            position = self.unconfirmed.pop(one, None)
            if position is not None and not is_kept:
                message = self.messages[position]
                self.outcomes[position] = NotKept(
                    f"RabbitMQ did not keep {_name_of(message)} at {message.destination}; is a queue full?"
                )

    def end_if_over(self) -> None:
        if self.is_written and not self.unconfirmed and not self.over.done():
            self.over.set_result(None)


class Outlet:
    """See the top of this file.

    Args:
        channel: in confirm mode, and nobody else's.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._written = 0  # the broker counts messages, too
        self._wave: Wave | None = None

    async def publish(self, messages: Sequence[Sending]) -> Sequence[Exception | None]:
        """Send them, no two of one id; for each None once the broker keeps it, or why it does not. One wave at a time.

        Raises:
            ChannelClosed: the broker closed the channel over this, with its reason.
        """
        if self._channel.is_closed:
            raise Disconnected("the channel for sending is closed")
        # The client ends this future with the channel.
        wave = self._wave = Wave(messages, self._channel.create_future())
        try:
            await self._write_all(wave)
            await wave.over
        finally:
            if self._wave is wave:  # the next one may have begun before this one was told that it is given up
                self._wave = None
        return wave.outcomes

    async def _write_all(self, wave: Wave) -> None:
        waiting: list[tuple[int, bytes]] = []
        size = 0
        for position, message in enumerate(wave.messages):
            written = self._written_or_refused(position, message, wave)
            if not written:
                continue
            if waiting and size + len(written) > WRITE_BYTES:
                await self._write(waiting, wave)
                waiting, size = [], 0
            waiting.append((position, written))
            size += len(written)
        if waiting:
            await self._write(waiting, wave)
        wave.is_written = True
        wave.end_if_over()

    def _written_or_refused(self, position: int, message: Sending, wave: Wave) -> bytes:
        part_max = self._channel.max_content_size
        if part_max <= 0:  # a server whose frame_max is 0 sets none
            part_max = FRAME_BYTES
        try:
            message_id = message_id_of(message.attributes) or uuid4().hex
            header = header_of(message.attributes, message_id, len(message.body))
            if len(header) > part_max:  # the server would end the connection
                raise ValueError(f"its attributes have {len(header)} bytes, {part_max} is the most on this server")
            written = publishing(
                self._channel.number,
                message.destination,
                header,
                message.body,
                mandatory=message.must_arrive,
                part_max=part_max,
            )
        except (ValueError, TypeError, StructError) as error:
            problem = f"{_name_of(message)} cannot be written as an AMQP message: {error}"
            wave.outcomes[position] = MessageError(problem)
            return b""
        wave.by_id[message_id] = position
        return written

    async def _write(self, waiting: Sequence[tuple[int, bytes]], wave: Wave) -> None:
        payload = b"".join(written for _, written in waiting)
        await self._channel.write_queue.put(ChannelFrame(payload=payload, should_close=False))
        # Nothing was awaited since they are in the queue, so no confirmation is here yet.
        for position, _ in waiting:
            self._written += 1
            wave.unconfirmed[self._written] = position

    # What the broker says

    def came(self, method: bytes, header: bytes, body: bytes) -> None:
        del body
        if self._wave is not None and method.startswith(RETURN):
            self._wave.returned(message_id_in(header), reason_in(method))

    def told(self, method: bytes) -> bool:
        is_kept = method.startswith(ACK)
        if not is_kept and not method.startswith(NACK):
            return False
        if self._wave is not None:
            number, multiple = confirmation_in(method)
            self._wave.confirmed(number, multiple=multiple, is_kept=is_kept)
            self._wave.end_if_over()
        return True


def _name_of(message: Sending) -> str:
    return f"{message.attributes.get('type', 'message')} {message.attributes.get('id', '')}".strip()
