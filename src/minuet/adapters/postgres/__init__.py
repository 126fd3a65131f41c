"""A store on PostgreSQL: durable, shared by any number of processes on any machines."""

from minuet.adapters.postgres.failures import CommitUnknown, Unavailable
from minuet.adapters.postgres.limits import Limits
from minuet.adapters.postgres.migrations import migrate, pending
from minuet.adapters.postgres.store import PostgresStore

__all__ = ["CommitUnknown", "Limits", "PostgresStore", "Unavailable", "migrate", "pending"]
