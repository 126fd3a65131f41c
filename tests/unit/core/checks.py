"""What holds for every saga, whoever evaluates its rules.

Each check yields what it found wrong: a test asks for nothing to be found, a mutation test for something.
"""

from __future__ import annotations

from collections.abc import Iterator

from minuet.core.compile import UNDO_SUFFIX, Rules
from minuet.core.coordinator import Status, status
from minuet.core.formula import Outcome, holds
from minuet.core.projection import Coordination
from minuet.core.saga import COMPENSATED, COMPLETED
from tests.unit.core.sagas import Case, Choose, Run, expected, relations, run


def violations(case: Case, rules: Rules, choose: Choose) -> list[str]:
    """Everything that is wrong with these rules in one run of each coordination."""
    central = run(rules, case, Coordination.ORCHESTRATION, choose)
    by_service = run(rules, case, Coordination.CHOREOGRAPHY, choose)
    found = list(differences(central, by_service))
    for name, happened in (("central", central), ("by service", by_service)):
        for check in (what_was_done, how_it_ended, order_of_steps, order_of_undos):
            found += [f"{name}: {problem}" for problem in check(case, rules, happened)]
        found += [f"{name}: {problem}" for problem in happened.problems]
    return found


def differences(central: Run, by_service: Run) -> Iterator[str]:
    """Both coordinations decide the same, of commands with the same content."""
    if central.outcomes != by_service.outcomes:
        yield f"outcomes differ: {central.outcomes} and {by_service.outcomes}"
    if central.commands != by_service.commands:
        yield f"commands differ: {central.commands} and {by_service.commands}"


def what_was_done(case: Case, rules: Rules, happened: Run) -> Iterator[str]:
    """Exactly the steps and undos that a plain walk over the saga does."""
    wanted = expected(case)
    for outcome, names in (
        (Outcome.SUCCEEDED, wanted.succeeded),
        (Outcome.REFUSED, wanted.refused),
        (Outcome.UNDONE, wanted.undone),
        (Outcome.ACCEPTED, wanted.accepted),
        (Outcome.ABANDONED, wanted.abandoned),
    ):
        if outcome is not Outcome.UNDONE and happened.names(outcome) != names:
            yield f"{outcome}: {sorted(happened.names(outcome))} instead of {sorted(names)}"
    undone = {rule_id.removesuffix(UNDO_SUFFIX) for rule_id in happened.outcomes if rule_id.endswith(UNDO_SUFFIX)}
    if undone != wanted.undone:
        yield f"undone: {sorted(undone)} instead of {sorted(wanted.undone)}"


def how_it_ended(case: Case, rules: Rules, happened: Run) -> Iterator[str]:
    """Complete or clean, never both, never neither."""
    known = happened.published
    complete, clean = holds(rules.complete, known), holds(rules.clean, known)
    if complete and clean:
        yield "complete and clean at once"
    if not complete and not clean:
        yield f"stuck: neither complete nor clean, knowing {sorted(map(str, known))}"
    wanted = Status.COMPLETED if expected(case).complete else Status.COMPENSATED
    if status(rules, known) is not wanted:
        yield f"{status(rules, known)} instead of {wanted}"
    ends = {name for name in (COMPLETED, COMPENSATED) if name in happened.outcomes}
    declared = {COMPLETED: case.saga.completed, COMPENSATED: case.saga.compensated}
    if ends != ({wanted.value} if declared[wanted.value] is not None else set()):
        yield f"ends reached: {sorted(ends)}"


def order_of_steps(case: Case, rules: Rules, happened: Run) -> Iterator[str]:
    """A step begins when every step before it is done; an undo, or an end, when what it answers to is."""
    at = {entry: position for position, entry in enumerate(happened.journal)}
    names = [draft.name for draft in case.drafts]
    for (a, b), relation in relations(case.shape).items():
        begun = at.get(("due", names[b]), -1)
        if relation != "before" or begun < 0:
            continue
        for done in (names[a], case.drafts[a].watch or names[a]):
            if at.get(("done", done), len(at)) > begun:
                yield f"{names[b]} began before {done} was done"
    for name in names:
        if ("due", name + UNDO_SUFFIX) in at and at.get(("done", name), len(at)) > at["due", name + UNDO_SUFFIX]:
            yield f"{name} was to be undone before it was done"
    # What was abandoned may go on after the end, and who waits may hear late that there is nothing left to wait for.
    late = {COMPLETED, COMPENSATED} | {draft.watch for draft in case.drafts}
    late |= {rule_id for name in case.abandoning for rule_id in (name, name + UNDO_SUFFIX)}
    for end in (COMPLETED, COMPENSATED):
        if ("due", end) in at and any(
            at["due", end] < position for (_, rule_id), position in at.items() if rule_id not in late
        ):
            yield f"{end} before everything was done"


def order_of_undos(case: Case, rules: Rules, happened: Run) -> Iterator[str]:
    """Of two steps that depend on each other, the later is undone before the undo of the earlier begins."""
    at = {entry: position for position, entry in enumerate(happened.journal)}
    names = [draft.name for draft in case.drafts]
    for (a, b), relation in relations(case.shape).items():
        earlier, later = names[a] + UNDO_SUFFIX, names[b] + UNDO_SUFFIX
        both = ("due", earlier) in at and ("done", later) in at and names[b] not in case.abandoning
        if relation == "before" and both and at["done", later] > at["due", earlier]:
            yield f"undo of {names[a]} began before {names[b]}, which builds on it, was undone"
