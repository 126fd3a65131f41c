"""Callers that wait for an entry of the inbox to be decided."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from minuet.core.errors import NotYet
from minuet.ports import Entry, EntryState


class Waiters:
    """Who waits for which key, and from which on a failed attempt is an answer too."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[asyncio.Future[Entry], bool]]] = {}

    @contextmanager
    def waiting(self, key: str, *, patient: bool) -> Iterator[asyncio.Future[Entry]]:
        """A future of the decided entry. If not ``patient``, a failed attempt ends the waiting with `NotYet`."""
        future: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append((future, patient))
        try:
            yield future
        finally:
            future.cancel()
            rest = [one for one in self._waiting.get(key, ()) if one[0] is not future]
            if rest:
                self._waiting[key] = rest
            else:
                self._waiting.pop(key, None)

    def decided(self, entry: Entry) -> None:
        for future, _ in self._waiting.get(entry.key, ()):
            if not future.done():
                future.set_result(entry)

    def failed(self, entry: Entry, retry_after_s: float) -> None:
        for future, patient in self._waiting.get(entry.key, ()):
            if not future.done() and (not patient or entry.state is EntryState.PARKED):
                future.set_exception(NotYet(not_yet(entry), retry_after_s=retry_after_s))

    def send_away(self, reason: Callable[[], NotYet]) -> None:
        """Nothing more will be decided here."""
        for future, _ in [one for waiting in self._waiting.values() for one in waiting]:
            if not future.done():
                future.set_exception(reason())


def not_yet(entry: Entry) -> str:
    """Why an entry has no answer, in words for whoever asked."""
    if entry.state is EntryState.PARKED:
        return f"{entry.key} waits for an operator after {entry.attempts} attempts"
    if entry.attempts:
        return f"{entry.key} has failed {entry.attempts} times and is tried again; ask again with the same key"
    return f"{entry.key} is under way; ask again with the same key"
