"""What an adapter for a real broker implements: moving bytes, and nothing else.

`BrokerTransport` makes a `minuet.ports.Transport` of it. Order per key, delayed retries, filtering, back-pressure,
reconnecting and draining are there, once for all brokers; what differs between brokers is said in `Features`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from minuet.ports import Features


class Disconnected(Exception):
    """The connection to the broker is gone, or the broker cannot do anything now. Reconnecting may help."""


@dataclass(frozen=True, slots=True)
class Queue:
    """What a group wants from this broker.

    Attributes:
        destinations: sorted; each is a topic, routing key, subject, topic ARN or stream: whatever channels map to here.
        types: per destination, the event types wanted there, for brokers that can filter. What is not understood by
            anybody must come through too, so a broker may only leave out what is in ``unwanted``.
        unwanted: per destination, the types that are understood by the app and not wanted by this group.
    """

    group: str
    destinations: tuple[str, ...]
    types: Mapping[str, frozenset[str]]
    unwanted: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Sending:
    """A message on its way to the broker.

    Attributes:
        key: messages of one key keep their order; may be empty.
        attributes: CloudEvents attributes without a prefix.
        must_arrive: a group of this app listens there, so that it is a failure if the broker has nobody to give it to.
    """

    destination: str
    key: str
    attributes: Mapping[str, str]
    body: bytes
    must_arrive: bool


@dataclass(frozen=True, slots=True)
class Received:
    """A message as the broker gave it out.

    Attributes:
        attributes: CloudEvents attributes without a prefix, as far as there are any; keys in lower case.
        token: the broker's own name for this delivery, hashable.
        deliveries: how often the broker has given it out, this time included; 1 if it does not count.
        lane: what is taken away from this member as a whole when members come and go (a partition); or empty.
    """

    destination: str
    attributes: Mapping[str, str]
    body: bytes
    token: Any
    deliveries: int = 1
    lane: str = ""


class Broker(Protocol):
    """A connection to one broker (or cluster).

    All methods but `connect` and `disconnect` raise `Disconnected` when the connection is lost or the broker does not
    answer in time, with a text that names the server without its password; then `BrokerTransport` calls `disconnect`
    and, after a while, `connect`, and asks again. None is called concurrently with itself for the same group. `send`
    is: several services publish over one connection, and need no order among each other.

    Attributes:
        features: how it differs from others.
        hold_s: what was fetched and is not acknowledged goes to another member after so many seconds, unless `keep` is
            called in time. None: not while this connection lives.
        gathers: whether `fetch` waits itself for the rest of what comes in pieces; else the member does: `gathering`.
        revoked: set by the owner before `connect`. To be called on the event loop with a group and a lane when that
            lane is another member's from now on. What `fetch` returns after that must not be of that lane.
    """

    features: Features
    hold_s: float | None
    gathers: bool
    revoked: Callable[[str, str], None]

    async def connect(self) -> None:
        """Connect, within a few seconds. Raises `Disconnected`, or ConfigurationError if trying again cannot help
        (an address that makes no sense, access denied)."""

    async def disconnect(self) -> None:
        """Let go of the connection, in whatever state it is; never raises. May be called twice, and before `connect`.

        What was fetched and not acknowledged is the broker's to give out again.
        """

    async def declare(self, queues: Sequence[Queue], destinations: Sequence[str], *, only_new: bool) -> None:
        """Make the destinations and the groups' queues exist. See `minuet.ports.Transport.declare`.

        A new group gets what is published from now on, not what is there already. Remember what a group's destinations
        are, if `fetch` has to know; also over a reconnect, after which this is called again with ``only_new``.

        Args:
            destinations: every destination that anybody may publish to here.
        """

    async def check(self, queues: Sequence[Queue], destinations: Sequence[str]) -> Sequence[str]:
        """What is missing or different of what `declare` would make, each in a sentence; changes nothing there.

        Where the topology is not ours to make, this is called instead of `declare`: remember the groups here, too.
        """

    async def send(self, messages: Sequence[Sending]) -> Sequence[Exception | None]:
        """Send; for each message None once the broker has confirmed that it is safely kept, or why it is not.

        No two messages of one call have the same key, so they may go all at once.
        """

    async def fetch(self, group: str, limit: int) -> Sequence[Received]:
        """At least one message and at most ``limit``, as soon as there are any; in their order per key.

        Called only for groups that were declared. The first call makes this connection a member of the group.
        When it is cancelled, nothing may be lost or stay in nobody's hands.
        """

    async def acknowledge(self, group: str, tokens: Sequence[Any]) -> None:
        """These are done; return once the broker will not give them out again. Tokens from before a reconnect are not
        asked for; unknown ones are ignored."""

    async def keep(self, group: str, tokens: Sequence[Any]) -> None:
        """These are still in work: do not give them to another member for another `hold_s`."""

    async def give_back(self, group: str, tokens: Sequence[Any]) -> None:
        """These were not handled: they may go to other members at once, if the broker can do that."""
