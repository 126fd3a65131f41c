"""Processes told apart by number and start time, and the whole family of one, so that nothing of it is left behind.

A number alone is not enough: it is given to somebody else once its process is gone. A process group alone is not enough
either: Postgres gives each of its processes a session of its own. Reads ``/proc``, so this is for Linux.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
LOOK_S = 0.02
KILLED_S_MAX = 10.0
ALONE_S_MAX = 1.0  # for whoever is left when the leader's session has ended in order


@dataclass(frozen=True, slots=True)
class Process:
    """One that was started as the leader of a session. `started` is in clock ticks since the machine's start."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class _Row:
    pid: int
    state: str
    parent: int
    group: int
    session: int
    started: int

    @property
    def lives(self) -> bool:
        return self.state not in "ZX"


def identify(pid: int) -> Process:
    """The process that has this number now.

    Raises:
        ProcessLookupError: nobody has.
    """
    row = _row(pid)
    if row is None:
        raise ProcessLookupError(f"there is no process {pid}")
    return Process(pid, row.started)


def family(leader: Process) -> set[int]:
    """Who lives of it: its session and group, and all descendants. The dead that nobody has reaped do not count."""
    return {row.pid for row in _family(leader) if row.lives}


def end(leaders: Sequence[Process], sign: signal.Signals, *, within_s: float) -> None:
    """End each with its family, the last one first: ask with the signal, and insist with SIGKILL.

    SIGKILL goes to the whole family at once, any other signal to the leader's group, whose business the rest is. When
    this returns, nobody of them lives.

    Raises:
        TimeoutError: somebody survives SIGKILL, which only the kernel can bring about.
    """
    for leader in reversed(leaders):
        known = _Known(leader)
        if sign != signal.SIGKILL and known.living():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader.pid, sign)
            known.await_end(within_s, of_session=True)
            known.await_end(ALONE_S_MAX)
        gives_up_at = time.monotonic() + KILLED_S_MAX
        while living := known.living():
            for pid in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            known.await_end(LOOK_S)
            if time.monotonic() > gives_up_at:
                raise TimeoutError(f"processes {sorted(living)} did not end within {KILLED_S_MAX:.0f} s of SIGKILL")


def resident_kib(pids: Collection[int]) -> int:
    """The memory that they hold together, pages that they share counted once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, StopIteration):
            lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


class _Known:
    """A family whose members stay known when the parent that linked them to it is gone."""

    def __init__(self, leader: Process) -> None:
        self._leader = leader
        self._members: set[tuple[int, int]] = set()

    def living(self, *, of_session: bool = False) -> set[int]:
        self._members |= {(row.pid, row.started) for row in _family(self._leader)}
        rows = [row for pid, started in self._members if (row := _row(pid)) and row.started == started and row.lives]
        return {row.pid for row in rows if not of_session or self._leader.pid in (row.group, row.session)}

    def await_end(self, within_s: float, *, of_session: bool = False) -> None:
        gives_up_at = time.monotonic() + within_s
        while self.living(of_session=of_session) and time.monotonic() < gives_up_at:
            time.sleep(LOOK_S)


def _family(leader: Process) -> list[_Row]:
    rows = _rows()
    if (now := rows.get(leader.pid)) and now.started != leader.started:
        return []  # a stranger has the number now, so no group and no session had it any more
    found = {
        row.pid for row in rows.values()
        if leader.pid in (row.pid, row.group, row.session) and row.started >= leader.started
    }  # fmt: skip
    while more := {row.pid for row in rows.values() if row.parent in found} - found:
        found |= more
    return [rows[pid] for pid in found]


def _rows() -> dict[int, _Row]:
    numbers = (int(entry) for entry in os.listdir(PROC) if entry.isdigit())
    return {pid: row for pid in numbers if (row := _row(pid))}


def _row(pid: int) -> _Row | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name is in parentheses and may hold anything, also blanks and parentheses.
    state, parent, group, session, *rest = text.rpartition(")")[2].split()
    return _Row(pid, state, int(parent), int(group), int(session), int(rest[15]))
