"""One AMQP connection: made within a few seconds, closed within a few seconds, its errors told in our words.

aiormq (the protocol layer of aio-pika) answers a call that was under way when the connection broke with whatever came
first, a `CancelledError` included. So every call runs in a task of its own, and who is told `CancelledError` here was
cancelled himself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import aiormq
from aiormq.abc import AbstractConnection
from aiormq.channel import Channel
from aiormq.connection import TransportFactory
from aiormq.exceptions import (
    AMQPConnectionError,
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelClosed,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from yarl import URL

from minuet.adapters.broker.port import Disconnected
from minuet.adapters.rabbitmq.reader import FrameReader, Hearer
from minuet.adapters.rabbitmq.url import Settings
from minuet.core.errors import ConfigurationError

CONNECT_S_MAX: Final = 5.0
ANSWER_S_MAX: Final = 15.0  # less than `BrokerTransport` allows, so that we can still say why
CLOSE_S_MAX: Final = 3.0
FRAMES_MAX: Final = 64  # of a channel, that wait to be looked at
HUNG_UP: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
LOST: Final = (AMQPError, OSError, RuntimeError, TimeoutError)  # RuntimeError: aiormq's word for "closed"

T = TypeVar("T")


async def answered(asking: Coroutine[Any, Any, T], what: str, *, within_s: float = ANSWER_S_MAX) -> T:
    """The broker's answer. A refusal that closed the channel (`ChannelClosed` with its code) comes as it is.

    Raises:
        Disconnected: the connection is lost, or there was no answer in time.
    """
    task = asyncio.ensure_future(asking)
    task.add_done_callback(look_at)
    try:
        await asyncio.wait({task}, timeout=within_s)
    finally:
        in_time = task.done()
        task.cancel()
    if not in_time:
        raise Disconnected(f"RabbitMQ did not answer in {within_s:g} s: {what}")
    if task.cancelled():
        raise Disconnected(f"the connection to RabbitMQ was closed: {what}")
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, ChannelClosed) and error.args[0]:
        raise error
    if isinstance(error, LOST):
        raise Disconnected(f"the connection to RabbitMQ is lost: {what}: {explain(error)}") from error
    raise error


def look_at(task: asyncio.Task[Any]) -> None:
    """Nobody may be there any more to hear of its error."""
    if not task.cancelled():
        task.exception()


def explain(error: BaseException) -> str:
    return ", ".join(str(part) for part in error.args if part) or type(error).__name__


class Link:
    """A connection to the broker, used once: connect, use, close.

    Args:
        name: by which the broker's own tools show it.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings = settings
        self._name = name
        self._wire = _Wire()
        self._connection: AbstractConnection | None = None

    async def connect(self) -> None:
        """Raises `Disconnected`, or ConfigurationError if trying again cannot help."""
        settings = self.settings
        if settings.scheme == "amqps":
            self._wire.tls = await asyncio.to_thread(_tls_context, settings)
        opening = self._open()
        try:
            self._connection = await answered(opening, f"connecting to {settings.shown}", within_s=CONNECT_S_MAX)
        except Disconnected as lost:
            self._wire.abort()
            remedy = _remedy(lost.__cause__, settings)
            if remedy:
                raise ConfigurationError(remedy) from None
            raise

    async def _open(self) -> AbstractConnection:
        settings = self.settings
        url = URL.build(
            scheme=settings.scheme,
            host=settings.host,
            port=settings.port,
            user=settings.user,
            password=settings.password,
            path="/" + ("" if settings.vhost == "/" else settings.vhost.replace("/", "%2F")),
            query={"heartbeat": str(settings.heartbeat_s), "auth": "external" if settings.external else "plain"},
        )
        return await aiormq.connect(
            url, transport_factory=self._wire, client_properties={"connection_name": self._name, "product": "minuet"}
        )

    @property
    def version(self) -> str:
        """The server's, once connected."""
        return str(self._opened().server_properties.get("version", ""))

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[Channel]:
        """A channel for a question that the broker may answer by closing it."""
        channel = await self.open_channel()
        try:
            yield channel
        finally:
            if not channel.is_closed:
                with contextlib.suppress(ChannelClosed):
                    await answered(channel.close(), "closing a channel")

    async def open_channel(self, *, confirms: bool = False) -> Channel:
        connection = self._opened()
        opening = connection.channel(publisher_confirms=confirms, frame_buffer_size=FRAMES_MAX)
        channel = await answered(opening, "opening a channel")
        assert isinstance(channel, Channel)
        return channel

    def hear(self, channel: Channel, hearer: Hearer) -> None:
        """Let what comes by the thousand on this channel go there instead of to the client."""
        assert self._wire.reader is not None
        self._wire.reader.hear(channel.number, hearer)

    async def is_blocked(self, *, within_s: float) -> bool:
        """Whether the broker takes nothing from us now, and still will not after so many seconds."""
        try:
            async with asyncio.timeout(within_s):
                await self._opened().ready()
        except TimeoutError:
            return True
        return False

    def _opened(self) -> AbstractConnection:
        if self._connection is None or self._connection.is_closed:
            raise Disconnected(f"there is no connection to {self.settings.shown}")
        return self._connection

    async def close(self) -> None:
        """Never raises, and takes a few seconds at most, also when the other end is silent."""
        connection, self._connection = self._connection, None
        if connection is None:
            self._wire.abort()
            return
        closing = asyncio.ensure_future(connection.close())
        closing.add_done_callback(look_at)
        try:
            await asyncio.wait({closing}, timeout=CLOSE_S_MAX)
        finally:
            self._wire.abort()
        await asyncio.wait({closing}, timeout=CLOSE_S_MAX)


class _Wire(TransportFactory):
    """Makes the socket's streams and keeps them, so that they can be let go of in whatever state they are."""

    def __init__(self) -> None:
        self.tls: ssl.SSLContext | None = None
        self.reader: FrameReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert url.host is not None
        assert url.port is not None
        loop = asyncio.get_running_loop()
        reader = self.reader = FrameReader(loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.create_connection(lambda: protocol, url.host, url.port, ssl=self.tls)
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return reader, self._writer

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


def _tls_context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.cafile)
        if settings.certfile:
            context.load_cert_chain(settings.certfile, settings.keyfile)
    except (OSError, ValueError) as error:
        files = ", ".join(name for name in (settings.cafile, settings.certfile, settings.keyfile) if name)
        raise ConfigurationError(f"TLS for {settings.shown}: cannot use {files}: {explain(error)}") from error
    return context


def _remedy(error: BaseException | None, settings: Settings) -> str | None:
    """What to do about an error that will not go away by itself."""
    if isinstance(error, AuthenticationError | ProbableAuthenticationError):
        who = "the TLS certificate" if settings.external else f"user {settings.user}"
        return f"{settings.shown} refused {who}; look at the user, password and auth in its URL"
    if isinstance(error, InvalidFrameError) and "Connection.Close" in explain(error):
        # The answer to opening the virtual host. aiormq keeps the broker's reason to itself.
        return (
            f"{settings.shown} did not let user {settings.user} into its virtual host; make it, give the user rights "
            "there, or write another ?vhost= (the broker's log says why)"
        )
    if isinstance(cause := error and error.__cause__, ssl.SSLError) and not isinstance(cause, HUNG_UP):
        return (
            f"TLS with {settings.shown} failed: {explain(cause)}; look at ?cafile=, certfile and keyfile, "
            "and whether that port speaks TLS"
        )
    return None


def refused(error: ChannelClosed, what: str) -> Exception:
    """What a refusal means to whoever asked for something that has to be there."""
    if isinstance(error, ChannelAccessRefused):
        return ConfigurationError(f"{what}: {explain(error)}; give the user that right, or make it beforehand")
    return Disconnected(f"{what}: {explain(error)}")
