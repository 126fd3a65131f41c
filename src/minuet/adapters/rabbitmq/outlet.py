"""A channel that messages are sent on, each of which the broker confirms.

A wave of messages is written at once and waited for at once: what the broker says of each is noted down, and who waits
hears when all has been said. Several waves may be under way.
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
        ids: those by which the broker names them when it gives them back.
        numbers: those by which it counts them.
        unconfirmed: of how many it has not said yet what became of them.
        over: done when all are written and none is unconfirmed.
    """

    def __init__(self, messages: Sequence[Sending], ids: Sequence[str], over: asyncio.Future[None]) -> None:
        self.messages = messages
        self.ids = ids
        self.outcomes: list[Exception | None] = [None] * len(messages)
        self.numbers: list[int] = []
        self.unconfirmed = 0
        self.is_written = False
        self.over = over

    def returned(self, position: int, reason: str) -> None:
        """It fits no queue. The broker confirms it nevertheless, later."""
        message = self.messages[position]
        self.outcomes[position] = NotKept(
            f"{_name_of(message)} fits no queue at {message.destination} ({reason}); is its group declared?"
        )

    def confirmed(self, position: int, *, is_kept: bool) -> None:
        self.unconfirmed -= 1
        if not is_kept:
            message = self.messages[position]
            self.outcomes[position] = NotKept(
                f"RabbitMQ did not keep {_name_of(message)} at {message.destination}; is a queue full?"
            )
        self.end_if_over()

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
        # What is under way: the wave and the position in it. The numbers ascend.
        self._by_number: dict[int, tuple[Wave, int]] = {}
        self._by_id: dict[str, tuple[Wave, int]] = {}

    async def publish(self, messages: Sequence[Sending]) -> Sequence[Exception | None]:
        """Send them, no two of one id; for each None once the broker keeps it, or why it does not.

        Raises:
            ChannelClosed: the broker closed the channel over this, with its reason.
        """
        # A message that comes back is found again by its id alone, so no two of one id are on their way together.
        ids = [*map(_id_of, messages)]
        while not self._channel.is_closed and (
            before := [self._by_id[one][0].over for one in ids if one in self._by_id]
        ):
            await asyncio.wait(before)
        if self._channel.is_closed:
            raise Disconnected("the channel for sending is closed")
        # The client ends this future with the channel.
        wave = Wave(messages, ids, self._channel.create_future())
        self._by_id.update((one, (wave, position)) for position, one in enumerate(ids))
        try:
            await self._write_all(wave)
            await wave.over
        finally:
            wave.over.cancel()  # if it is given up: somebody may wait to send a message of the same id
            for number in wave.numbers:
                self._by_number.pop(number, None)
            for one in ids:
                del self._by_id[one]
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
            message_id = wave.ids[position]
            header = header_of(message.attributes, message_id, len(message.body))
            if len(header) > part_max:  # the server would end the connection
                raise ValueError(f"its attributes have {len(header)} bytes, {part_max} is the most on this server")
            return publishing(
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

    async def _write(self, waiting: Sequence[tuple[int, bytes]], wave: Wave) -> None:
        payload = b"".join(written for _, written in waiting)
        await self._channel.write_queue.put(ChannelFrame(payload=payload, should_close=False))
        # Nothing was awaited since they are in the queue, so no confirmation is here yet.
        for position, _ in waiting:
            self._written += 1
            self._by_number[self._written] = wave, position
            wave.numbers.append(self._written)
            wave.unconfirmed += 1

    # What the broker says

    def came(self, method: bytes, header: bytes, body: bytes) -> None:
        del body
        if method.startswith(RETURN):
            wave, position = self._by_id.get(message_id_in(header), (None, 0))
            if wave is not None:
                wave.returned(position, reason_in(method))

    def told(self, method: bytes) -> bool:
        is_kept = method.startswith(ACK)
        if not is_kept and not method.startswith(NACK):
            return False
        number, multiple = confirmation_in(method)
        for one in list(takewhile(lambda one: one <= number, self._by_number)) if multiple else (number,):
            wave, position = self._by_number.pop(one, (None, 0))
            if wave is not None:
                wave.confirmed(position, is_kept=is_kept)
        return True


def _id_of(message: Sending) -> str:
    try:
        return message_id_of(message.attributes) or uuid4().hex
    except UnicodeEncodeError:  # it cannot be written, as will be found
        return uuid4().hex


def _name_of(message: Sending) -> str:
    return f"{message.attributes.get('type', 'message')} {message.attributes.get('id', '')}".strip()
