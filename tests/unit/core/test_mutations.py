"""The properties of `checks` are worth having: each rule of the compiler, broken on purpose, is found by them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

from minuet.core.compile import (
    BEGUN,
    Compiler,
    Kind,
    Rule,
    abandoned,
    accepted,
    compile_saga,
    complete,
    is_watched,
    refused,
    refused_anywhere,
    sources_of,
    succeeded,
    undone,
)
from minuet.core.formula import FALSE, Formula, all_of, any_of, literals
from minuet.core.recipe import Source
from minuet.core.saga import COMPENSATED, Action, Leaf, Node, ParallelOf, SequenceOf, Step, Wait, steps_of
from tests.unit.core.checks import violations
from tests.unit.core.sagas import Case, choose_case, seeded, two_refusals_at_once

SEEDS = range(250)


@cache
def case_of(seed: int) -> Case:
    return two_refusals_at_once() if seed % 10 == 0 else choose_case(seeded(seed), waits=seed % 2 == 1)


def found(compiler: type[Compiler]) -> Iterator[str]:
    """What the checks say about the sagas of this compiler, saga by saga."""
    for seed in SEEDS:
        case = case_of(seed)
        yield from violations(case, compile_saga(case.saga, compiler=compiler), seeded(seed))


def with_formula(rule: Rule, formula: Formula) -> Rule:
    """The rule with another formula, but still with what its command is filled from."""
    needed = all_of(formula, *rule.recipe.needs)
    return replace(rule, formula=needed, needs=literals(needed))


class ForgetsTheUndoOfTheFirstStep(Compiler):
    def step(self, step: Step, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        clean = super().step(step, start, abort, before)
        if step is self.saga.steps[0] and self.rules[-1].kind is Kind.UNDO:
            self.rules.pop()
        return clean


class SequenceIgnoresWhatAbortsIt(Compiler):
    def sequence(self, node: SequenceOf, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        return super().sequence(node, start, FALSE, before)


class UndoFormula(Compiler):
    """Replaces the formula of every undo."""

    def to_undo(self, step: Step, abort: Formula) -> Formula:
        raise NotImplementedError

    def step(self, step: Step, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        clean = super().step(step, start, abort, before)
        if self.rules[-1].kind is Kind.UNDO:
            self.rules[-1] = with_formula(self.rules[-1], self.to_undo(step, abort))
        return clean


class UndoesOnSuccessOrAbort(UndoFormula):
    def to_undo(self, step: Step, abort: Formula) -> Formula:
        return any_of(succeeded(step), abort)


class UndoesWhatMayNotHaveBeenDone(UndoFormula):
    def to_undo(self, step: Step, abort: Formula) -> Formula:
        return abort


class UndoesWhateverSucceeded(UndoFormula):
    def to_undo(self, step: Step, abort: Formula) -> Formula:
        return succeeded(step)


class ParallelIgnoresRefusalsOfSiblings(Compiler):
    def parallel(self, node: ParallelOf, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        return all_of(*(self.node(branch, start, abort, before) for branch in node.branches))


class ParallelIgnoresWhatAbortsIt(Compiler):
    def parallel(self, node: ParallelOf, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        return super().parallel(node, start, FALSE, before)


class ParallelIsCleanWhenOneBranchIs(Compiler):
    def parallel(self, node: ParallelOf, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        clean = []
        for branch in node.branches:
            siblings = (other for other in node.branches if other is not branch)
            clean.append(self.node(branch, start, any_of(abort, *map(refused_anywhere, siblings)), before))
        return any_of(*clean)


class Sequence(Compiler):
    """A sequence whose formulas can be replaced one by one."""

    def begins(self, earlier: tuple[Node, ...], start: Formula) -> Formula:
        return complete(earlier[-1]) if earlier else start

    def abort(self, later: tuple[Node, ...], clean: Formula) -> Formula:
        return clean

    def sequence(self, node: SequenceOf, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        clean = abort
        for index in reversed(range(len(node.parts))):
            earlier, later = node.parts[:index], node.parts[index + 1 :]
            known = tuple(source for part in reversed(earlier) for source in sources_of(part))
            clean = self.node(
                node.parts[index], self.begins(earlier, start), self.abort(later, clean), (*known, *before)
            )
        return clean


class UndoDoesNotWaitForWhatCameAfter(Sequence):
    def abort(self, later: tuple[Node, ...], clean: Formula) -> Formula:
        return any_of(clean, *map(refused_anywhere, later))


class StartsEverythingAtOnce(Sequence):
    def begins(self, earlier: tuple[Node, ...], start: Formula) -> Formula:
        return BEGUN


class StartsWithThePartBefore(Sequence):
    def begins(self, earlier: tuple[Node, ...], start: Formula) -> Formula:
        return start


class GoesOnWhenOneBranchIsComplete(Sequence):
    def begins(self, earlier: tuple[Node, ...], start: Formula) -> Formula:
        if earlier and isinstance(earlier[-1], ParallelOf):
            return any_of(*map(complete, earlier[-1].branches))
        return super().begins(earlier, start)


class IsNeverCleanByAnUndo(Compiler):
    def step(self, step: Step, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        super().step(step, start, abort, before)
        return refused(step)


class IsCleanAsSoonAsItSucceededWithoutAnUndo(Compiler):
    def step(self, step: Step, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        clean = super().step(step, start, abort, before)
        return any_of(refused(step), succeeded(step)) if step.undo_command is None else clean


class EndsAsSoonAsSomethingIsRefused(Compiler):
    def end(self, name: str, formula: Formula, action: Action | None, before: tuple[Source, ...]) -> None:
        early = any_of(*map(refused, self.saga.steps)) if name == COMPENSATED else formula
        super().end(name, early, action, before)


class NamesWhicheverRefusalIsHeardFirst(Compiler):
    """What minuet once did: a compensated end did not wait for all refusals that it chooses from."""

    def end(self, name: str, formula: Formula, action: Action | None, before: tuple[Source, ...]) -> None:
        super().end(name, formula, action, before)
        if action is not None and self.rules[-1].recipe.needs_any:
            known = any_of(*map(refused, self.saga.steps))
            self.rules[-1] = with_formula(self.rules[-1], all_of(formula, known))


class UndoesNothingThatWasAbandoned(UndoFormula):
    """What succeeds after nobody waits for it any more would remain."""

    def to_undo(self, step: Step, abort: Formula) -> Formula:
        return all_of(succeeded(step), abort)


class IsNotCleanWhenAbandoned(Compiler):
    def step(self, step: Step, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        clean = super().step(step, start, abort, before)
        if not is_watched(step):
            return clean
        return any_of(refused(step), undone(step) if step.undo_command else all_of(accepted(step), abort))

    def wait(self, wait: Wait, start: Formula, abort: Formula) -> Formula:
        super().wait(wait, start, abort)
        return all_of(accepted(wait), abort)


class IsCleanWithoutWhatWasAccepted(Compiler):
    """A wait between two steps would stop the undoing."""

    def wait(self, wait: Wait, start: Formula, abort: Formula) -> Formula:
        super().wait(wait, start, abort)
        return abandoned(wait)


class ParallelIgnoresThatSiblingsWereAbandoned(Compiler):
    def parallel(self, node: ParallelOf, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
        clean = []
        for branch in node.branches:
            others = (step for other in node.branches if other is not branch for step in steps_of(other))
            clean.append(self.node(branch, start, any_of(abort, *map(refused, others)), before))
        return all_of(*clean)


class GoesOnBeforeItIsAccepted(Sequence):
    def begins(self, earlier: tuple[Node, ...], start: Formula) -> Formula:
        if earlier and isinstance(earlier[-1], Step):
            return succeeded(earlier[-1])
        return super().begins(earlier, start)


class NobodyWaits(Compiler):
    def watch(self, leaf: Leaf, start: Formula) -> None:
        if isinstance(leaf, Wait):
            super().watch(leaf, start)


MUTANTS = [
    UndoesNothingThatWasAbandoned,
    IsNotCleanWhenAbandoned,
    IsCleanWithoutWhatWasAccepted,
    ParallelIgnoresThatSiblingsWereAbandoned,
    GoesOnBeforeItIsAccepted,
    NobodyWaits,
    ForgetsTheUndoOfTheFirstStep,
    SequenceIgnoresWhatAbortsIt,
    UndoesOnSuccessOrAbort,
    UndoesWhatMayNotHaveBeenDone,
    UndoesWhateverSucceeded,
    ParallelIgnoresRefusalsOfSiblings,
    ParallelIgnoresWhatAbortsIt,
    ParallelIsCleanWhenOneBranchIs,
    UndoDoesNotWaitForWhatCameAfter,
    StartsEverythingAtOnce,
    StartsWithThePartBefore,
    GoesOnWhenOneBranchIsComplete,
    IsNeverCleanByAnUndo,
    IsCleanAsSoonAsItSucceededWithoutAnUndo,
    EndsAsSoonAsSomethingIsRefused,
    NamesWhicheverRefusalIsHeardFirst,
]


def test_the_real_compiler_has_no_violation() -> None:
    assert list(found(Compiler)) == []


def test_a_compiler_taken_apart_but_not_changed_has_no_violation() -> None:
    """Guards the mutants of `Sequence`: what is found in them is not merely the copy's fault."""
    assert list(found(Sequence)) == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_compiler_is_found(mutant: type[Compiler]) -> None:
    assert next(found(mutant), None) is not None
