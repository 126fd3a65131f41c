"""How much of a participant's work one process does at a time, and how fast it begins it."""

from __future__ import annotations

from dataclasses import dataclass

BURST_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Of one participant, in each process.

    Attributes:
        in_flight: so many attempts at once, at most. rate_per_s: so many are begun in a second.
    """

    in_flight: int | None = None
    rate_per_s: float | None = None


class Pace:
    """A token bucket: so many a second, and no more at once than come in a tenth of one.

    Its time is the event loop's, which never goes back: a clock that is put right must not stop anybody for an hour.
    """

    def __init__(self, rate_per_s: float) -> None:
        self._every_s = 1.0 / rate_per_s
        # Of a bucket that was full long ago, all but the first token are there at once.
        self._slack_s = max(0.0, BURST_S - self._every_s)
        self._next_s = float("-inf")

    def delay_s(self, now_s: float) -> float:
        """How long whoever asks now has to wait for his turn; turns are given in the order of asking."""
        turn_s = max(self._next_s, now_s - self._slack_s)
        self._next_s = turn_s + self._every_s
        return max(0.0, turn_s - now_s)
