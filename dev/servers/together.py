"""All servers by name; several of them started and stopped at the same time."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path

from dev.servers.base import Server

SERVERS: Mapping[str, str] = {
    "rabbitmq": "RabbitMq",
    "kafka": "Kafka",
    "aws": "Aws",
    "postgres": "Postgres",
    "nats": "Nats",
    "redis": "Redis",
    "temporal": "Temporal",
}
"""The class in the module of that name. Who needs longest comes first, and is started first."""

Find = Callable[[str], type[Server]]
Say = Callable[[str], None]


class Failed(Exception):
    """Some servers did not start; each reason has been said."""


class Unknown(Exception):
    """No server has that name; the message lists those there are."""


def server_class(name: str) -> type[Server]:
    """Imported only now, so that a broken one, or the client that it needs, harms nobody else.

    Raises:
        Unknown: no server has that name.
        ImportError: what it needs is not installed.
    """
    if name not in SERVERS:
        raise Unknown(f"there is no server {name!r}, only {', '.join(sorted(SERVERS))}")
    found: type[Server] = getattr(importlib.import_module(f"dev.servers.{name}"), SERVERS[name])
    return found


def variable(name: str) -> str:
    """The environment variable that holds the server's URL."""
    return f"{name.upper()}_URL"


def in_order(names: Sequence[str]) -> list[str]:
    """The names, by default all, each once, in the order in which they are to be started.

    Raises:
        Unknown: no server has one of these names.
    """
    for name in names:
        if name not in SERVERS:
            raise Unknown(f"there is no server {name!r}, only {', '.join(sorted(SERVERS))}")
    return [name for name in SERVERS if name in names or not names]


def start_all(names: Sequence[str], folder: Path, *, say: Say, find: Find = server_class) -> dict[str, Server]:
    """Start them, each in a folder of its own below *folder*, and wait until all of them are ready.

    When this raises anything, also KeyboardInterrupt, none of them runs.

    Raises:
        Failed: at least one did not start.
    """
    if not names:
        return {}
    made: dict[str, Server] = {}
    failed: list[str] = []
    with ThreadPoolExecutor(len(names)) as pool:
        starts: dict[Future[None], str] = {}
        try:
            for name in names:
                starts[pool.submit(_start, name, folder, made, say, find)] = name
            for start in as_completed(starts):
                if error := start.exception():
                    failed.append(starts[start])
                    say(f"{starts[start]:<9} FAILED: {type(error).__name__}: {error}")
            if failed:
                raise Failed(f"did not start: {', '.join(sorted(failed))}")
        except BaseException:
            # One may be about to spawn its process: insist until no start is under way any more.
            for start in starts:
                start.cancel()
            while wait(starts, timeout=0.1).not_done:
                _kill(made)
            _kill(made)
            raise
    return {name: made[name] for name in names}


def stop_all(servers: Mapping[str, Server]) -> None:
    """Stop them, all at the same time. All are gone when this returns, also when it raises what one of them raised."""
    if servers:
        with ThreadPoolExecutor(len(servers)) as pool:
            for stop in [pool.submit(server.stop) for server in servers.values()]:
                stop.result()


def _start(name: str, folder: Path, made: dict[str, Server], say: Say, find: Find) -> None:
    began = time.monotonic()
    server = made[name] = find(name)(folder / name)
    server.start()
    say(f"{name:<9} is ready on port {server.port} after {time.monotonic() - began:.1f} s")


def _kill(made: Mapping[str, Server]) -> None:
    for server in list(made.values()):
        server.kill()
