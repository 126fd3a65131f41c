"""A Redis server, from Debian's package."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from dev.servers.base import HOST, Server

PROGRAM = Path("/usr/bin/redis-server")
POLICY = Path("/usr/sbin/policy-rc.d")
ANSWER_S_MAX = 5.0


class Redis(Server):
    """With an append-only file that is synced before each answer: what it confirmed survives the loss of power."""

    name = "redis"

    @classmethod
    def install(cls) -> None:
        if PROGRAM.exists():
            return
        ours = not POLICY.exists()
        if ours:  # 101: Debian's way to say that a package may not start its service, which would listen on port 6379
            POLICY.write_text("#!/bin/sh\nexit 101\n")
            POLICY.chmod(0o755)
        try:
            subprocess.run(["apt-get", "update", "-q"], check=True)
            install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "redis-server"]
            subprocess.run(
                install, check=True, env={"DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
            )
        finally:
            if ours:
                POLICY.unlink()

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
