"""minuet: one business transaction over several services, by choreography or by orchestration, from one definition.

Declare messages, services and a saga with the names below; `running` runs them. Importing does nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minuet.app import App, Database, Deployment, IdempotencyKey, NewId, Now, ReadModel, Row, Service, read_model
    from minuet.bootstrap import System, running
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
    from minuet.core.messages import Command, Event, Query, Refusal, StepAbandoned, StepAccepted, StepRefused, View
    from minuet.core.projection import Coordination
    from minuet.core.retry import RetryPolicy
    from minuet.core.saga import Nothing, Saga, parallel, sequence, step, wait_for
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
    "StepAbandoned",
    "StepAccepted",
    "StepRefused",
    "System",
    "View",
    "parallel",
    "read_model",
    "running",
    "sequence",
    "step",
    "wait_for",
]

_HOMES = {
    "minuet.app": "App Database Deployment IdempotencyKey NewId Now ReadModel Row Service read_model",
    "minuet.bootstrap": "System running",
    "minuet.core.coordinator": "Status",
    "minuet.core.errors": (
        "ConfigurationError Conflict DefinitionError MessageError MinuetError NotFound NotYet Rejected"
    ),
    "minuet.core.messages": "Command Event Query Refusal StepAbandoned StepAccepted StepRefused View",
    "minuet.core.projection": "Coordination",
    "minuet.core.retry": "RetryPolicy",
    "minuet.core.saga": "Nothing Saga parallel sequence step wait_for",
    "minuet.settings": "Settings",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    # Each name comes with what it needs when somebody asks for it: a test runner that only finds our plugin, or a
    # command that only prints its help, should not wait for pydantic, drivers and a web framework.
    if name in _HOME_OF:
        from importlib import import_module

        found = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
        return found
    raise AttributeError(f"module 'minuet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
