"""Where the services of the processes on one data directory answer HTTP.

Each process writes one small file for each of its services, ``<folder>/<service>/<name>.json``, and holds a lock on it
for its life. The kernel frees the lock when the process dies, however it dies, so that nobody is sent to the dead. Of
several processes with one service the one that came last is found, and the one before it when that is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import NamedTuple

from minuet.core.errors import NotYet
from minuet.ports import Ids

LOOK_AGAIN_S = 0.5


class Endpoints:
    """One process's view.

    Args:
        folder: shared by the processes.
        ids: names this process.
    """

    def __init__(self, folder: Path, ids: Ids) -> None:
        self.folder = folder
        self._ids = ids
        self._mine: list[tuple[Path, int]] = []
        self._found: dict[str, _Found] = {}

    def announce(self, service: str, url: str) -> None:
        """Let the others find this process's service, until `withdraw`."""
        folder = self.folder / service
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self._ids.new()}.json"
        draft = file.with_name(f".{file.name}")
        # Locked before it gets its name, or somebody could take us for gone in between.
        opened = os.open(draft, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(opened, json.dumps({"url": url, "pid": os.getpid()}).encode())
        draft.rename(file)
        self._mine.append((file, opened))

    def withdraw(self) -> None:
        for file, opened in self._mine:
            file.unlink(missing_ok=True)
            os.close(opened)
        self._mine.clear()
        for found in self._found.values():
            os.close(found.opened)
        self._found.clear()

    def url_of(self, service: str) -> str:
        """Where the process answers that came last and lives. Raises NotYet if there is none."""
        known = self._found.get(service)
        # Asked before each call, so this is two calls of the system and nothing else.
        if known is not None:
            if _changed_at(known.folder) == known.changed and _is_locked(known.opened):
                return known.url
            del self._found[service]
            os.close(known.opened)
        folder = self.folder / service
        changed = _changed_at(str(folder))
        for file in sorted(folder.glob("[!.]*.json"), key=_age, reverse=True) if changed else ():
            try:
                opened = os.open(file, os.O_RDWR)
            except FileNotFoundError:
                continue
            if _is_locked(opened):
                url = str(json.loads(os.pread(opened, 10_000, 0))["url"])
                self._found[service] = _Found(str(folder), changed, opened, url)
                return url
            os.close(opened)
            file.unlink(missing_ok=True)
        raise NotYet(f"service {service} does not run on {self.folder.parent}", retry_after_s=LOOK_AGAIN_S)


class _Found(NamedTuple):
    """A process: it lives while its file is locked, and nobody came after it while the folder is the same."""

    folder: str
    changed: int
    opened: int
    url: str


def _changed_at(folder: str) -> int:
    """0 if there is no such folder."""
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return 0


def _is_locked(opened: int) -> bool:
    """Whether the process that wrote the file lives."""
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(opened, fcntl.LOCK_UN)
    return False


def _age(file: Path) -> float:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
