"""What one group's member has in its hands: fetched from the broker and not settled yet. Pure and synchronous.

Messages of one key stand in a line. A line is handed out from its head, as much of it at once as is asked for, and
then waits until all of that is settled; if its head is to come again later, the whole line waits for it. Messages
without a key have a line each. Everything counts against the window until it is settled, wherever it stands, so that a
consumer that does not settle stops the fetching.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from minuet.adapters.broker.port import Received

MESSAGES_MAX = 1000
BYTES_MAX = 32 * 1024 * 1024
FIRST_GUESS_BYTES = 128 * 1024
OVERHEAD_BYTES = 1024  # of the objects, and the names of the attributes


@dataclass(slots=True, eq=False)
class Line:
    """The messages of one key, in order. ``out`` of them, which came before all that wait, are in the app's hands."""

    key: str
    waiting: deque[HeldMessage] = field(default_factory=deque)
    out: int = 0


@dataclass(slots=True, eq=False)
class HeldMessage:
    """One message in hand.

    Attributes:
        position: its place in the order in which the broker gave them.
        due_at: by the event loop's clock; not to be handed out before.
        is_out: the app has it.
        is_gone: it is no longer ours: settled, or the broker's again. Nothing that is said of it counts any more.
    """

    received: Received
    channel: str
    position: int
    line: Line
    size: int
    deliveries: int
    due_at: float = 0.0
    is_out: bool = False
    is_gone: bool = False


class Held:
    """See the top of this file.

    Args:
        messages_max: never more than this in hand.
        bytes_max: no more is fetched when bodies and attributes in hand have so many bytes. How large a message is
            shows only when it is here: a fetch expects those to come to be like the largest of the fetch before.
    """

    def __init__(self, *, messages_max: int = MESSAGES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.messages_max = messages_max
        self.bytes_max = bytes_max
        self.bytes = 0
        self._position = 0
        self._expected_bytes = FIRST_GUESS_BYTES
        self._messages: dict[Any, HeldMessage] = {}
        self._lines: dict[str, Line] = {}
        self._ready: dict[Line, None] = {}
        # When, which head it was then, a tie-break, and the line. May be out of date: see `_wake`.
        self._delayed: list[tuple[float, int, int, Line]] = []
        self._ties = itertools.count()

    def __len__(self) -> int:
        return len(self._messages)

    def tokens(self) -> Sequence[Any]:
        """The broker's names of all that is in hand, in the order in which they came."""
        return list(self._messages)

    def room(self) -> int:
        """How many messages may be fetched now; at least one if nothing is in hand."""
        bytes_left = self.bytes_max - self.bytes
        messages_left = self.messages_max - len(self._messages)
        if messages_left <= 0 or (bytes_left <= 0 and self._messages):
            return 0
        return max(1, min(messages_left, bytes_left // self._expected_bytes))

    def expect(self, received: Sequence[Received]) -> None:
        """Learn from a fetch how large messages are here."""
        if received:
            self._expected_bytes = max(size_of(one) for one in received)

    def add(self, received: Received, channel: str) -> bool:
        """Take it into our hands. False, and nothing changed, if we have it already."""
        if received.token in self._messages:
            return False
        key = received.attributes.get("partitionkey", "")
        line = self._lines.get(key) if key else Line("")
        if line is None:
            line = self._lines[key] = Line(key)
        self._position += 1
        message = HeldMessage(received, channel, self._position, line, size_of(received), received.deliveries)
        self._messages[received.token] = message
        self.bytes += message.size
        line.waiting.append(message)
        if len(line.waiting) == 1:
            self._place(line)
        return True

    def has_ready(self, now: float) -> bool:
        """Whether there is something to hand out now."""
        self._wake(now)
        return bool(self._ready)

    def take(self, limit: int, now: float) -> Sequence[HeldMessage]:
        """Hand out what may go out now, up to ``limit``."""
        self._wake(now)
        taken: list[HeldMessage] = []
        while self._ready and len(taken) < limit:
            line = next(iter(self._ready))
            del self._ready[line]  # what is left of it waits for what goes out now, or for its time
            while line.waiting and line.waiting[0].due_at <= now and len(taken) < limit:
                message = line.waiting.popleft()
                message.is_out = True
                line.out += 1
                taken.append(message)
        return taken

    def next_due(self) -> float | None:
        """When to look again for what is delayed, or None if nothing is."""
        return self._delayed[0][0] if self._delayed else None

    def done(self, message: HeldMessage) -> bool:
        """The broker knows that it is done. False, and nothing changed, if it was not ours any more."""
        if message.is_gone or not message.is_out:
            return False
        self._let_go(message)
        return True

    def again(self, message: HeldMessage, due_at: float) -> bool:
        """It is to be handed out once more, then. False, and nothing changed, if it was not ours any more."""
        if message.is_gone or not message.is_out:
            return False
        message.is_out = False
        message.due_at = due_at
        message.deliveries += 1
        line = message.line
        line.out -= 1
        bisect.insort(line.waiting, message, key=lambda one: one.position)
        self._place(line)
        return True

    def drop_lane(self, lane: str) -> None:
        """These are another member's now."""
        for message in [one for one in self._messages.values() if one.received.lane == lane]:
            self._let_go(message)

    def drop_all(self) -> None:
        """The broker will give all of it out again."""
        for message in self._messages.values():
            message.is_gone = True
        self.bytes = 0
        self._messages.clear()
        self._lines.clear()
        self._ready.clear()
        self._delayed.clear()

    def _let_go(self, message: HeldMessage) -> None:
        message.is_gone = True
        del self._messages[message.received.token]
        self.bytes -= message.size
        line = message.line
        if message.is_out:
            line.out -= 1
        else:
            line.waiting.remove(message)
        self._place(line)

    def _place(self, line: Line) -> None:
        """Say whether the line may be handed out, now or later, after something changed at its head."""
        if line.out:
            return
        if not line.waiting:
            if self._lines.get(line.key) is line:
                del self._lines[line.key]
            return
        head = line.waiting[0]
        if head.due_at:
            heapq.heappush(self._delayed, (head.due_at, head.position, next(self._ties), line))
        else:
            self._ready[line] = None

    def _wake(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            due_at, position, _, line = heapq.heappop(self._delayed)
            # The line may have changed since this was written down; then it is written down anew, or ready, or gone.
            if (
                not line.out
                and line.waiting
                and (line.waiting[0].due_at, line.waiting[0].position)
                == (
                    due_at,
                    position,
                )
            ):
                self._ready[line] = None


def size_of(received: Received) -> int:
    """About what it takes in memory, in bytes."""
    return len(received.body) + sum(map(len, received.attributes.values())) + OVERHEAD_BYTES
