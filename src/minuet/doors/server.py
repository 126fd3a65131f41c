"""Serves an ASGI application on the running event loop, until the block is left."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp

from minuet.core.errors import ConfigurationError

KEEP_ALIVE_S = 75  # longer than our own client's, so that it is not the server who hangs up on a request under way
STOP_S = 5.0
BACKLOG = 2048
_TICK_S = 1.0


@contextlib.asynccontextmanager
async def serve(asgi: ASGIApp, host: str = "127.0.0.1", port: int = 0, *, stop_s: float = STOP_S) -> AsyncIterator[str]:
    """Serve it, and yield where: ``http://127.0.0.1:41234``.

    On leaving, nothing new is accepted, and requests under way have ``stop_s`` to finish before they are cancelled.

    Args:
        port: 0 for any that is free.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    listener = await _listen(host, port)
    server = _Server(
        uvicorn.Config(
            asgi,
            interface="asgi3",
            http="h11",  # uvicorn takes httptools where that is installed, which lets headers get as long as they like
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, math.ceil(stop_s)),
        )
    )
    running = asyncio.create_task(server.serve(sockets=[listener]), name=f"http {port}")
    try:
        await server.is_ready(running)
        yield url_of(listener)
    finally:
        await _stop(server, running, stop_s)
        listener.close()


async def _listen(host: str, port: int) -> socket.socket:
    try:
        if not 0 <= port <= 65535:
            raise OverflowError("there is no such port")
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return _bound(family, address)
    except (OSError, OverflowError) as error:
        what = f"cannot listen on {host} port {port}: {error}"
        raise ConfigurationError(f"{what}; choose another --port, or 0 for any") from error


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    # The protocol has to be named: asyncio turns Nagle's algorithm off only where it is, and without that each answer,
    # which is written in two pieces, may wait 40 ms for the other side's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """Where the listener is reached from this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _stop(server: _Server, running: asyncio.Task[None], stop_s: float) -> None:
    server.leave()
    done, _ = await asyncio.wait({running}, timeout=stop_s + 2.0)
    if not done:
        running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


class _Server(uvicorn.Server):
    """As uvicorn's, but it leaves signals alone and stops at once when told so."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ready = asyncio.Event()
        self._leaving = asyncio.Event()

    async def is_ready(self, running: asyncio.Task[None]) -> None:
        """Return when it accepts connections; raise what kept it from doing so."""
        ready = asyncio.ensure_future(self._ready.wait())
        await asyncio.wait({ready, running}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if running.done():
            running.result()

    def leave(self) -> None:
        self.should_exit = True
        self._leaving.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # it also sets the Date header anew
            # Not wait_for: on Python 3.11 that may swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._leaving.wait()
