"""The real clock and real randomness."""

from __future__ import annotations

import random
import time
import uuid


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()


class SystemIds:
    """Random names, from the operating system's randomness."""

    def new(self) -> str:
        return uuid.uuid4().hex

    def chance(self) -> float:
        return random.random()  # noqa: S311  jitter, not a secret
