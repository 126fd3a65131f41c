"""How far a member is in one partition. Pure.

Kafka keeps one number for each group and partition: everything before it is done. Messages are done in any order, so
the number may only move over what is done without a gap.
"""

from __future__ import annotations

from collections import deque


class Progress:
    """One partition while it is this member's. Offsets may have gaps: compaction and transactions leave some."""

    def __init__(self) -> None:
        self.committed: int | None = None  # what the broker knows from this member, if anything
        self._given: deque[int] = deque()  # in somebody's hands, ascending; those at its head that are done are gone
        self._done: set[int] = set()
        self._reached: int | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in anybody's hands."""
        return not self._given

    @property
    def to_commit(self) -> int | None:
        """The number to tell the broker, or None if it knows."""
        return None if self._reached == self.committed else self._reached

    def give(self, offset: int) -> None:
        """This message goes out; after those before it. Nothing happens if it is out already."""
        if not self._given or offset > self._given[-1]:
            self._given.append(offset)

    def done(self, offset: int) -> None:
        """It is done. Nothing happens if it was not given out, or is done already."""
        if not self._given or offset < self._given[0]:
            return
        self._done.add(offset)
        while self._given and self._given[0] in self._done:
            head = self._given.popleft()
            self._done.discard(head)
            self._reached = head + 1

    def rewind(self, offset: int) -> None:
        """This one and all behind it will be given out anew."""
        while self._given and self._given[-1] >= offset:
            self._done.discard(self._given.pop())
