"""The clients of one connection to Redis, and what their errors mean.

redis-py is told not to retry: a command that is asked again after its answer was lost may have happened twice, and what
was read for the lost answer would be in nobody's hands. `BrokerTransport` reconnects, and then `RedisBroker` frees
whatever the server believes to be in ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from typing import Any

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from minuet.adapters.broker.port import Disconnected
from minuet.adapters.redis_streams.address import Address
from minuet.adapters.redis_streams.scripts import CLAIM, HAND_OVER, HAND_OVER_ALL, LEAVE, SEND, TEND
from minuet.core.errors import ConfigurationError

CONNECT_S = 5.0
ANSWER_S = 10.0
CLOSE_S = 2.0
VERSION_LEAST = 7
SCRIPTS = (SEND, CLAIM, HAND_OVER, HAND_OVER_ALL, LEAVE, TEND)

Command = tuple[Any, ...]


class Connection:
    """Use `Connection.to`."""

    def __init__(self, address: Address, name: str) -> None:
        self.address = address
        self._name = name
        self._is_closed = False  # redis-py's clients connect again when they are used after their end
        self._clients: list[Redis] = []
        self._client = self.new_client()
        self._scripts: dict[str, str] = {}

    @classmethod
    async def to(cls, address: Address, name: str) -> Connection:
        """Connect.

        Args:
            name: of this client, for the server's monitoring.

        Raises:
            Disconnected: the server does not answer, or cannot do anything now.
            ConfigurationError: it does not want us, is a cluster, or too old; or a file for TLS cannot be used.
        """
        if address.is_tls:
            check_files(address)
        connection = cls(address, name)
        try:
            async with asyncio.timeout(CONNECT_S):
                await connection._look()
                await connection._load_scripts()
        except TimeoutError as error:
            await connection.close()
            raise Disconnected(f"{address.name} did not answer within {CONNECT_S:g} s") from error
        except BaseException:
            await connection.close()
            raise
        return connection

    def new_client(self, *, is_single: bool = False) -> Redis:
        """One more, closed with the connection.

        Args:
            is_single: it has one socket of its own, for commands that block.
        """
        address = self.address
        client = Redis(
            host=address.host,
            port=address.port,
            db=address.database,
            username=address.user,
            password=address.password,
            ssl=address.is_tls,
            ssl_ca_certs=str(address.ca) if address.ca else None,
            ssl_certfile=str(address.certificate) if address.certificate else None,
            ssl_keyfile=str(address.key) if address.key else None,
            socket_connect_timeout=CONNECT_S,
            socket_timeout=ANSWER_S,
            retry=Retry(NoBackoff(), 0),
            client_name=self._name,
            protocol=2,
            single_connection_client=is_single,
        )
        self._clients.append(client)
        return client

    def script(self, script: str, stream: str, *arguments: Any) -> Command:
        """The command that runs one of our scripts."""
        return ("EVALSHA", self._scripts[script], 1, stream, *arguments)

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The answers; all commands are in flight together. Raises what the first error means."""
        answers = await self.try_all(commands)
        for answer in answers:
            if isinstance(answer, Exception):
                raise self.meaning(answer) from answer
        return answers

    async def try_all(self, commands: Sequence[Command]) -> list[Any]:
        """The answers, among them errors of redis-py. Raises Disconnected or ConfigurationError if there are none.

        A server that has forgotten our scripts, for somebody flushed them, has not begun what it was to do with them.
        It gets them again, and is asked again.
        """
        if not commands:
            return []
        answers = await self._ask(commands)
        refused = [index for index, answer in enumerate(answers) if isinstance(answer, exceptions.NoScriptError)]
        if refused:
            await self._load_scripts()
            # What waits for the replicas to have all that was said before has waited for less than that.
            refused += [index for index, command in enumerate(commands) if command[0] == "WAIT"]
            for index, answer in zip(refused, await self._ask([commands[index] for index in refused]), strict=True):
                answers[index] = answer
        return answers

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        self._check_open()
        try:
            async with self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return list(await pipeline.execute(raise_on_error=False))
        except (exceptions.RedisError, OSError) as error:
            raise self.meaning(error) from error

    async def run_on(self, client: Redis, *command: Any) -> Any:
        """The answer, by a client of `new_client`. Raises what an error means."""
        self._check_open()
        try:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]
        except (exceptions.RedisError, OSError) as error:
            raise self.meaning(error) from error

    async def close(self) -> None:
        """Never raises but when cancelled."""
        self._is_closed = True
        clients, self._clients = self._clients, []
        for client in clients:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_S):
                    await client.aclose()

    async def _load_scripts(self) -> None:
        loaded = await self.run([("SCRIPT", "LOAD", script) for script in SCRIPTS])
        self._scripts = {script: as_text(sha) for script, sha in zip(SCRIPTS, loaded, strict=True)}

    def _check_open(self) -> None:
        if self._is_closed:
            raise Disconnected(f"the connection to {self.address.name} is closed")

    async def _look(self) -> None:
        """Whether it is a server that we can use."""
        (info,) = await self.try_all([("INFO",)])
        if isinstance(info, exceptions.NoPermissionError):
            return  # then the first command that it does not know will tell
        if isinstance(info, Exception):
            raise self.meaning(info) from info
        if info.get("cluster_enabled"):
            raise ConfigurationError(
                f"{self.address.name} is a Redis Cluster, which is not supported; name a single server"
            )
        version = str(info.get("redis_version", ""))
        if version.partition(".")[0].isdecimal() and int(version.partition(".")[0]) < VERSION_LEAST:
            raise ConfigurationError(f"{self.address.name} is Redis {version}; {VERSION_LEAST}.0 or later is needed")

    def meaning(self, error: Exception) -> Exception:
        """What to raise instead of an error of redis-py."""
        name, said = self.address.name, str(error) or type(error).__name__
        if isinstance(error, (exceptions.AuthenticationError, exceptions.AuthorizationError)):
            return ConfigurationError(f"{name} does not know us, or not with this password: {said}")
        if isinstance(error, exceptions.NoPermissionError) or "executing the script can't" in said:
            return ConfigurationError(
                f"{name} does not allow it: {said}; docs/adapters/redis-streams.md has the ACL to give"
            )
        if isinstance(error, (exceptions.MovedError, exceptions.AskError, exceptions.ClusterCrossSlotError)):
            return ConfigurationError(f"{name} is part of a Redis Cluster, which is not supported: {said}")
        if "CERTIFICATE_VERIFY_FAILED" in said:
            return ConfigurationError(
                f"{name} has a certificate that is not trusted here; name its authority with ca=: {said}"
            )
        if "WRONGTYPE" in said:
            return ConfigurationError(f"{name}: {said}: a key of ours is no stream; choose another prefix=")
        if "unknown command" in said.lower():
            return ConfigurationError(f"{name}: {said}: Redis {VERSION_LEAST}.0 or later is needed")
        return Disconnected(f"{name}: {said}")


def check_files(address: Address) -> None:
    """Raises ConfigurationError if one cannot be used. redis-py reads them late, and says that it cannot connect."""
    try:
        context = ssl.create_default_context(cafile=str(address.ca) if address.ca else None)
        if address.certificate:
            context.load_cert_chain(address.certificate, address.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"{address.name}: a file of ca=, certificate= or key= cannot be used: {error}"
        ) from error


def as_text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
