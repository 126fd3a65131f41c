"""NATS JetStream: a destination is a subject of a stream, and each group is a durable pull consumer of that stream."""

from minuet.adapters.nats.address import split
from minuet.adapters.nats.broker import NatsBroker

__all__ = ["NatsBroker", "split"]
