"""Things to do later, in memory. What must not be forgotten is due in the store as well, and found by the recovery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timers:
    """One pending call per name; a new one replaces the old."""

    def __init__(self) -> None:
        self._pending: dict[str, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def after(self, delay_s: float, name: str, call: Callable[[], None]) -> None:
        def run() -> None:
            self._pending.pop(name, None)
            call()

        self.cancel(name)
        self._pending[name] = asyncio.get_running_loop().call_later(max(0.0, delay_s), run)

    def cancel(self, name: str) -> None:
        pending = self._pending.pop(name, None)
        if pending is not None:
            pending.cancel()

    def cancel_all(self) -> None:
        for name in tuple(self._pending):
            self.cancel(name)
