"""How long a member waits for more to come with a message. Pure.

Messages that are handled together share a commit of the store, a round of publishing and a round of acknowledging, so
large waves are cheap. Brokers tear them apart: what was published together comes in pieces, and the first piece,
handled alone, becomes a wave of its own, which is torn again, until hardly anything is shared.

So a member that was given several messages at once waits a little for the rest of the next wave. One that gets single
messages, as when one saga is under way, gets each at once.
"""

from __future__ import annotations

EACH_S = 0.001
WAIT_S_MAX = 0.01


class Gathering:
    """What the latest waves of one member were like.

    Args:
        each_s: to wait for each further message of a wave: no more than it costs to handle a few that come alone.
        wait_s_max: to wait for a wave, at most.
    """

    def __init__(self, each_s: float = EACH_S, wait_s_max: float = WAIT_S_MAX) -> None:
        self._each_s = each_s
        self._wait_s_max = wait_s_max
        self._wave = 1

    @property
    def wait_s(self) -> float:
        """For how long to wait for more when a message has come."""
        return min(self._wait_s_max, self._each_s * (self._wave - 1))

    def gave(self, count: int) -> None:
        """So many messages were given at once."""
        # It shrinks by halves: a straggler says little about the wave that comes next.
        self._wave = max(count, self._wave // 2)
