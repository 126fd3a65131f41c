"""Locks between the processes that share a database file. The kernel frees them when a process dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType


class WriteLock:
    """Held around every write transaction and checkpoint of a file: who waits sleeps in the kernel.

    flock is not fair: whoever lets go and wants it again at once mostly gets it again. So there is a turnstile before
    it, in which only one waits, and which a second comer cannot pass.
    """

    def __init__(self, folder: Path) -> None:
        self._turn = os.open(folder / "turn", os.O_RDWR | os.O_CREAT, 0o666)
        self._write = os.open(folder / "write", os.O_RDWR | os.O_CREAT, 0o666)

    def acquire(self) -> None:
        """Wait for it."""
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._write, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def acquire_now(self) -> bool:
        """Take it if nobody has it or waits for it."""
        try:
            fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            fcntl.flock(self._write, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)
        return True

    def release(self) -> None:
        fcntl.flock(self._write, fcntl.LOCK_UN)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def close(self) -> None:
        os.close(self._turn)
        os.close(self._write)


class Instances:
    """Who has a file open. Each instance holds a lock on a file of its name for its life.

    An instance is gone when its file is missing or can be locked. A stopped process (SIGSTOP) keeps its lock.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._others: set[str] = set()
        self._lock = -1

    def join(self) -> None:
        # Locked before it gets its name, or somebody could find it unlocked in between and take us for gone.
        unnamed = self._folder / f".{self._name}"
        self._lock = os.open(unnamed, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(self._folder / self._name)

    def leave(self) -> None:
        (self._folder / self._name).unlink(missing_ok=True)
        os.close(self._lock)

    def gone(self, name: str) -> bool:
        if name == self._name:
            return False
        try:
            file = os.open(self._folder / name, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            (self._folder / name).unlink(missing_ok=True)
            return True
        finally:
            os.close(file)

    def nobody(self) -> bool:
        """Whether no other has the file open."""
        return all(self.gone(name) for name in os.listdir(self._folder) if not name.startswith("."))

    @property
    def is_alone(self) -> bool:
        """Whether nobody else was there when we last looked."""
        return not self._others

    def lost_one(self) -> bool:
        """Whether somebody is gone who was there at the last call."""
        names = [name for name in os.listdir(self._folder) if not name.startswith(".")]
        others = {name for name in names if name != self._name and not self.gone(name)}
        lost = self._others - others
        lost |= {name for name in names if name != self._name} - others
        self._others = others
        return bool(lost)
