"""One connection to a NATS server, and who waits for answers on it.

nats-py is told not to reconnect: it would keep what is published meanwhile in a buffer and send it later, in whatever
order, while callers wait; `BrokerTransport` reconnects and knows what to ask again. Answers are awaited here and not by
nats-py's `request`, because many can be in flight for the price of one and because those who wait hear at once that the
connection is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol.command import hpub_cmd, pub_cmd

from minuet.adapters.broker.port import Disconnected
from minuet.adapters.nats.address import Address
from minuet.adapters.nats.wire import Heard, status_of
from minuet.core.errors import ConfigurationError

log = logging.getLogger("minuet.nats")

CONNECT_S = 5.0
ANSWER_S = 10.0
CLOSE_S = 2.0
PING_S = 10  # a connection that is dead in one direction is noticed after two of these
NO_RESPONDERS = "503"
DENIED = ("authorization violation", "authentication", "account authentication expired", "user jwt", "nkey")


class NoStream(Exception):
    """Nobody on the server takes messages of this subject."""


class DirectClient(Client):
    """Hands on what comes as soon as it is read, and writes many messages at once.

    nats-py makes a dict of all headers, takes each message through a queue and a task of its subscription, and encodes
    what is published header by header. With small messages of fifteen headers that costs as much as all else here.
    """

    def __init__(self) -> None:
        super().__init__()
        self._listeners: dict[int, Callable[[Heard], None]] = {}

    async def listen(self, subject: str, heard: Callable[[Heard], None]) -> None:
        subscription = await self.subscribe(subject, cb=_unheard)
        self._listeners[subscription._id] = heard

    async def write(self, commands: Iterable[bytes]) -> None:
        """Send these, in their order. Waits only if much waits to be sent already."""
        if not self.is_connected:
            raise errors.ConnectionClosedError
        for command in commands:
            await self._send_command(command)
        await self._flush_pending()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        heard = self._listeners.get(sid)
        if heard is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            heard(Heard(subject.decode(), reply.decode(), data, headers or b""))
        except Exception as error:  # who reads must go on reading
            await self._error_cb(error)


async def _unheard(message: Msg) -> None:
    """For `subscribe`, which wants to be told who hears."""


class TlsOnlyClient(DirectClient):
    """Says who we are on an encrypted connection only: nats-py goes on in the clear if the server offers no TLS."""

    def _connect_command(self) -> bytes:
        if not self._server_info.get("tls_required"):
            raise errors.SecureConnWantedError
        return super()._connect_command()


@dataclass(frozen=True, slots=True)
class Request:
    subject: str
    payload: bytes = b""
    headers: bytes = b""

    def command(self, reply: str = "") -> bytes:
        """In the words of the protocol."""
        if self.headers:
            return hpub_cmd(self.subject, reply, self.headers, self.payload)
        return pub_cmd(self.subject, reply, self.payload)


@dataclass(slots=True)
class Batch:
    """Requests that are in flight together. ``done`` when all are answered, or with the error of the connection."""

    requests: Sequence[Request]
    answers: list[Heard | Exception | None]
    missing: int
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def answer(self, index: int, answer: Heard | Exception) -> None:
        if self.answers[index] is None:
            self.answers[index] = answer
            self.missing -= 1
            if not self.missing and not self.done.done():
                self.done.set_result(None)


class Connection:
    """Use `Connection.to`."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._client = TlsOnlyClient() if address.is_tls else DirectClient()
        self._inbox = ""
        self._numbers = 0
        self._waiting: dict[str, tuple[Batch, int]] = {}
        self._said = ""  # the last error that the server or the client spoke of
        self._is_greeted = False

    @classmethod
    async def to(cls, address: Address, name: str) -> Connection:
        """Connect.

        Args:
            name: of this client, for the server's monitoring.

        Raises:
            Disconnected: no server answers.
            ConfigurationError: it does not want us, or has no JetStream.
        """
        connection = cls(address)
        try:
            async with asyncio.timeout(CONNECT_S):
                await connection._open(name)
        except BaseException as error:
            await connection.close()
            if not isinstance(error, Exception):
                raise
            raise connection._meaning(error) from error
        return connection

    @property
    def bytes_max(self) -> int:
        """Of headers and body of one message."""
        return self._client.max_payload

    async def ask(self, request: Request) -> Heard:
        """The answer. Raises Disconnected, `NoStream` if nobody answers to that subject, ConfigurationError if we may
        not ask there."""
        (answer,) = await self.ask_all([request])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask_all(
        self, requests: Sequence[Request], *, before: Sequence[Request] = ()
    ) -> Sequence[Heard | Exception]:
        """For each the answer, or `NoStream` or ConfigurationError. All are in flight together.

        Args:
            before: what to send before them, without waiting for answers to it.

        Raises:
            Disconnected: the connection is lost, or not all were answered in time.
        """
        if not requests:
            return []
        batch = Batch(requests, [None] * len(requests), len(requests))
        numbers = [str(self._numbers + index) for index in range(1, len(requests) + 1)]
        self._numbers += len(requests)
        self._waiting.update((number, (batch, index)) for index, number in enumerate(numbers))
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._write(
                    chain(
                        (request.command() for request in before),
                        (
                            request.command(f"{self._inbox}.{number}")
                            for request, number in zip(requests, numbers, strict=True)
                        ),
                    )
                )
                await self._or_lost(batch.done)
        except TimeoutError as error:
            raise Disconnected(
                f"{self.address.name} answered only {len(requests) - batch.missing} of {len(requests)} requests "
                f"within {ANSWER_S:g} s{self._remark()}"
            ) from error
        finally:
            for number in numbers:
                self._waiting.pop(number, None)
        answers = [answer for answer in batch.answers if answer is not None]
        assert len(answers) == len(requests)
        return answers

    async def tell(self, requests: Sequence[Request]) -> None:
        """Ask for the answer to the last one only.

        What one connection sends arrives in order, and a server handles the acknowledgements for one consumer in the
        order in which they arrive. So the last one's answer says that the others have been handled.
        """
        (answer,) = await self.ask_all(requests[-1:], before=requests[:-1])
        if isinstance(answer, Exception):
            raise answer

    async def publish(self, requests: Sequence[Request], reply: str = "") -> None:
        """Send without waiting for an answer. Raises Disconnected."""
        await self._write(request.command(reply) for request in requests)

    async def subscribe(self, subject: str, heard: Callable[[Heard], None]) -> None:
        """Hear what comes to a subject. Nothing is dropped, however much comes: ask for no more than you can hold."""
        try:
            await self._client.listen(subject, heard)
        except (errors.Error, OSError) as error:
            raise self._meaning(error) from error

    def new_inbox(self) -> str:
        return self._client.new_inbox()

    async def wait_for(self, event: asyncio.Event, limit_s: float) -> bool:
        """Whether it happened in time. Raises Disconnected when the connection is lost."""
        waiting = asyncio.ensure_future(event.wait())
        try:
            either: set[asyncio.Future[Any]] = {waiting, self.lost}
            await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not event.is_set() and self.lost.done():
            raise self._gone()
        return event.is_set()

    async def close(self) -> None:
        """Let go of it, whatever state it is in. Never raises but when cancelled."""
        if not self.lost.done():
            self._said = self._said or "closed"
            self.lost.set_result(None)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._client.close()
        except Exception as error:
            log.debug("%s: closing: %r", self.address.name, error)
        finally:
            self._abort()

    def _abort(self) -> None:
        """Close the socket even if the client could not: it waits until what it has to send is sent."""
        transport = self._client._transport
        writer = getattr(transport, "_io_writer", None)
        if writer is not None:
            with contextlib.suppress(Exception):
                writer.transport.abort()

    async def _open(self, name: str) -> None:
        address = self.address
        options: dict[str, Any] = {}
        if address.is_tls:
            options["tls"] = tls_context(address)
        if address.creds is not None:
            options["user_credentials"] = str(address.creds)
        await self._client.connect(
            [f"{'tls' if address.is_tls else 'nats'}://{bracketed(host)}:{port}" for host, port in address.servers],
            name=name,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=int(CONNECT_S),
            ping_interval=PING_S,
            max_outstanding_pings=2,
            user=address.user,
            password=address.password,
            token=address.token,
            inbox_prefix=address.inbox,
            error_cb=self._heard_error,
            closed_cb=self._heard_end,
            disconnected_cb=self._heard_end,
            **options,
        )
        self._is_greeted = True
        if not self._client._server_info.get("jetstream"):
            raise ConfigurationError(
                f"{address.name} is a NATS server without JetStream; start it with -js, or with a jetstream block in "
                "its configuration"
            )
        self._inbox = self.new_inbox()
        await self.subscribe(f"{self._inbox}.*", self._heard_answer)

    async def _write(self, commands: Iterable[bytes]) -> None:
        if self.lost.done():
            raise self._gone()
        try:
            await self._client.write(commands)
        except (errors.Error, OSError) as error:
            raise self._meaning(error) from error

    async def _or_lost(self, waited_for: asyncio.Future[None]) -> None:
        await asyncio.wait({waited_for, self.lost}, return_when=asyncio.FIRST_COMPLETED)
        if not waited_for.done():
            raise self._gone()

    def _heard_answer(self, message: Heard) -> None:
        batch, index = self._waiting.get(message.subject.rpartition(".")[2], (None, 0))
        if batch is None:
            return
        if status_of(message)[0] == NO_RESPONDERS:
            batch.answer(index, NoStream(f"nobody on {self.address.name} answers to {batch.requests[index].subject}"))
        else:
            batch.answer(index, message)

    async def _heard_error(self, error: Exception) -> None:
        self._said = str(error) or type(error).__name__
        log.debug("%s: %s", self.address.name, self._said)
        if "permissions violation" not in self._said.lower():
            return
        # The server does not answer what we may not do; it only says so, with the subject in quotes.
        refused = ConfigurationError(
            f"{self.address.name} does not allow it: {self._said}; docs/adapters/nats.md has the permissions to give"
        )
        for batch, index in list(self._waiting.values()):
            if f'"{batch.requests[index].subject.lower()}"' in self._said.lower():
                batch.answer(index, refused)

    async def _heard_end(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def _gone(self) -> Disconnected:
        return Disconnected(f"the connection to {self.address.name} is gone{self._remark()}")

    def _remark(self) -> str:
        return f"; the last that was heard: {self._said}" if self._said else ""

    def _meaning(self, error: Exception) -> Exception:
        name = self.address.name
        if isinstance(error, (ConfigurationError, Disconnected)):
            return error
        if isinstance(error, ModuleNotFoundError):
            return ConfigurationError(f"{name}: creds= needs one more package; install nats-py[nkeys]")
        if isinstance(error, errors.SecureConnWantedError):
            return ConfigurationError(
                f"{name} does not offer TLS; configure it there, or write nats:// instead of nats+tls://"
            )
        if isinstance(error, FileNotFoundError):
            return ConfigurationError(f"{name}: there is no file {error.filename}")
        said = f"{error} {self._said}".lower()
        if not self._is_greeted and any(word in said for word in DENIED):
            return ConfigurationError(f"{name} does not know us, or not with this password: {self._said or error}")
        if isinstance(error, ssl.SSLCertVerificationError) or "certificate_verify_failed" in said.replace(" ", "_"):
            return ConfigurationError(
                f"{name} has a certificate that is not trusted here: {self._said or error}; name its authority with ca="
            )
        return Disconnected(f"{name}: {str(error) or type(error).__name__}{self._remark()}")


def tls_context(address: Address) -> ssl.SSLContext:
    """Raises ConfigurationError if a file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=str(address.ca) if address.ca else None)
        if address.certificate:
            context.load_cert_chain(address.certificate, address.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"{address.name}: a file of ca=, certificate= or key= cannot be used: {error}"
        ) from error
    return context


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
