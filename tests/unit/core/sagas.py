"""Sagas made at random, what must come of them, and a small executor that runs them in either coordination.

Everything random is asked of a `Choose`, so that Hypothesis and a seeded generator share this code.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from typing import Any, Literal, cast

from hypothesis import strategies as st
from pydantic import create_model

from minuet.core.compile import BEGUN, Kind, Rule, Rules
from minuet.core.coordinator import Ends, due, ends, literal_of, newly_due
from minuet.core.formula import Literal as Known
from minuet.core.formula import Outcome
from minuet.core.messages import (
    Command,
    Event,
    Refusal,
    StepAbandoned,
    StepAccepted,
    StepRefused,
    refusals,
    successes,
)
from minuet.core.projection import Coordination, heard, project, services
from minuet.core.recipe import Builder
from minuet.core.saga import Action, Node, Nothing, Saga, Step, Wait, parallel, sequence, step, wait_for

Choose = Callable[[int], int]
"""Picks a number from 0 up to, but not including, its argument. 0 is the plainest choice: Hypothesis shrinks to it."""

SERVICES = ("red", "green", "blue", "white")
STEPS_MAX = 10


def chooser(draw: Callable[[st.SearchStrategy[int]], int]) -> Choose:
    return lambda count: draw(st.integers(0, count - 1))


def seeded(seed: int) -> Choose:
    return random.Random(seed).randrange


# ---------------------------------------------------------------------------------------------------------------------
# Messages. They are made once each, because building a pydantic class is slow.


class Begun(Event, channel="things"):
    thing_id: str
    origin: str
    latest: str


@cache
def event(name: str, base: type[Event] = Event) -> type[Event]:
    kwargs = {"channel": name.lower()}
    return create_model(name, __base__=base, __module__=__name__, __cls_kwargs__=kwargs, latest=(str, ...))


@cache
def command(name: str, service: str, answers: tuple[type[Event], ...], source: str) -> type[Command]:
    """A command with one field: ``origin``, which only the beginning provides, or ``latest``, which all events do."""
    kwargs = {"service": service, "answers": answers}
    fields: dict[str, Any] = {source: (str, ...)}
    return create_model(name, __base__=Command, __module__=__name__, __cls_kwargs__=kwargs, **fields)


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def build_from(made: type[Command], events: tuple[type[Event], ...]) -> Builder:
    """A function that takes one of the events by its type and puts it into the command."""

    def build(fact: Event) -> Command:
        return made(latest=digest("built", fact))  # type: ignore[call-arg]

    build.__annotations__ = {"fact": functools.reduce(operator.or_, cast(Any, events)), "return": made}
    return build


def build_from_refusal(made: type[Command]) -> Builder:
    def build(begun: Begun, refusal: Refusal) -> Command:
        return made(latest=digest(begun, refusal))  # type: ignore[call-arg]

    build.__annotations__ = {"begun": Begun, "refusal": Refusal, "return": made}
    return build


# ---------------------------------------------------------------------------------------------------------------------
# The shape of a saga, independent of minuet's own classes, so that the checks do not lean on what they check.

Undo = Literal["command", "nothing", "none"]
Relation = Literal["before", "after", "beside"]


@dataclass(frozen=True)
class Leaf:
    index: int


@dataclass(frozen=True)
class Group:
    kind: Literal["sequence", "parallel"]
    parts: tuple[Shape, ...]


Shape = Leaf | Group


@dataclass
class Draft:
    """What is chosen about one step."""

    name: str
    number: int
    service: str
    undo_service: str
    undo: Undo
    refusable: bool
    by_deadline: bool
    source: Literal["origin", "latest", "function"]
    within: bool = False
    waits: bool = False

    @property
    def may_fail(self) -> bool:
        return self.refusable or self.within or self.waits

    @property
    def watch(self) -> str:
        """The rule of the one place that waits for it; empty if nobody does."""
        return self.name if self.waits else f"{self.name}/within" if self.within else ""


@dataclass(frozen=True)
class Case:
    """A saga, and what its participants, and those who wait, are going to decide.

    Attributes:
        abandoning: what is waited for too long.
        silent: of the waits among it, those for which no event ever comes.
    """

    saga: Saga
    shape: Group
    drafts: tuple[Draft, ...]
    refusing: frozenset[str]
    abandoning: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return (
            f"{in_words(self.shape, self.drafts)}; refusing: {', '.join(sorted(self.refusing)) or 'nobody'}; "
            f"abandoned: {', '.join(sorted(self.abandoning)) or 'nothing'}"
        )


def in_words(shape: Shape, drafts: tuple[Draft, ...]) -> str:
    if isinstance(shape, Leaf):
        draft = drafts[shape.index]
        if draft.waits:
            return f"wait {draft.name}"
        refusable = ("?" if draft.refusable else "") + (" within" if draft.within else "")
        return f"{draft.name}{refusable}@{draft.service}/{draft.undo}@{draft.undo_service}({draft.source})"
    inside = ", ".join(in_words(part, drafts) for part in shape.parts)
    return f"[{inside}]" if shape.kind == "sequence" else f"parallel({inside})"


def leaves(shape: Shape) -> Iterator[int]:
    if isinstance(shape, Leaf):
        yield shape.index
        return
    for part in shape.parts:
        yield from leaves(part)


def relations(shape: Shape) -> dict[tuple[int, int], Relation]:
    """For each pair of steps (a, b), where a stands to b."""
    found: dict[tuple[int, int], Relation] = {}
    if isinstance(shape, Leaf):
        return found
    for at, part in enumerate(shape.parts):
        found |= relations(part)
        for other in shape.parts[at + 1 :]:
            for a in leaves(part):
                for b in leaves(other):
                    found[a, b] = "before" if shape.kind == "sequence" else "beside"
                    found[b, a] = "after" if shape.kind == "sequence" else "beside"
    return found


def must_not_refuse(index: int, drafts: tuple[Draft, ...], related: dict[tuple[int, int], Relation]) -> bool:
    """Whether something that cannot be undone may be done when this step decides."""
    others = (other for other in range(len(drafts)) if other != index and drafts[other].undo == "none")
    return any(related[other, index] != "after" for other in others)


def may_refuse(index: int, drafts: tuple[Draft, ...], related: dict[tuple[int, int], Relation]) -> bool:
    """Whether minuet may still give up on this step: nothing irrevocable is done and a later refusal is possible."""
    if must_not_refuse(index, drafts, related):
        return False
    ahead = (other for other in range(len(drafts)) if other == index or related[other, index] != "before")
    return any(drafts[other].may_fail for other in ahead)


def choose_shape(choose: Choose) -> Group:
    indices = iter(range(STEPS_MAX))

    def part(size: int, depth: int) -> Shape:
        if size == 1:
            return Leaf(next(indices))
        # Down to two levels of parallel branches with sequences in between; below that, plain sequences.
        return group("parallel" if depth < 4 and choose(3) < 2 else "sequence", size, depth + 1)

    def group(kind: Literal["sequence", "parallel"], size: int, depth: int) -> Group:
        parts: list[Shape] = []
        left = size
        while left:
            least_left = 1 if kind == "parallel" and not parts else 0
            taken = 1 + choose(min(left - least_left, 6))
            parts.append(part(taken, depth) if taken < size else group("parallel", taken, depth + 1))
            left -= taken
        return Group(kind, tuple(parts))

    size = 1 + choose(STEPS_MAX)
    if size == 1:
        return Group("sequence", (Leaf(next(indices)),))
    return group("sequence", size, 0)


def choose_drafts(choose: Choose, shape: Shape) -> tuple[Draft, ...]:
    """Every step by itself; the whole is perhaps not allowed."""
    undos: tuple[Undo, ...] = ("command", "command", "command", "nothing")
    if choose(3) == 2:
        undos = (*undos, "none")
    drafts: list[Draft] = []
    for index in leaves(shape):
        service = SERVICES[choose(len(SERVICES))]
        drafts.append(
            Draft(
                name=f"s{index}",
                # Now and then two steps send the same command, so that only the step's name tells their answers apart.
                number=index if choose(4) < 3 else choose(index + 1),
                service=service,
                undo_service=service if choose(3) < 2 else SERVICES[choose(len(SERVICES))],
                undo=undos[choose(len(undos))],
                refusable=choose(2) == 1,
                by_deadline=choose(5) == 4,
                source=("origin", "latest", "function")[choose(3)],
            )
        )
    return tuple(drafts)


def build_saga(choose: Choose, shape: Group, drafts: tuple[Draft, ...]) -> Saga:
    related = relations(shape)

    def action(made: Callable[[str], type[Command]], draft: Draft, known: list[int]) -> Action:
        if draft.source != "function":
            return made(draft.source)
        sources: list[tuple[type[Event], ...]] = [(Begun,), *(dones(drafts[index]) for index in known)]
        return build_from(made("latest"), sources[choose(len(sources))])

    def undo(draft: Draft, known: list[int]) -> Action | Nothing | None:
        if draft.undo == "none":
            return None
        if draft.undo == "nothing":
            return Nothing("it leaves no trace")
        answers = (event(f"Undone{draft.number}"),)
        return action(
            lambda source: command(f"Undo{draft.number}", draft.undo_service, answers, source),
            draft,
            [*known, index_of(draft)],
        )

    def node(part: Shape) -> Node:
        if isinstance(part, Group):
            return (sequence if part.kind == "sequence" else parallel)(*map(node, part.parts))
        draft = drafts[part.index]
        if draft.waits:
            return wait_for(event(f"Heard{draft.number}"), name=draft.name)
        known = [other for other in range(len(drafts)) if related.get((other, part.index)) == "before"]
        declared = draft.refusable and not draft.by_deadline
        answers = (*dones(draft), event(f"No{draft.number}", Refusal)) if declared else dones(draft)
        deadline = timedelta(minutes=1) if draft.refusable and draft.by_deadline else None
        do = action(lambda source: command(f"Do{draft.number}", draft.service, answers, source), draft, known)
        within = timedelta(minutes=1) if draft.within else None
        return step(do, name=draft.name, undo=undo(draft, known), deadline=deadline, within=within)

    def index_of(draft: Draft) -> int:
        return drafts.index(draft)

    whole = node(shape)
    assert not isinstance(whole, Step | Wait)
    ended = command("End", SERVICES[choose(len(SERVICES))], (event("Ended"),), "latest")
    completed = (None, ended, build_from(ended, (Begun,)))[choose(3)]
    compensated = (None, ended, build_from_refusal(ended))[choose(3)]
    return Saga(
        "Random", begins_with=Begun, key="thing_id", steps=[whole], completed=completed, compensated=compensated
    )


def dones(draft: Draft) -> tuple[type[Event], ...]:
    """The events of a step's success; some commands have two. Of a wait, what it waits for."""
    if draft.waits:
        return (event(f"Heard{draft.number}"),)
    alternatives = (event(f"AlsoDone{draft.number}"),) if draft.number % 3 == 2 else ()
    return (event(f"Done{draft.number}"), *alternatives)


def choose_case(choose: Choose, *, waits: bool = False) -> Case:
    """A saga that minuet must accept, and decisions that its participants are entitled to.

    Args:
        waits: some of its steps are waited for only so long, and some of its parts wait for an event from outside.
    """
    shape = choose_shape(choose)
    drafts = choose_drafts(choose, shape)
    related = relations(shape)
    for index, draft in enumerate(drafts):
        draft.refusable = draft.refusable and not must_not_refuse(index, drafts, related)
    if waits:
        choose_waits(choose, drafts, related)
    saga = build_saga(choose, shape, drafts)
    entitled = [
        draft.name for index, draft in enumerate(drafts) if may_refuse(index, drafts, related) and not draft.waits
    ]
    refusing = frozenset(name for name in entitled if choose(4) == 3)
    watched = [draft for draft in drafts if draft.watch and draft.name not in refusing]
    abandoning = [draft for draft in watched if choose(3) == 2]
    silent = frozenset(draft.name for draft in abandoning if draft.waits and choose(2))
    return Case(saga, shape, drafts, refusing, frozenset(draft.name for draft in abandoning), silent)


def choose_waits(choose: Choose, drafts: tuple[Draft, ...], related: dict[tuple[int, int], Relation]) -> None:
    numbers: set[int] = set()
    for index, draft in enumerate(drafts):
        if must_not_refuse(index, drafts, related):
            continue
        kind = choose(4)
        # No two waits for one event, and at least one step.
        if kind == 3 and draft.number not in numbers and index > 0:
            draft.waits, draft.undo, draft.refusable = True, "nothing", False
            numbers.add(draft.number)
        elif kind == 2 and draft.undo != "none":
            draft.within = True


def two_refusals_at_once() -> Case:
    """Two branches refuse, and the saga's end is to say why: it must name the same refusal wherever it is decided."""

    def draft(name: str, number: int) -> Draft:
        service = SERVICES[number]
        return Draft(name, number, service, service, "command", number > 0, by_deadline=False, source="origin")

    shape = Group("sequence", (Leaf(0), Group("parallel", (Leaf(1), Leaf(2)))))
    drafts = (draft("s0", 0), draft("s1", 1), draft("s2", 2))
    return Case(build_saga(lambda count: count - 1, shape, drafts), shape, drafts, frozenset({"s1", "s2"}))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    return choose_case(chooser(draw), waits=True)


@st.composite
def perhaps_forbidden(draw: st.DrawFn) -> tuple[Group, tuple[Draft, ...]]:
    """A shape and its steps, as they fall: some must be refused by minuet."""
    choose = chooser(draw)
    shape = choose_shape(choose)
    return shape, choose_drafts(choose, shape)


# ---------------------------------------------------------------------------------------------------------------------
# What must come of it, said without formulas: run the steps; if one refused, undo what was done.


@dataclass(frozen=True)
class Expected:
    succeeded: frozenset[str]
    refused: frozenset[str]
    undone: frozenset[str]
    accepted: frozenset[str]
    abandoned: frozenset[str]

    @property
    def complete(self) -> bool:
        return not self.refused | self.abandoned


def expected(case: Case) -> Expected:
    succeeded: set[str] = set()
    refused: set[str] = set()
    accepted: set[str] = set()
    abandoned: set[str] = set()

    def completes(shape: Shape) -> bool:
        if isinstance(shape, Leaf):
            draft = case.drafts[shape.index]
            if not draft.waits:
                (refused if draft.name in case.refusing else succeeded).add(draft.name)
            if draft.name in case.refusing:
                return False
            if draft.watch:
                (abandoned if draft.name in case.abandoning else accepted).add(draft.name)
            return draft.name not in case.abandoning
        if shape.kind == "sequence":
            return all(map(completes, shape.parts))  # stops at the first that does not
        branches = [completes(part) for part in shape.parts]  # a branch goes on whatever its siblings do
        return all(branches)

    complete = completes(case.shape)
    undoable = {draft.name for draft in case.drafts if draft.undo == "command"}
    return Expected(
        frozenset(succeeded),
        frozenset(refused),
        frozenset() if complete else frozenset(succeeded & undoable),
        frozenset(accepted),
        frozenset(abandoned),
    )


# ---------------------------------------------------------------------------------------------------------------------
# The executor.


@dataclass
class Site:
    """Where rules are evaluated: the orchestrator with all of them, or one service with its own."""

    rules: tuple[Rule, ...]
    hears: frozenset[type[Event]] | None
    known: dict[Known, Event] = field(default_factory=dict)
    due: set[str] = field(default_factory=set)


@dataclass
class Run:
    """What happened.

    Attributes:
        journal: ``("due", rule)`` when a rule became due, ``("done", rule)`` when its participant had decided.
        commands: the content of each command, by rule.
        outcomes: what each participant decided, by rule.
        published: everything that became known anywhere.
        problems: what must never be seen on the way.
    """

    journal: list[tuple[str, str]] = field(default_factory=list)
    commands: dict[str, Command] = field(default_factory=dict)
    outcomes: dict[str, Known] = field(default_factory=dict)
    published: dict[Known, Event] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def names(self, outcome: Outcome) -> set[str]:
        return {
            known.step for rule_id, known in self.outcomes.items() if known.outcome is outcome and rule_id[0] == "s"
        }


def sites_of(rules: Rules, coordination: Coordination) -> list[Site]:
    if coordination is Coordination.ORCHESTRATION:
        return [Site(rules.every, None)]
    own = (project(rules, service) for service in services(rules))
    return [Site(mine, frozenset(heard(rules, mine))) for mine in own]


def run(rules: Rules, case: Case, coordination: Coordination, choose: Choose) -> Run:
    """Deliver what is under way in any order, some of it twice, until nothing is."""
    sites = sites_of(rules, coordination)
    happened = Run()
    under_way: list[Callable[[], None]] = []

    def publish(rule_id: str, event: Event) -> None:
        literal = literal_of(rule_id, type(event))
        happened.outcomes[rule_id] = literal
        tell(literal, event)

    def tell(literal: Known, event: Event) -> None:
        happened.published[literal] = event
        for site in sites:
            if site.hears is None or type(event) in site.hears:
                under_way.extend([partial(learn, site, literal, event)] * (2 if choose(5) == 4 else 1))

    def learn(site: Site, literal: Known, event: Event) -> None:
        site.known[literal] = event
        for rule in newly_due(site.rules, site.known, literal):
            if rule.id not in site.due:
                happened.journal.append(("due", rule.id))
            site.due.add(rule.id)
            if rule.kind is Kind.WATCH:
                under_way.append(partial(decide, site, rule))
            else:
                under_way.append(partial(perform, rule, rule.recipe.build(site.known, {})))
        if site.due != {rule.id for rule in due(site.rules, site.known)}:
            happened.problems.append(f"newly_due lost a rule when {literal} was learnt")

    def decide(site: Site, rule: Rule) -> None:
        """What the one place that waits decides, as the case says; whenever it may."""
        assert rule.watch is not None
        name = rule.watch.of.name
        if rule.id in happened.outcomes:
            return
        if name in case.abandoning:
            happened.journal.append(("done", rule.id))
            publish(rule.id, StepAbandoned(service=rule.service, step=name, reason="time is up"))
        elif ends(rule, site.known) is Ends.ACCEPTED:
            happened.journal.append(("done", rule.id))
            publish(rule.id, StepAccepted(service=rule.service, step=name))

    def perform(rule: Rule, sent: Command) -> None:
        if happened.commands.setdefault(rule.id, sent) != sent:
            happened.problems.append(f"{rule.id} was sent with {happened.commands[rule.id]!r} and then with {sent!r}")
        if rule.id not in happened.outcomes:
            happened.journal.append(("done", rule.id))
            publish(rule.id, decision(rule, sent))

    def decision(rule: Rule, sent: Command) -> Event:
        content = digest(rule.id, sent)
        if rule.kind is Kind.DO and rule.id in case.refusing:
            declared = refusals(rule.command)
            if declared:
                return declared[0](latest=content)  # type: ignore[call-arg]
            return StepRefused(service=rule.service, command=rule.command.__name__, reason="too late")
        happy = successes(rule.command)
        return happy[int(content, 16) % len(happy)](latest=content)  # type: ignore[call-arg]

    publish(BEGUN.step, Begun(thing_id="t-1", origin="somewhere", latest="begun"))
    for draft in case.drafts:
        if draft.waits and draft.name not in case.silent:
            heard_event = event(f"Heard{draft.number}")(latest=f"heard by {draft.name}")  # type: ignore[call-arg]
            tell(Known(draft.name, Outcome.SUCCEEDED), heard_event)
    while under_way:
        under_way.pop(choose(len(under_way)))()
    return happened
