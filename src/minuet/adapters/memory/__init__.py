"""A store and a transport in memory: the real semantics, nothing durable, no threads, no clock but the loop's.

Several `MemoryStore` on one `MemoryDatabase`, and several `MemoryTransport` on one `MemoryBroker`, are to each other
what processes on one machine are. All of them live on one event loop, which may be a simulator's.
"""

from minuet.adapters.memory.store import MemoryDatabase, MemoryStore
from minuet.adapters.memory.transport import MemoryBroker, MemoryTransport

__all__ = ["MemoryBroker", "MemoryDatabase", "MemoryStore", "MemoryTransport"]
