"""What goes to Temporal and back: plain data, as JSON in the history of each workflow. Pure.

A history outlives the code that wrote it, so a field may be added with a default, and none renamed or dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True)
class Told:
    """A message, and what it makes known.

    Attributes:
        literal: as `minuet.core.formula.Literal` is written: ``reserve:succeeded``.
        attributes: of its envelope, as a JSON object.
        body: the JSON object that it is.
    """

    literal: str
    attributes: str
    body: str


@dataclass(frozen=True)
class Begun:
    """Which saga, under which definition: what a workflow is started with."""

    saga: str
    id: str
    definition: str


@dataclass(frozen=True)
class Due:
    """A command that a rule made due.

    Attributes:
        rule: the rule's id.
        at: when, in seconds since 1970.
        cause: the attributes of the message that made it due.
        known: what it is built from.
        body: the command itself, once it is built.
        saga_expires: until when the saga may still refuse anything, in seconds since 1970; None if it has no deadline.
    """

    begun: Begun
    rule: str
    at: float
    cause: str
    known: list[Told] = field(default_factory=list)
    body: str = ""
    saga_expires: float | None = None


@dataclass(frozen=True)
class Deciding:
    """What a watch has decided: accepted, or abandoned for a reason."""

    due: Due
    reason: str = ""


@dataclass(frozen=True)
class Refusing:
    """A command that its participant will never see, refused in the participant's name."""

    due: Due
    reason: str
    detail: str


@dataclass(frozen=True)
class Stuck:
    """A command with which only a person can go on.

    Attributes:
        number: counts how often that happened in this saga, so that each time has a name of its own.
    """

    due: Due
    why: str
    number: int


class Problem(StrEnum):
    """Why an activity failed for good, as the type of its error."""

    FAILED = "Failed"
    """What builds the command raised; it may be tried again."""
    HOPELESS = "Hopeless"
    """The command cannot be built, now or on a retry."""
    LATE = "Late"
    """The command is not wanted any more, and was not even built."""
    NEEDS_OPERATOR = "NeedsOperator"


class Name(StrEnum):
    """Of the workflow, its activities, signals and its query."""

    WORKFLOW = "minuet.Saga"
    BUILD = "minuet.build"
    ASK = "minuet.ask"
    REFUSE = "minuet.refuse"
    DECIDE = "minuet.decide"
    PARK = "minuet.park"
    UNPARK = "minuet.unpark"
    HEAR = "hear"
    RETRY = "retry"
    STATE = "state"


def workflow_id(saga: str, saga_id: str) -> str:
    return f"{saga}/{saga_id}"
