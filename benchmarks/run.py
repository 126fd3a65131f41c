"""Runs contenders, one at a time, each in a process of its own; and the servers that they need, for the whole run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import environments, harness
from benchmarks.contenders import Contender
from benchmarks.environments import Unavailable
from dev.servers import processes, scratch, together
from dev.servers.base import Server

SLOW_SYNC = Path(__file__).with_name("slow_sync.c")
SLOW_SYNC_US = 4000
START_S_MAX = 90.0
STOP_S_MAX = 10.0
SAID_MAX = 400


@dataclass(frozen=True, slots=True)
class Failed(Exception):
    """A contender gave no result; the reason is reported in its place."""

    reason: str


@dataclass(slots=True)
class Ground:
    """What contenders run on.

    Attributes:
        folder: for their databases; on a disk, or fsync would cost nothing.
        servers: those that run; `missing` says of the others why they do not.
    """

    folder: Path
    servers: dict[str, Server] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    slow_sync: Path | None = None

    def run(
        self, contender: Contender, *, in_flight: int, seconds: float, warm_up_s: float, folder: Path | None = None
    ) -> dict[str, Any]:
        """One measurement.

        Args:
            folder: one that is filled already, and kept; by default a new one.

        Raises:
            Failed: there is none.
        """
        for server in contender.servers:
            if server in self.missing:
                raise Failed(f"{server} cannot be started: {self.missing[server]}")
        try:
            program = self._program(contender)
        except Unavailable as reason:
            raise Failed(f"cannot be had: {reason}") from reason
        measured = ["--in-flight", str(in_flight), "--seconds", str(seconds), "--warm-up-s", str(warm_up_s)]
        with ExitStack() as stack:
            made = tempfile.TemporaryDirectory(dir=self.folder, prefix="bench-", ignore_cleanup_errors=True)
            place = folder or stack.enter_context(made)
            limit_s = START_S_MAX + harness.WARM_UP_S_MAX + seconds * harness.STRETCH_MAX + harness.DRAIN_S_MAX
            said = self._output([*program, *measured, "--dir", str(place)], self._environment(contender), limit_s)
        found: dict[str, Any] = json.loads(said)
        return found

    def _program(self, contender: Contender) -> list[str]:
        python = environments.python(contender.environment) if contender.environment else Path(sys.executable)
        program = [str(python), "-m", contender.module, *contender.arguments]
        if contender.environment == "restate":
            program += ["--server", str(environments.restate_server())]
        return program

    def _environment(self, contender: Contender) -> dict[str, str]:
        """Ours, without what is meant for other runs of minuet, and with the servers."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MINUET_")}
        servers = [self.servers[name] for name in contender.servers]
        for server in servers:
            environment.update(server.environment())
        pids = [str(process.pid) for server in servers for process in server.processes]
        environment[harness.SERVERS] = ",".join(pids)
        if contender.has_slow_disk:
            if self.slow_sync is None:
                self.slow_sync = compiled(self.folder)
            environment.update(LD_PRELOAD=str(self.slow_sync), SLOW_SYNC_US=str(SLOW_SYNC_US))
        return environment

    def _output(self, command: Sequence[str], environment: Mapping[str, str], limit_s: float) -> str:
        """The last line that it prints. Whatever becomes of it, nothing of it is left."""
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[1],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        leader = processes.identify(process.pid)
        try:
            said, complaints = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"no result after {limit_s:.0f} s") from error
        finally:
            processes.end([leader], signal.SIGTERM, within_s=STOP_S_MAX)
            process.wait()
        if process.returncode or not said.strip():
            lines = [line for line in complaints.strip().splitlines() if line.strip()]
            raise Failed(f"ended with {process.returncode}: {' / '.join(lines[-2:])[-SAID_MAX:]}")
        return said.strip().splitlines()[-1]


@contextmanager
def ground(folder: Path | None, servers: Sequence[str]) -> Iterator[Ground]:
    """Servers of our own, and a folder, until the block ends; also if we are told to end."""
    with ExitStack() as stack:
        for sign in (signal.SIGTERM, signal.SIGHUP):
            stack.callback(signal.signal, sign, signal.signal(sign, _leave))
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix="minuet-bench-")))
        found = Ground(made)
        kept = stack.enter_context(scratch.private(say=say))
        for name in servers:
            try:
                server = together.server_class(name)(kept / name)
                server.start()
            except Exception as error:  # the others can be measured without it, and it is said
                found.missing[name] = f"{type(error).__name__}: {error}"[:SAID_MAX]
                say(f"{name} cannot be started, and who needs it is not measured: {found.missing[name]}")
            else:
                stack.callback(server.stop)
                found.servers[name] = server
        yield found


def _leave(sign: int, _: object) -> None:
    """As Ctrl-C does: what was begun is ended on the way out."""
    sys.exit(128 + sign)


def compiled(folder: Path) -> Path:
    """The library that makes the disk slow.

    Raises:
        Failed: there is no C compiler, or it does not like it.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Failed("there is no C compiler, which the slow disk is made with")
    library = folder / "slow_sync.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(SLOW_SYNC), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"the slow disk cannot be compiled: {done.stderr[-SAID_MAX:]}")
    return library


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
