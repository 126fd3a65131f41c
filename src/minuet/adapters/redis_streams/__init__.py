"""Redis Streams: a destination is a stream, and each group is a consumer group of each stream it listens to."""

from minuet.adapters.redis_streams.address import split
from minuet.adapters.redis_streams.broker import RedisBroker

__all__ = ["RedisBroker", "split"]
