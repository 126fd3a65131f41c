"""A store and a transport on SQLite files: durable, shared by processes of one machine, nothing to install."""

from minuet.adapters.sqlite.database import SqliteDatabase
from minuet.adapters.sqlite.store import SqliteStore
from minuet.adapters.sqlite.transport import SqliteTransport

__all__ = ["SqliteDatabase", "SqliteStore", "SqliteTransport"]
