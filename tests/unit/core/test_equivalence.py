"""For every saga, both coordinations do the same, whatever the order of delivery and however often a message comes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from minuet.core.compile import Rules
from minuet.core.errors import DefinitionError
from minuet.core.formula import All, Any, Formula, Literal, Outcome, all_of, any_of, holds, literals
from minuet.core.messages import Refusal
from minuet.core.projection import Coordination
from minuet.core.saga import Nothing, Part, Saga, Step, parallel, sequence, step
from tests.unit.core import checks
from tests.unit.core.sagas import (
    Begun,
    Case,
    Draft,
    Group,
    build_saga,
    cases,
    choose_case,
    chooser,
    command,
    event,
    expected,
    may_refuse,
    must_not_refuse,
    perhaps_forbidden,
    relations,
    run,
    seeded,
    two_refusals_at_once,
)

SEEDS = st.integers(0, 2**32 - 1)
# The order of delivery mostly comes from a seed, which is many times faster than drawing each choice; so does the saga
# where Hypothesis need not shrink it.


@given(case=cases(), order=SEEDS)
def test_central_and_per_service_evaluation_do_the_same_with_the_same_commands(case: Case, order: int) -> None:
    choose = seeded(order)
    rules = case.saga.rules
    central = run(rules, case, Coordination.ORCHESTRATION, choose)
    by_service = run(rules, case, Coordination.CHOREOGRAPHY, choose)
    assert not list(checks.differences(central, by_service))
    assert not central.problems + by_service.problems


@settings(max_examples=50)
@given(case=cases(), data=st.data())
def test_another_order_of_delivery_changes_nothing_and_shrinks_well(case: Case, data: st.DataObject) -> None:
    assume(len(case.drafts) <= 6)
    quiet = run(case.saga.rules, case, Coordination.CHOREOGRAPHY, lambda count: 0)
    shuffled = run(case.saga.rules, case, Coordination.CHOREOGRAPHY, chooser(data.draw))
    assert not list(checks.differences(quiet, shuffled))


@given(case=cases(), order=SEEDS, coordination=st.sampled_from(Coordination))
def test_a_saga_ends_complete_or_clean_with_exactly_the_expected_steps_done_and_undone(
    case: Case, order: int, coordination: Coordination
) -> None:
    happened = run(case.saga.rules, case, coordination, seeded(order))
    assert not list(checks.what_was_done(case, case.saga.rules, happened))
    assert not list(checks.how_it_ended(case, case.saga.rules, happened))


@given(case=cases(), order=SEEDS, coordination=st.sampled_from(Coordination))
def test_undos_go_backwards_along_each_dependency_and_steps_forwards(
    case: Case, order: int, coordination: Coordination
) -> None:
    happened = run(case.saga.rules, case, coordination, seeded(order))
    assert not list(checks.order_of_steps(case, case.saga.rules, happened))
    assert not list(checks.order_of_undos(case, case.saga.rules, happened))


@settings(max_examples=50)
@given(case=cases())
def test_minuet_knows_where_a_refusal_is_still_possible(case: Case) -> None:
    related = relations(case.shape)
    for index, draft in enumerate(case.drafts):
        rule = case.saga.rules.rule(draft.name)
        assert rule is not None
        assert rule.may_refuse == may_refuse(index, case.drafts, related), draft.name


@given(perhaps_forbidden())
def test_a_saga_is_accepted_exactly_when_no_refusal_can_follow_what_cannot_be_undone(
    chosen: tuple[Group, tuple[Draft, ...]],
) -> None:
    shape, drafts = chosen
    related = relations(shape)
    forbidden = any(draft.refusable and must_not_refuse(index, drafts, related) for index, draft in enumerate(drafts))
    with pytest.raises(DefinitionError, match="may be refused") if forbidden else nullcontext():
        build_saga(lambda count: 0, shape, drafts)


@given(order=SEEDS)
def test_a_compensated_saga_names_the_same_refusal_in_whichever_order_they_are_heard(order: int) -> None:
    case = two_refusals_at_once()
    assert not checks.violations(case, case.saga.rules, seeded(order))


def test_the_generated_sagas_are_worth_running() -> None:
    """Guards the guard: they nest two deep, refuse in several branches at once, and use each kind of undo."""
    made = [choose_case(seeded(seed)) for seed in range(400)]

    def depth(part: object) -> int:
        if not isinstance(part, Group):
            return 0
        return max(map(depth, part.parts)) + (part.kind == "parallel")

    assert sum(depth(case.shape) >= 2 for case in made) > 40
    assert max(len(case.drafts) for case in made) == 10
    assert sum(len(expected(case).refused) >= 2 for case in made) > 20
    assert sum(len(expected(case).undone) >= 2 for case in made) > 40
    assert sum(expected(case).complete for case in made) > 40
    assert {draft.undo for case in made for draft in case.drafts} == {"command", "nothing", "none"}
    assert sum(case.saga.rules.rule("compensated") is not None for case in made) > 40


def test_the_generated_sagas_wait_for_much() -> None:
    """Guards the guard: steps and waits are accepted and abandoned, beside each other and beside refusals."""
    made = [choose_case(seeded(seed), waits=True) for seed in range(400)]
    found = [expected(case) for case in made]
    kinds = [{(draft.waits, draft.name in case.abandoning) for draft in case.drafts if draft.watch} for case in made]
    for kind in ((True, True), (True, False), (False, True), (False, False)):
        assert sum(kind in one for one in kinds) > 60, kind
    assert sum(len(one.abandoned) >= 2 for one in found) > 20
    assert sum(bool(one.abandoned) and bool(one.refused) for one in found) > 20
    assert sum(bool(one.abandoned & one.undone) for one in found) > 40
    assert sum(one.complete and bool(one.accepted) for one in found) > 40
    assert sum(bool(case.silent) for case in made) > 40


# ---------------------------------------------------------------------------------------------------------------------
# Formulas.

SOME_LITERALS = [Literal(name, outcome) for name in "abc" for outcome in Outcome]
FORMULAS = st.recursive(
    st.sampled_from(SOME_LITERALS),
    lambda inner: st.builds(
        lambda join, parts: join(*parts), st.sampled_from([all_of, any_of]), st.lists(inner, max_size=4)
    ),
    max_leaves=12,
)


def plainly(formula: Formula, known: frozenset[Literal]) -> bool:
    """What a formula means, without any cleverness."""
    if isinstance(formula, Literal):
        return formula in known
    return (all if isinstance(formula, All) else any)(plainly(part, known) for part in formula.parts)


@given(FORMULAS, st.frozensets(st.sampled_from(SOME_LITERALS)), st.frozensets(st.sampled_from(SOME_LITERALS)))
@example(all_of(), frozenset(), frozenset())
@example(any_of(), frozenset(), frozenset(SOME_LITERALS))
def test_what_holds_still_holds_whatever_else_becomes_known(
    formula: Formula, known: frozenset[Literal], more: frozenset[Literal]
) -> None:
    assert holds(formula, known) <= holds(formula, known | more)


@given(FORMULAS, st.frozensets(st.sampled_from(SOME_LITERALS)))
def test_a_formula_holds_as_it_reads_and_depends_on_its_literals_only(
    formula: Formula, known: frozenset[Literal]
) -> None:
    assert holds(formula, known) == plainly(formula, known)
    assert holds(formula, known) == holds(formula, known & literals(formula))


@given(st.lists(FORMULAS, max_size=4), st.frozensets(st.sampled_from(SOME_LITERALS)))
def test_simplifying_does_not_change_the_meaning(parts: list[Formula], known: frozenset[Literal]) -> None:
    assert holds(all_of(*parts), known) == plainly(All(tuple(parts)), known)
    assert holds(any_of(*parts), known) == plainly(Any(tuple(parts)), known)


@settings(max_examples=50)
@given(cases(), SEEDS)
def test_every_rule_of_a_saga_is_monotone(case: Case, seed: int) -> None:
    choose = seeded(seed)
    known: set[Literal] = set()
    true: set[str] = set()
    every = list(case.saga.rules.events)
    while every:
        known.add(every.pop(choose(len(every))))
        now = {rule.id for rule in case.saga.rules.every if holds(rule.formula, known)}
        assert true <= now
        true = now


# ---------------------------------------------------------------------------------------------------------------------
# Sharing: without it, the formulas of the third family double with every stage.

DO = command("Do0", "red", (event("Done0"),), "origin")
ASK = command("Ask0", "red", (event("Done0"), event("No0", Refusal)), "origin")
UNDO = command("Undo0", "red", (event("Undone0"),), "origin")


def kept(name: str) -> Step:
    return step(DO, name=name, undo=Nothing("it leaves no trace"))


def taken_back(name: str) -> Step:
    return step(ASK, name=name, undo=UNDO)


def chain(size: int) -> Part:
    return sequence(*(kept(f"a{at}") for at in range(size)))


def wide(size: int) -> Part:
    return parallel(*(taken_back(f"a{at}") for at in range(size)))


def pairs(size: int) -> Part:
    return sequence(*(parallel(kept(f"a{at}"), kept(f"b{at}")) for at in range(size)))


def deep(size: int) -> Part:
    part: Part = parallel(taken_back("a"), taken_back("b"))
    for at in range(size - 1):
        part = parallel(taken_back(f"a{at}"), sequence(kept(f"b{at}"), part))
    return part


def compiled(part: Part) -> Rules:
    return Saga(
        "Big", begins_with=Begun, key="thing_id", steps=[taken_back("first"), part, step(ASK, name="last")]
    ).rules


def nodes(rules: Rules) -> int:
    seen: set[object] = set()
    stack: list[Formula] = [rules.complete, rules.clean, *(rule.formula for rule in rules.every)]
    while stack:
        node = stack.pop()
        mark = node if isinstance(node, Literal) else id(node)
        if mark not in seen:
            seen.add(mark)
            stack.extend(() if isinstance(node, Literal) else node.parts)
    return len(seen)


@pytest.mark.parametrize("family", [chain, wide, pairs, deep])
def test_formulas_grow_in_step_with_the_saga(family: Callable[[int], Part]) -> None:
    ten, twenty, forty = (nodes(compiled(family(size))) for size in (10, 20, 40))
    assert twenty - ten <= 10 * 13
    assert forty - twenty == 2 * (twenty - ten)
