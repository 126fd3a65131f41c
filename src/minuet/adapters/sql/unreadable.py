"""What stands for a row of ours that cannot be read, so that it holds up nobody but itself.

A row that somebody changed by hand, or that a disk changed without the database noticing, would raise each time that it
is read: also when a service starts and looks for what others left. Such an entry is parked instead, with the reason,
and such a message of the outbox becomes a parked message. What is there of it is kept, for somebody to look at.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic_core import from_json

from minuet.core.envelope import Envelope
from minuet.ports import Entry, EntryState, ParkedMessage

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""What it raises to read attributes that are none."""


def unreadable_entry(key: str, handler: str, body: bytes, error: Exception, changed_at: float) -> Entry:
    """Parked, and under its own key, so that nothing of that name is done a second time."""
    return Entry(
        key=key,
        handler=handler,
        envelope=Envelope(id=key, type=handler, source="", time=changed_at, body=body),
        state=EntryState.PARKED,
        error=f"its row in minuet_inbox cannot be read, {_brief(error)}: mend the row or restore a backup, then retry",
        changed_at=changed_at,
    )


def unreadable_message(position: int, channel: str, attributes: str, body: bytes, error: Exception) -> ParkedMessage:
    """What was to be published."""
    return ParkedMessage(
        id=f"outbox/{position}",
        channel=channel,
        attributes={"unreadable": attributes},
        body=body,
        reason=f"it was to be published, but its row in minuet_outbox cannot be read: {_brief(error)}",
        parked_at=0.0,
    )


def attributes_from(text: str) -> Mapping[str, str]:
    """Of a parked message, which only people look at."""
    try:
        found = from_json(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"unreadable": text}


def _brief(error: Exception) -> str:
    return repr(error)[:200]
