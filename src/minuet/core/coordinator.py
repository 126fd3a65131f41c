"""The pure heart: *(rules, known messages) -> commands now due*.

The orchestrator calls it with all rules, each service's reactor with its own. It decides nothing else, and it keeps
nothing: what is due follows from what is known, so after a crash it is found again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Final

from minuet.core.compile import UNDO_SUFFIX, WITHIN_SUFFIX, Kind, Rule, Rules, refused, succeeded, success_of
from minuet.core.errors import MessageError
from minuet.core.formula import Literal, Outcome, holds
from minuet.core.messages import Event, Refusal, StepAbandoned, StepAccepted, name_of
from minuet.core.saga import COMPENSATED, COMPLETED, Saga, Wait


class Status(StrEnum):
    """Where a saga is."""

    RUNNING = "running"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    COMPENSATED = "compensated"

    @property
    def is_final(self) -> bool:
        return self in (Status.COMPLETED, Status.COMPENSATED)


def due(rules: Iterable[Rule], known: Collection[Literal]) -> list[Rule]:
    """The rules whose command is due now or was before; each command is done once, by its key."""
    return [rule for rule in rules if holds(rule.formula, known)]


def newly_due(rules: Iterable[Rule], known: Collection[Literal], learnt: Literal) -> list[Rule]:
    """As `due`, but only the rules that the literal just learnt can have made true, and those that heed it."""
    # Most rules look at one message only, and that is the one just learnt.
    return [
        rule
        for rule in rules
        if (learnt in rule.needs and (len(rule.needs) == 1 or holds(rule.formula, known)))
        or (learnt in rule.heeds and holds(rule.formula, known))
    ]


SAGA_DEADLINE_PASSED: Final = "the saga's deadline passed"
TIME_IS_UP: Final = "time is up"


class Ends(StrEnum):
    """Why a watch stops, in the words of `StepAbandoned`; or that it was worth waiting."""

    ACCEPTED = "accepted"
    ANSWERED = "answered"
    """The step itself was refused, which says all; nothing is left to decide."""
    REFUSED = "refused"
    HOPELESS = "another branch was refused"


def ends(rule: Rule, known: Collection[Literal]) -> Ends | None:
    """Whether what is known ends the watch, however much time is left. Of several reasons the first one counts."""
    watch = rule.watch
    assert watch is not None
    if succeeded(watch.of) in known:
        return Ends.ACCEPTED
    if refused(watch.of) in known:
        return Ends.REFUSED if watch.is_wait else Ends.ANSWERED
    return Ends.HOPELESS if holds(watch.hopeless, known) else None


def why_abandoned(rule: Rule, end: Ends | None, *, is_cancelled: bool, over: str) -> str:
    """Why a watch stops waiting, in the words of `StepAbandoned`; empty as long as it goes on.

    Args:
        end: as `ends` says. over: `TIME_IS_UP` or `SAGA_DEADLINE_PASSED`; empty if it has time.
    """
    assert rule.watch is not None
    if end is Ends.REFUSED:
        assert isinstance(rule.watch.of, Wait)
        assert rule.watch.of.refused_by is not None
        return f"refused by {name_of(rule.watch.of.refused_by)}"
    if is_cancelled:
        return "cancelled"
    return end.value if end is Ends.HOPELESS else over


def decision_of(rule: Rule, reason: str) -> StepAccepted | StepAbandoned:
    """What a watch tells everybody: accepted, or abandoned for a reason."""
    assert rule.watch is not None
    service, step = rule.service, rule.watch.of.name
    if reason:
        return StepAbandoned(service=service, step=step, reason=reason)
    return StepAccepted(service=service, step=step)


def literal_of(rule_id: str, event: type[Event]) -> Literal:
    """What the answer to a rule's command makes known.

    Raises:
        MessageError: an undo or an end was refused. Taken for its step's refusal it would look as if nothing remained.
    """
    if issubclass(event, StepAccepted | StepAbandoned):
        outcome = Outcome.ACCEPTED if issubclass(event, StepAccepted) else Outcome.ABANDONED
        return Literal(rule_id.removesuffix(WITHIN_SUFFIX), outcome)
    if issubclass(event, Refusal):
        if rule_id.endswith(UNDO_SUFFIX) or rule_id in (COMPLETED, COMPENSATED):
            raise MessageError(f"{event.__name__} refuses {rule_id}, which cannot be refused, only retried until done")
        return Literal(rule_id, Outcome.REFUSED)
    return success_of(rule_id)


def infer(rules: Rules, event: type[Event]) -> Literal | None:
    """What a stranger's message, which names no step, makes known. None: it is not one of this saga's.

    Raises:
        MessageError: several steps can have caused it.
    """
    found = [literal for literal, events in rules.events.items() if event in events]
    if len(found) > 1:
        steps = ", ".join(sorted(literal.step for literal in found))
        raise MessageError(f"{event.__name__} names no step, and each of {steps} can have caused it; set ce-sagastep")
    return found[0] if found else None


def status(rules: Rules, known: Collection[Literal]) -> Status:
    """Where the saga is, as far as these messages tell."""
    ends = {rule.id: rule for rule in rules.every if rule.id in (COMPLETED, COMPENSATED)}
    for name, reached, final in (
        (COMPLETED, rules.complete, Status.COMPLETED),
        (COMPENSATED, rules.clean, Status.COMPENSATED),
    ):
        if (ends[name].answered in known) if name in ends else holds(reached, known):
            return final
    # That somebody outside says no to a wait is decided by the one who waits.
    waits = {rule.id for rule in rules.every if rule.kind is Kind.WATCH}
    stops = (Outcome.REFUSED, Outcome.UNDONE, Outcome.ABANDONED)
    has_stopped = any(
        one.outcome in stops and not (one.outcome is Outcome.REFUSED and one.step in waits) for one in known
    )
    return Status.COMPENSATING if has_stopped else Status.RUNNING


def is_last(saga: Saga, rule_id: str) -> bool:
    """Whether the saga can be over once this rule's command is done."""
    ends = {rule.id for rule in saga.rules.every if rule.id in (COMPLETED, COMPENSATED)}
    return rule_id in ends or len(ends) < 2
