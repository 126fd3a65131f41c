"""minuet: one business transaction over several services, by choreography or by orchestration, from one definition.

Declare messages, services and a saga with the names below; `running` runs them. Importing does nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minuet.app import App, Database, Deployment, IdempotencyKey, NewId, Now, ReadModel, Row, Service, read_model
from minuet.core.coordinator import Status
from minuet.core.errors import (
    ConfigurationError,
    Conflict,
    DefinitionError,
    MessageError,
    MinuetError,
    NotFound,
    NotYet,
    Rejected,
)
from minuet.core.messages import Command, Event, Query, Refusal, StepRefused, View
from minuet.core.projection import Coordination
from minuet.core.retry import RetryPolicy
from minuet.core.saga import Nothing, Saga, parallel, sequence, step

if TYPE_CHECKING:
    from minuet.bootstrap import System, running
    from minuet.settings import Settings

__all__ = [
    "App",
    "Command",
    "ConfigurationError",
    "Conflict",
    "Coordination",
    "Database",
    "DefinitionError",
    "Deployment",
    "Event",
    "IdempotencyKey",
    "MessageError",
    "MinuetError",
    "NewId",
    "NotFound",
    "NotYet",
    "Nothing",
    "Now",
    "Query",
    "ReadModel",
    "Refusal",
    "Rejected",
    "RetryPolicy",
    "Row",
    "Saga",
    "Service",
    "Settings",
    "Status",
    "StepRefused",
    "System",
    "View",
    "parallel",
    "read_model",
    "running",
    "sequence",
    "step",
]

_LAZY = {"running": "minuet.bootstrap", "System": "minuet.bootstrap", "Settings": "minuet.settings"}


def __getattr__(name: str) -> Any:
    # What runs an app needs drivers and a web framework; declaring one does not.
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'minuet' has no attribute {name!r}")
