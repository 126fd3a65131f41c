"""Which channels lie on which destination, who wants what of it, and what is left out at the receiving end. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic_core import from_json

from minuet.adapters.broker.port import Queue
from minuet.core.projection import Coordination
from minuet.ports import Subscription


class Topology:
    """The channels of one broker and the groups that were declared there.

    Args:
        destinations: of each channel. Several channels may share one.
    """

    def __init__(self, destinations: Mapping[str, str]) -> None:
        self.destination_of = dict(destinations)
        self.channels_of: dict[str, list[str]] = {}
        for channel, destination in destinations.items():
            self.channels_of.setdefault(destination, []).append(channel)
        self._subscriptions: dict[str, Subscription] = {}
        self._heard: frozenset[str] = frozenset()

    @property
    def destinations(self) -> Sequence[str]:
        return sorted(self.channels_of)

    @property
    def subscriptions(self) -> Sequence[Subscription]:
        return list(self._subscriptions.values())

    def remember(self, subscriptions: Sequence[Subscription], *, only_new: bool) -> None:
        """These groups exist from now on."""
        for subscription in subscriptions:
            if not only_new or subscription.group not in self._subscriptions:
                self._subscriptions[subscription.group] = subscription
        self._heard = frozenset(channel for one in self._subscriptions.values() for channel in one.wanted)

    def has_something_for(self, group: str) -> bool:
        found = self._subscriptions.get(group)
        return found is not None and any(channel in self.destination_of for channel in found.wanted)

    def is_heard(self, channel: str) -> bool:
        """Whether somebody of this app listens there."""
        return channel in self._heard

    def queues(self, subscriptions: Sequence[Subscription]) -> Sequence[Queue]:
        """What to make on the broker for these. A group that wants nothing of this broker has no queue there."""
        return [queue for one in subscriptions if (queue := self._queue(one)).destinations]

    def _queue(self, subscription: Subscription) -> Queue:
        types: dict[str, set[str]] = {}
        for channel, wanted in subscription.wanted.items():
            if channel in self.destination_of:
                types.setdefault(self.destination_of[channel], set()).update(wanted)
        return Queue(
            group=subscription.group,
            destinations=tuple(sorted(types)),
            types={destination: frozenset(found) for destination, found in types.items()},
            unwanted={destination: subscription.understood - found for destination, found in types.items()},
        )

    def channel_for(self, group: str, destination: str, attributes: Mapping[str, str]) -> str | None:
        """The channel on which the group hears this message; None if it does not want it.

        What comes from a destination that is no channel's is delivered under the destination's own name: nobody will
        understand it, so it is parked, where a person sees it.
        """
        channels = self.channels_of.get(destination)
        if channels is None:
            return destination
        subscription = self._subscriptions[group]
        return next((channel for channel in channels if wants(subscription, channel, attributes)), None)


def wants(subscription: Subscription, channel: str, attributes: Mapping[str, str]) -> bool:
    """Whether to deliver a message, by its attributes alone. What says too little about itself is delivered."""
    kind = attributes.get("type")
    if not kind:
        return channel in subscription.wanted
    try:
        told = coordinations_of(attributes)
    except (ValueError, TypeError):
        return channel in subscription.wanted  # nobody can read it: it is to be parked
    return subscription.wants_type(channel, kind, told)


def coordinations_of(attributes: Mapping[str, str]) -> Sequence[Coordination]:
    """How the sagas that a message belongs to are coordinated.

    Raises:
        TypeError, ValueError: an attribute cannot be read.
    """
    told = [attributes["sagacoordination"]] if attributes.get("sagacoordination") else []
    if attributes.get("sagabegins"):
        told += [how for _, _, _, how in from_json(attributes["sagabegins"])]
    return [Coordination(how) for how in told]
