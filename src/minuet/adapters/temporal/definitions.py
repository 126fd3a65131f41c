"""The sagas that the workers of this process know, by name and fingerprint.

A workflow is given plain data only, and Temporal's sandbox hands it no object of ours: it finds its rules here. So this
is the one place that all workers of a process share. Definitions with one fingerprint decide the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from minuet.core.compile import Rules
from minuet.core.saga import Saga

_RULES: dict[tuple[str, str], Rules] = {}


class UnknownDefinition(Exception):
    """This process does not have the definition under which a saga began."""


def know(sagas: Iterable[Saga]) -> None:
    """Let workflows of this process find these sagas."""
    for saga in sagas:
        _RULES.setdefault((saga.name, saga.fingerprint), saga.rules)


def rules_of(saga: str, definition: str) -> Rules:
    """
    Raises:
        UnknownDefinition: says what to do.
    """
    rules = _RULES.get((saga, definition))
    if rules is None:
        known = ", ".join(sorted(fingerprint for name, fingerprint in _RULES if name == saga)) or "none"
        raise UnknownDefinition(
            f"this saga {saga} began under definition {definition}, which this worker does not have (it has {known}); "
            f"run a worker with that definition in App(sagas=...), and the saga goes on by itself"
        )
    return rules
