"""The counter of a service, as those see it who hand something in: the HTTP doors, and callers in the same process."""

from __future__ import annotations

from typing import Protocol

from minuet.core.envelope import Envelope
from minuet.core.messages import Query, View


class Desk(Protocol):
    """One service's counter: where commands and queries are handed in, whoever brings them."""

    async def ask(self, command: Envelope, *, key: str, wait_s: float) -> Envelope:
        """The command's recorded answer, an event or a refusal, done exactly once per key.

        Args:
            key: the asker's idempotency key, "" if none.
            wait_s: how long to wait for a definite answer; 0 answers after the first attempt.

        Raises:
            Conflict: the key was used with another body.
            NotYet: no definite answer yet; ask again.
            Rejected, MessageError: it will never be answered as it stands.
        """

    async def read(self, query: Query) -> View:
        """The query's view.

        Raises:
            NotFound, NotYet, Rejected
        """
