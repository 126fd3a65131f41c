"""What can go wrong, one type per reaction of the reader.

`DefinitionError`: the program is wrong and does not start. `MessageError`: a message is wrong and is parked.
`Conflict`, `NotYet`, `Rejected`: what an asker hears instead of an answer.
"""

from __future__ import annotations


class MinuetError(Exception):
    """Base of every error that minuet raises on purpose."""


class DefinitionError(MinuetError):
    """A message, handler, saga or app is declared wrongly. Says which, and what to write instead."""


class ConfigurationError(MinuetError):
    """A deployment's setting is wrong or missing. Says which one, and what it may be."""


class MessageError(MinuetError):
    """A message that nobody here can understand, now or on a retry; it is parked with this reason."""


class Conflict(MinuetError):
    """An idempotency key was used before with another body. Nothing was done."""


class NotYet(MinuetError):
    """There is no definite answer yet: ask again with the same key.

    ``retry_after_s`` is when asking again makes sense, in seconds.
    """

    def __init__(self, reason: str, *, retry_after_s: float = 0.2) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Rejected(MinuetError):
    """A request that will never be answered as it stands: unknown, malformed or not allowed. Do not ask again."""


class NotFound(Rejected):
    """What a query asked for does not exist. Raise it in a query's handler."""


class MinuetBug(MinuetError):
    """Something that minuet promises cannot happen did happen."""
