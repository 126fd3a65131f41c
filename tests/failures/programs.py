"""Real processes of an app of these tests: ``minuet run``, asked over HTTP, stopped, killed, or watched by strace."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
MINUET = Path(sys.executable).with_name("minuet")
READY_S = 60.0
STOPPED_S = 40.0


class Answer(NamedTuple):
    status: int
    body: str


class Program:
    """One ``minuet run``. It begins when it is made, and `ready` waits until it answers."""

    def __init__(
        self,
        app: str,
        data: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self.data = data
        self._ready_file = data.parent / f"{data.name}.{os.urandom(4).hex()}.ready"
        self.log = self._ready_file.with_suffix(".log")
        with self._ready_file.open("wb") as ready, self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [*under, MINUET, "run", app, "--port", "0", "--json", "--data", data, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=ready,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
            )
        self.url = ""
        self.pid = self.popen.pid

    async def ready(self) -> Program:
        async with asyncio.timeout(READY_S):
            while not (line := self._ready_file.read_text()).endswith("\n"):
                assert self.popen.poll() is None, f"it ended with {self.popen.returncode}:\n{self.said()}"
                await asyncio.sleep(0.05)
        said = json.loads(line)
        self.url, self.pid = said["url"], said["pid"]
        return self

    def said(self) -> str:
        return self.log.read_text()

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        return await asyncio.to_thread(self._ask, method, path, body, headers)

    def _ask(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Answer:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=sent)
        try:
            with urllib.request.urlopen(request, timeout=40) as reply:
                return Answer(reply.status, reply.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode())

    async def stop(self) -> int:
        os.kill(self.pid, signal.SIGTERM)
        return await asyncio.to_thread(self.popen.wait, STOPPED_S)

    def kill(self) -> None:
        """Between two instructions; with it, whatever it runs under."""
        for pid in {self.pid, self.popen.pid}:
            if self.popen.poll() is None:
                os.kill(pid, signal.SIGKILL)
        self.popen.wait(STOPPED_S)


@contextmanager
def program(app: str, data: Path, *arguments: str, **options: Any) -> Iterator[Program]:
    """It is killed at the end, if it still runs."""
    made = Program(app, data, *arguments, **options)
    try:
        yield made
    except BaseException as error:
        error.add_note(made.said()[-4000:])
        raise
    finally:
        made.kill()


def minuet(*arguments: object) -> subprocess.Popen[str]:
    """A command of an operator, begun and not waited for."""
    return subprocess.Popen(
        [MINUET, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
