"""`RedisBroker`: a `minuet.adapters.broker.port.Broker` on Redis Streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from minuet.adapters.broker.port import Disconnected, Queue, Received, Sending
from minuet.adapters.redis_streams.address import Address, parse
from minuet.adapters.redis_streams.connection import Command, Connection, as_text
from minuet.adapters.redis_streams.member import Member
from minuet.adapters.redis_streams.scripts import HAND_OVER, IDLE_MS, LEAVE, NOBODY, SEND, TEND
from minuet.adapters.redis_streams.wire import fields_of
from minuet.core.errors import ConfigurationError, MessageError
from minuet.ports import Features, Ids

BODY_BYTES = 1024 * 1024  # ours: Redis takes 512 MB, and has them all in memory
TEND_S = 10.0
KEEP_UNHEARD_S = 60
GONE_S = 3600
REPLICAS_S = 2.0
GROUPS = "minuet."
LEAVE_S = 1.0


class NotKept(Exception):
    """The server did not keep a message, and says why."""


class RedisBroker:
    """One connection to one server.

    Args:
        url: as `split` gives it.
        ids: names our consumer.

    Raises:
        ConfigurationError: the URL makes no sense.
    """

    features = Features(ordered_across_members=False, counts_deliveries=True, body_bytes_max=BODY_BYTES)
    gathers = False
    revoked: Callable[[str, str], None]

    def __init__(self, url: str, ids: Ids) -> None:
        self.address: Address = parse(url)
        self.hold_s: float | None = float(self.address.hold_s)
        self._consumer = f"minuet-{ids.new()}"
        self._connection: Connection | None = None
        self._members: dict[str, Member] = {}
        self._streams: dict[str, tuple[str, ...]] = {}  # per group
        self._destinations: tuple[str, ...] = ()
        self._tended_at = float("-inf")

    async def connect(self) -> None:
        await self.disconnect()
        self._connection = await Connection.to(self.address, self._consumer)

    async def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        members, self._members = self._members, {}
        if connection is None:
            return
        try:
            with contextlib.suppress(Disconnected, ConfigurationError, TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    for group, member in members.items():
                        await member.stop()
                        leave = (name_of(group), self._consumer)
                        await connection.run([connection.script(LEAVE, stream, *leave) for stream in member.streams])
        finally:
            await connection.close()

    async def declare(self, queues: Sequence[Queue], destinations: Sequence[str], *, only_new: bool) -> None:
        self._destinations = tuple(destinations)
        there = await self._groups_of(sorted({*destinations, *(one for queue in queues for one in queue.destinations)}))
        commands: list[Command] = []
        for queue in queues:
            name = name_of(queue.group)
            found = {stream for stream, groups in there.items() if name in groups}
            wanted = queue.destinations
            if only_new:
                # One that we know may have lost a stream; one that we do not know is another's to change.
                wanted = self._streams.get(queue.group) or tuple(sorted(found)) or wanted
            else:
                commands += [("XGROUP", "DESTROY", stream, name) for stream in sorted(found - set(wanted))]
            commands += [
                ("XGROUP", "CREATE", stream, name, "$", "MKSTREAM") for stream in wanted if stream not in found
            ]
            self._remember(queue.group, wanted)
        connection = self._connected()
        for answer in await connection.try_all(commands):
            # Another process may have made it, or taken it away, at the same time.
            if isinstance(answer, Exception) and "BUSYGROUP" not in str(answer) and "no such key" not in str(answer):
                raise connection.meaning(answer) from answer

    async def check(self, queues: Sequence[Queue], destinations: Sequence[str]) -> Sequence[str]:
        self._destinations = tuple(destinations)
        there = await self._groups_of(sorted({*destinations, *(one for queue in queues for one in queue.destinations)}))
        missing: list[str] = []
        for queue in queues:
            name = name_of(queue.group)
            found = {stream for stream, groups in there.items() if name in groups}
            missing += [f"stream {one} has no group {name}" for one in queue.destinations if one not in found]
            missing += [
                f"stream {one} has a group {name}, which does not want it"
                for one in sorted(found - {*queue.destinations})
            ]
            self._remember(queue.group, queue.destinations)
        return missing

    async def send(self, messages: Sequence[Sending]) -> Sequence[Exception | None]:
        connection = self._connected()
        outcomes: list[Exception | None] = [None] * len(messages)
        by_stream: dict[str, list[int]] = {}
        for index, message in enumerate(messages):
            if len(message.body) > BODY_BYTES:
                outcomes[index] = MessageError(
                    f"{message.attributes.get('type', 'a message')} {message.attributes.get('id', '')} has "
                    f"{len(message.body)} bytes, {BODY_BYTES} is the most on {self.address.name}"
                )
            else:
                by_stream.setdefault(message.destination, []).append(index)
        if not by_stream:
            return outcomes
        commands = [self._sending(connection, stream, [messages[i] for i in at]) for stream, at in by_stream.items()]
        if self.address.replicas:
            commands.append(("WAIT", self.address.replicas, int(REPLICAS_S * 1000)))
        answers = await connection.try_all(commands)
        copies = answers.pop() if self.address.replicas else 0
        for (stream, indexes), answer in zip(by_stream.items(), answers, strict=True):
            for index, outcome in zip(indexes, self._outcomes(stream, answer, len(indexes)), strict=True):
                outcomes[index] = outcome or self._uncopied(copies)
        await self._tend_when_due()
        return outcomes

    def _sending(self, connection: Connection, stream: str, messages: Sequence[Sending]) -> Command:
        arguments: list[Any] = [len(messages)]
        for message in messages:
            fields = fields_of(message)
            arguments += [int(message.must_arrive), len(fields), *fields]
        return connection.script(SEND, stream, *arguments)

    def _outcomes(self, stream: str, answer: Any, count: int) -> Sequence[Exception | None]:
        if isinstance(answer, Exception):
            meaning = self._connected().meaning(answer)
            if isinstance(meaning, ConfigurationError):  # of this stream
                return [meaning] * count
            raise meaning from answer
        return [self._outcome(stream, as_text(said)) for said in answer]

    def _outcome(self, stream: str, said: str) -> Exception | None:
        if said == "-":
            return NotKept(f"{self.address.name}: stream {stream} has no group, so nobody would get it")
        if said.startswith("-"):
            return NotKept(f"{self.address.name} does not keep a message of {stream}: {said[1:]}")
        return None

    def _uncopied(self, copies: Any) -> Exception | None:
        if not self.address.replicas:
            return None
        if isinstance(copies, Exception):
            return self._connected().meaning(copies)
        if copies < self.address.replicas:
            return NotKept(
                f"{self.address.name}: only {copies} of {self.address.replicas} replicas had it after {REPLICAS_S:g} s"
            )
        return None

    async def fetch(self, group: str, limit: int) -> Sequence[Received]:
        connection = self._connected()
        member = self._members.get(group)
        if member is None:
            member = self._members[group] = Member(
                connection,
                group=name_of(group),
                consumer=self._consumer,
                streams=self._streams[group],
                give_back=lambda received: self._hand_over(connection, group, [one.token for one in received], NOBODY),
            )
        return await member.fetch(limit)

    async def acknowledge(self, group: str, tokens: Sequence[Any]) -> None:
        connection = self._connected()
        await connection.run(
            [("XACK", stream, name_of(group), *ids) for stream, ids in by_stream_of(tokens).items()],
        )
        await self._tend_when_due()

    async def keep(self, group: str, tokens: Sequence[Any]) -> None:
        await self._hand_over(self._connected(), group, tokens, self._consumer)

    async def give_back(self, group: str, tokens: Sequence[Any]) -> None:
        await self._hand_over(self._connected(), group, tokens, NOBODY)

    async def tend(self) -> None:
        """Drop from all streams what no group needs any more, and consumers that are gone."""
        connection = self._connected()
        keep_ms = self.address.keep_s * 1000
        how = (keep_ms, max(keep_ms, KEEP_UNHEARD_S * 1000), GONE_S * 1000, GROUPS)
        await connection.run([connection.script(TEND, stream, *how) for stream in self._destinations])

    async def _tend_when_due(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._tended_at + TEND_S:
            self._tended_at = now
            await self.tend()

    async def _hand_over(self, connection: Connection, group: str, tokens: Sequence[Any], to: str) -> None:
        """Those that are still ours. Ours again means: in work."""
        how = (name_of(group), self._consumer, to, 0 if to == self._consumer else IDLE_MS)
        await connection.run(
            [connection.script(HAND_OVER, stream, *how, *ids) for stream, ids in by_stream_of(tokens).items()]
        )

    def _remember(self, group: str, streams: Sequence[str]) -> None:
        self._streams[group] = tuple(streams)
        member = self._members.get(group)
        if member is not None:
            member.streams = tuple(streams)

    def _connected(self) -> Connection:
        if self._connection is None:
            raise Disconnected(f"{self.address.name} is not connected")
        return self._connection

    async def _groups_of(self, streams: Sequence[str]) -> dict[str, set[str]]:
        """The groups of each stream that is there."""
        connection = self._connected()
        there: dict[str, set[str]] = {}
        answers = await connection.try_all([("XINFO", "GROUPS", stream) for stream in streams])
        for stream, answer in zip(streams, answers, strict=True):
            if not isinstance(answer, Exception):
                there[stream] = {as_text(dict(zip(flat[::2], flat[1::2], strict=True))[b"name"]) for flat in answer}
            elif "no such key" not in str(answer):
                raise connection.meaning(answer) from answer
        return there


def name_of(group: str) -> str:
    """Its name in Redis."""
    return f"{GROUPS}{group}"


def by_stream_of(tokens: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for stream, entry_id in tokens:
        found.setdefault(stream, []).append(entry_id)
    return found
