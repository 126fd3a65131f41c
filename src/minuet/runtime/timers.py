"""Things to do later, in memory. What must not be forgotten is due in the store as well, and found by the recovery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timers:
    """One pending call per name; a new one replaces the old.

    Attributes:
        weight: of all that is pending and counts.
    """

    def __init__(self) -> None:
        self._pending: dict[str, tuple[asyncio.TimerHandle, int | None]] = {}
        self._uncounted = 0
        self.weight = 0

    def __len__(self) -> int:
        """Of those that count."""
        return len(self._pending) - self._uncounted

    def after(self, delay_s: float, name: str, call: Callable[[], None], *, weight: int | None = 0) -> None:
        """Call it then. A weight of None: what is only waited for is no load, and does not count."""

        def run() -> None:
            self._remove(name)
            call()

        self.cancel(name)
        self._pending[name] = asyncio.get_running_loop().call_later(max(0.0, delay_s), run), weight
        self.weight += weight or 0
        self._uncounted += weight is None

    def cancel(self, name: str) -> None:
        if (handle := self._remove(name)) is not None:
            handle.cancel()

    def _remove(self, name: str) -> asyncio.TimerHandle | None:
        if name not in self._pending:
            return None
        handle, weight = self._pending.pop(name)
        self.weight -= weight or 0
        self._uncounted -= weight is None
        return handle

    def cancel_all(self) -> None:
        for name in tuple(self._pending):
            self.cancel(name)
