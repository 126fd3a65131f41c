"""Monotone formulas over known messages: AND, OR and literals, and deliberately no NOT.

Without negation a formula that is true stays true whatever is learnt later, so the order, duplication and place of
delivery cannot change what it decides (the CALM theorem: Hellerstein and Alvaro, "Keeping CALM", CACM 63/9, 2020).

Formulas share sub-trees: a saga's rules form one small graph. Written out as flat lists of cases they explode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple


class Outcome(StrEnum):
    """What can become known of a step: by a message of its participant, or of the one place that waits for it.

    Of what is awaited from outside, SUCCEEDED and REFUSED are the events themselves.
    """

    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    UNDONE = "undone"
    ACCEPTED = "accepted"
    ABANDONED = "abandoned"


class Literal(NamedTuple):
    """ "The message saying that this step succeeded, refused or was undone is known"."""

    step: str
    outcome: Outcome

    def __str__(self) -> str:
        return f"{self.step}:{self.outcome}"

    @classmethod
    def parse(cls, text: str) -> Literal:
        step, _, outcome = text.rpartition(":")
        return cls(step, Outcome(outcome))


@dataclass(frozen=True, slots=True, eq=False)
class All:
    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Any:
    parts: tuple[Formula, ...]


Formula = Literal | All | Any

TRUE: Final = All(())
FALSE: Final = Any(())


def all_of(*parts: Formula) -> Formula:
    """AND. Nested ANDs are merged, repeated parts dropped."""
    if any(part is FALSE for part in parts):
        return FALSE
    flat = _flatten(All, parts)
    return flat[0] if len(flat) == 1 else All(flat) if flat else TRUE


def any_of(*parts: Formula) -> Formula:
    """OR. Nested ORs are merged, repeated parts dropped."""
    if any(part is TRUE for part in parts):
        return TRUE
    flat = _flatten(Any, parts)
    return flat[0] if len(flat) == 1 else Any(flat) if flat else FALSE


def _flatten(kind: type[All] | type[Any], parts: tuple[Formula, ...]) -> tuple[Formula, ...]:
    flat: dict[object, Formula] = {}
    for part in parts:
        for inner in part.parts if isinstance(part, kind) else (part,):
            flat.setdefault(inner if isinstance(inner, Literal) else id(inner), inner)
    return tuple(flat.values())


def holds(formula: Formula, known: Collection[Literal]) -> bool:
    """Whether the formula is true of these known messages. Each shared sub-tree is looked at once."""
    if isinstance(formula, All):  # mostly one of its own literals is missing, and nothing below has to be looked at
        for part in formula.parts:
            if isinstance(part, Literal) and part not in known:
                return False
    seen: dict[int, bool] = {}

    def walk(node: Formula) -> bool:
        if isinstance(node, Literal):
            return node in known
        mark = id(node)
        if mark not in seen:
            seen[mark] = all(map(walk, node.parts)) if isinstance(node, All) else any(map(walk, node.parts))
        return seen[mark]

    return walk(formula)


def literals(formula: Formula) -> frozenset[Literal]:
    """Every literal that the formula mentions."""
    return frozenset(node for node in _nodes(formula) if isinstance(node, Literal))


def _nodes(formula: Formula) -> Iterator[Formula]:
    seen: set[int] = set()
    stack: list[Formula] = [formula]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if not isinstance(node, Literal):
            stack.extend(node.parts)


def digest(formula: Formula) -> str:
    """The same for formulas that are built alike, in every process. Each shared sub-tree is looked at once, where
    `in_words` writes it out at each mention, which takes for ever on a saga of many parallel steps."""
    marks: dict[int, str] = {}
    stack: list[Formula] = [formula]
    while stack:
        node = stack[-1]
        parts = () if isinstance(node, Literal) else node.parts
        missing = [part for part in parts if id(part) not in marks]
        if missing:
            stack.extend(missing)
            continue
        inside = ",".join(marks[id(part)] for part in parts)
        text = str(node) if isinstance(node, Literal) else f"{type(node).__name__}({inside})"
        marks[id(node)] = hashlib.sha256(text.encode()).hexdigest()
        stack.pop()
    return marks[id(formula)]


def in_words(formula: Formula, word: Callable[[Literal], str] = str) -> str:
    """The formula as a person reads it: ``a and (b or c)``."""
    if isinstance(formula, Literal):
        return word(formula)
    if not formula.parts:
        return "always" if formula is TRUE or isinstance(formula, All) else "never"
    joiner = " and " if isinstance(formula, All) else " or "
    return joiner.join(
        in_words(part, word) if isinstance(part, Literal) else f"({in_words(part, word)})" for part in formula.parts
    )
