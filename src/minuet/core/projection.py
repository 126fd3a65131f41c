"""Who evaluates which rule, and which messages they must hear for it.

Orchestration: one place evaluates all rules. Choreography: each rule is evaluated by the service that performs its
command (endpoint projection: Montesi, "Introduction to Choreographies", 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from minuet.core.compile import Rule, Rules
from minuet.core.formula import Literal
from minuet.core.messages import Event


class Coordination(StrEnum):
    CHOREOGRAPHY = "choreography"
    ORCHESTRATION = "orchestration"


def project(rules: Rules, service: str) -> tuple[Rule, ...]:
    """The rules that a service evaluates in choreography: those whose command it performs."""
    return tuple(rule for rule in rules.every if rule.service == service)


def needed(rules: Iterable[Rule]) -> frozenset[Literal]:
    """What must be remembered to evaluate these rules."""
    return frozenset(literal for rule in rules for literal in rule.needs | rule.heeds)


def heard(saga: Rules, rules: Iterable[Rule]) -> tuple[type[Event], ...]:
    """The events to subscribe to for these rules."""
    return tuple(dict.fromkeys(event for literal in sorted(needed(rules), key=str) for event in saga.events[literal]))


def services(rules: Rules) -> Sequence[str]:
    """Every service that takes part, in the order of the steps."""
    return tuple(dict.fromkeys(rule.service for rule in rules.every))
