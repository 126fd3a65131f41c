"""A Redis server, from Debian's package."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from dev.servers import debian
from dev.servers.base import HOST, Server

PROGRAM = Path("/usr/bin/redis-server")
ANSWER_S_MAX = 5.0


class Redis(Server):
    """With an append-only file that is synced before each answer: what it confirmed survives the loss of power."""

    name = "redis"

    @classmethod
    def install(cls) -> None:
        if not PROGRAM.exists():
            debian.install("redis-server")

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def environment(self) -> Mapping[str, str]:
        return {"REDIS_URL": self.url}

    def launch(self) -> None:
        settings = {
            "bind": HOST,
            "port": self.port,
            "dir": self.folder,
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        self.spawn([PROGRAM, *(part for name, value in settings.items() for part in (f"--{name}", str(value)))])

    def is_ready(self) -> bool:
        """It answers PING with LOADING while it reads its files."""
        with socket.create_connection((HOST, self.port), ANSWER_S_MAX) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
