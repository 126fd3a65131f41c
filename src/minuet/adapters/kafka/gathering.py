"""How long a member waits for more to come with a message. Pure.

Messages that are handled together share a commit of the store, a round of publishing and a commit of offsets, so large
waves are cheap. Kafka tears them apart: what was published together is sent and fetched by partition, and the first
part, handled alone, becomes a wave of its own, which is torn again, until hardly anything is shared.

So a member that was given several messages at once waits a little for the rest of the next wave. One that gets single
messages, as when one saga is under way, gets each at once.
"""

from __future__ import annotations

EACH_S = 0.003
"""For each further message of a wave: no more than it costs to handle a few that come alone."""
WAIT_S_MAX = 0.02


class Gathering:
    """What the latest waves of one member were like."""

    def __init__(self) -> None:
        self._wave = 1

    @property
    def wait_s(self) -> float:
        """For how long to wait for more when a message has come."""
        return min(WAIT_S_MAX, EACH_S * (self._wave - 1))

    def gave(self, count: int) -> None:
        """So many messages were given at once."""
        # It shrinks by halves: a straggler says little about the wave that comes next.
        self._wave = max(count, self._wave // 2)
