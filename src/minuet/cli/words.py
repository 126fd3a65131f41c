"""A saga's rules in the words of somebody who never saw a formula. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from minuet.app import App
from minuet.core.compile import BEGUN, UNDO_SUFFIX, Kind, Rule, accepted, is_watched, neighbours
from minuet.core.coordinator import due
from minuet.core.formula import FALSE, All, Formula, Literal, Outcome
from minuet.core.messages import Event, Refusal, channel_for, name_of, refusals, successes
from minuet.core.projection import needed, project
from minuet.core.saga import Saga, Wait

ANYBODY = "anybody"
"""Who tells what a saga waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """An event that a service listens to."""

    event: str
    channel: str
    sender: str
    is_refusal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Does:
    """What a service does, and when.

    Attributes:
        rule: the step's name; with ``/undo`` its undo; ``completed`` or ``compensated`` for the end.
        when: what must be known, in words.
        asks: the queries it asks first, and of whom.
        refusals: the answers that mean no. then_undone: what such an answer has undone, the first first.
        waits: what it waits for, if it does nothing else: ``for Approved, for 3 days at most``.
        delay: before it begins. deadline: until when it has to begin, counted from when it could.
    """

    rule: str
    kind: str
    when: str
    command: str
    route: str
    asks: tuple[str, ...]
    answers: tuple[str, ...]
    refusals: tuple[str, ...]
    then_undone: tuple[str, ...]
    until_done: bool
    waits: str = ""
    delay: str = ""
    deadline: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a service has to do with a saga.

    Attributes:
        reacts_to: events of the saga that it does something about by itself, without the saga knowing.
    """

    service: str
    listens: tuple[Heard, ...]
    does: tuple[Does, ...]
    reacts_to: tuple[Heard, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInWords:
    """A line of the orchestrator's table. Where it only waits, there is no service that it asks."""

    number: int
    step: str
    service: str
    command: str
    route: str
    when: str
    if_refused: str
    undo: str


def part_of(app: App, saga: Saga, service: str) -> Part:
    """What the service listens to and does when the saga is choreographed."""
    rules = project(saga.rules, service)
    return Part(
        service=service,
        listens=tuple(_heard(app, saga, rules)),
        # The undo of a step that nothing refusable stands beside or behind never comes, unless the step is abandoned.
        does=tuple(does(saga, rule) for rule in rules if rule.formula != FALSE),
        reacts_to=tuple(_reactions(app, saga, service)),
    )


def _heard(app: App, saga: Saga, rules: Sequence[Rule]) -> Iterable[Heard]:
    found: dict[tuple[str, str], Heard] = {}
    for literal in _in_order(saga, needed(rules)):
        sender = performer_of(saga, literal)
        if sender and sender == rules[0].service:
            continue  # its own answers it knows without hearing them
        for event in saga.rules.events[literal]:
            one = _one_heard(event, sender or (beginner_of(app, saga) if literal == BEGUN else ANYBODY))
            found.setdefault((one.event, one.channel), one)
    return found.values()


def _one_heard(event: type[Event], sender: str) -> Heard:
    return Heard(
        event=name_of(event), channel=channel_for(event, sender), sender=sender, is_refusal=issubclass(event, Refusal)
    )


def _reactions(app: App, saga: Saga, service: str) -> Iterable[Heard]:
    told = {event: performer_of(saga, literal) for literal, events in saga.rules.events.items() for event in events}
    declared = app.services.get(service)
    for reaction in declared.reactions if declared else ():
        event = reaction.message
        if issubclass(event, Event) and event in told:
            yield _one_heard(event, told[event] or beginner_of(app, saga))


def beginner_of(app: App, saga: Saga) -> str:
    """The service that publishes the event which begins the saga; empty if it is written elsewhere."""
    for service in app.services.values():
        if any(saga.begins_with in command.__contract__.answers for command in service.commands):
            return service.name
    return ""


def performer_of(saga: Saga, literal: Literal) -> str:
    """Whose word makes the literal known; empty for what comes from outside, as the event that begins the saga."""
    return saga.rules.teller(literal)


def _in_order(saga: Saga, literals: Iterable[Literal]) -> list[Literal]:
    order = [leaf.name for leaf in saga.leaves]
    outcomes = list(Outcome)
    return sorted(
        literals, key=lambda one: (order.index(one.step) if one.step in order else -1, outcomes.index(one.outcome))
    )


def does(saga: Saga, rule: Rule) -> Does:
    """A rule in words."""
    route = rule.command.__contract__.http
    return Does(
        rule=rule.id,
        kind=rule.kind.value,
        when=when(saga, rule.formula),
        command=name_of(rule.command),
        route=f"{route.method} {route.path}" if route else "",
        asks=tuple(_asked(rule)),
        answers=tuple(name_of(event) for event in successes(rule.command)),
        refusals=tuple(name_of(event) for event in refusals(rule.command)),
        then_undone=tuple(undone_by_refusal(saga, rule)) if rule.kind in (Kind.DO, Kind.WATCH) else (),
        until_done=not rule.may_refuse,
        waits=_waits(rule),
        delay=span(rule.delay) if rule.delay else "",
        deadline=span(rule.deadline) if rule.deadline else "",
    )


def _waits(rule: Rule) -> str:
    if rule.watch is None:
        return ""
    leaf = rule.watch.of
    what = name_of(leaf.event) if isinstance(leaf, Wait) else f"the outcome of {leaf.name}"
    no = f" or {name_of(leaf.refused_by)}" if isinstance(leaf, Wait) and leaf.refused_by else ""
    return f"for {what}{no}" + (f", for {span(rule.watch.within)} at most" if rule.watch.within else "")


def span(time: timedelta) -> str:
    """``3 days``, ``90 seconds``: in the largest unit that fits without a rest."""
    for name, one in (("day", timedelta(days=1)), ("hour", timedelta(hours=1)), ("minute", timedelta(minutes=1))):
        if time >= one and not time % one:
            return f"{time // one} {name}{'' if time == one else 's'}"
    return f"{time.total_seconds():g} seconds"


def _asked(rule: Rule) -> Iterable[str]:
    for fields in rule.recipe.queries.values():
        contract = fields.message.__contract__
        route = f" ({contract.http.method} {contract.http.path})" if contract.http else ""
        yield f"{contract.service} for {name_of(fields.message)}{route}"


def undone_by_refusal(saga: Saga, rule: Rule) -> list[str]:
    """The commands that take back what was done before, if this step is refused; in the order in which they come."""
    name = rule.watch.of.name if rule.watch else rule.id
    around = neighbours(saga.root)[name]
    known = {BEGUN, Literal(name, Outcome.ABANDONED if rule.watch else Outcome.REFUSED)}
    known |= {Literal(leaf.name, Outcome.SUCCEEDED) for leaf in (*around.before, *around.beside)}
    known |= {accepted(leaf) for leaf in (*around.before, *around.beside) if is_watched(leaf)}
    commands: list[str] = []
    while True:
        undos = [one for one in due(saga.rules.every, known) if one.kind is Kind.UNDO and one.answered not in known]
        if not undos:
            return commands
        commands += [name_of(one.command) for one in undos]
        known |= {one.answered for one in undos}


def when(saga: Saga, formula: Formula) -> str:
    """What has to be known: ``InventoryReserved and either a refusal by payment or PaymentRefunded``."""
    return _clause(saga, formula) or "that it began"


def _clause(saga: Saga, formula: Formula) -> str:
    if isinstance(formula, Literal):
        return _listed(_names(saga, [formula]))
    literals = _in_order(saga, [part for part in formula.parts if isinstance(part, Literal)])
    nested = [part for part in formula.parts if not isinstance(part, Literal)]
    if isinstance(formula, All):
        clauses = [*(_clause(saga, literal) for literal in literals), *(_nested(saga, part) for part in nested)]
        return (", and " if any(" or " in clause for clause in clauses) else " and ").join(clauses)
    return _listed([*_names(saga, literals), *(_nested(saga, part) for part in nested)])


def _nested(saga: Saga, formula: Formula) -> str:
    clause = _clause(saga, formula)
    return f"({clause})" if " and " in clause else clause


def _names(saga: Saga, literals: Sequence[Literal]) -> list[str]:
    """What makes one of the literals known: refusals by who refuses, for they are many, and the rest by name."""
    refused = {one: performer_of(saga, one) for one in literals if one.outcome is Outcome.REFUSED}
    refusers = [performer for performer in refused.values() if performer]
    names = [name for literal in literals if not refused.get(literal) for name in _events(saga, literal)]
    by = [f"a refusal by {_alternatives(list(dict.fromkeys(refusers)))}"] if refusers else []
    return list(dict.fromkeys((*by, *names)))


def _events(saga: Saga, literal: Literal) -> list[str]:
    """The events that make the literal known; with the step's name if another step has the same event."""
    if literal.outcome in (Outcome.ACCEPTED, Outcome.ABANDONED):
        return [f"that {literal.step} was {literal.outcome}"]
    names = []
    for event in saga.rules.events[literal]:
        is_shared = any(event in events for one, events in saga.rules.events.items() if one != literal)
        names.append(f"{name_of(event)} of {literal.step}" if is_shared else name_of(event))
    return names


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{'either ' if len(names) == 2 else 'one of '}{_alternatives(names)}"


def _alternatives(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else "".join(names)


def table_of(saga: Saga) -> list[StepInWords]:
    """The orchestrator's table: every step, and the ends."""
    return [_line(saga, number, rule) for number, rule in enumerate(_forward(saga), 1)]


def _forward(saga: Saga) -> list[Rule]:
    return [rule for rule in saga.rules.every if rule.kind is not Kind.UNDO]


def _line(saga: Saga, number: int, rule: Rule) -> StepInWords:
    undo = saga.rules.rule(rule.id + UNDO_SUFFIX)
    said = does(saga, rule)
    return StepInWords(
        number=number,
        step=rule.id,
        service="" if rule.watch else rule.service,
        command=f"waits {said.waits}" if rule.watch else said.command,
        route=said.route,
        when=said.when + (f", {said.delay} later" if said.delay else ""),
        if_refused=_consequence(rule, said),
        undo=name_of(undo.command) if undo else "",
    )


def _consequence(rule: Rule, said: Does) -> str:
    if said.until_done:
        return "tried until it is done"
    no = ", ".join(said.refusals) or "no refusal of its own"
    return f"{no}: then {', '.join(said.then_undone)}" if said.then_undone else f"{no}: nothing to undo"
