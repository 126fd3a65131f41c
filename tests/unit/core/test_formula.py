import pytest

from minuet.core.formula import (
    FALSE,
    TRUE,
    All,
    Any,
    Formula,
    Literal,
    Outcome,
    all_of,
    any_of,
    digest,
    holds,
    in_words,
    literals,
)

A, B, C = (Literal(name, Outcome.SUCCEEDED) for name in "abc")


def test_a_literal_is_written_and_read_as_its_step_and_outcome() -> None:
    assert str(Literal("charge", Outcome.REFUSED)) == "charge:refused"
    for outcome in Outcome:
        assert Literal.parse(str(Literal("charge", outcome))) == Literal("charge", outcome)


@pytest.mark.parametrize("text", ["charge", "charge:maybe", ""])
def test_what_is_no_literal_is_not_read_as_one(text: str) -> None:
    with pytest.raises(ValueError, match="Outcome"):
        Literal.parse(text)


def test_a_literal_holds_when_it_is_known() -> None:
    assert holds(A, {A})
    assert not holds(A, {B})
    assert not holds(A, {Literal("a", Outcome.REFUSED)})


@pytest.mark.parametrize(
    ("known", "both", "either"), [(set(), False, False), ({A}, False, True), ({B}, False, True), ({A, B}, True, True)]
)
def test_and_needs_all_or_needs_one(known: set[Literal], both: bool, either: bool) -> None:
    assert holds(all_of(A, B), known) is both
    assert holds(any_of(A, B), known) is either


def test_nothing_at_all_is_true_for_and_and_false_for_or() -> None:
    assert all_of() is TRUE
    assert any_of() is FALSE
    assert holds(TRUE, ())
    assert not holds(FALSE, {A, B, C})


def test_a_constant_decides_or_disappears() -> None:
    assert all_of(A, FALSE) is FALSE
    assert any_of(A, TRUE) is TRUE
    assert all_of(A, TRUE) is A
    assert any_of(A, FALSE) is A


def test_joining_merges_what_is_nested_and_drops_what_is_repeated() -> None:
    merged = all_of(A, all_of(B, A), B)
    assert isinstance(merged, All)
    assert merged.parts == (A, B)
    kept = any_of(A, all_of(B, C))
    assert isinstance(kept, Any)
    assert len(kept.parts) == 2
    assert any_of(kept, kept, A).parts == kept.parts  # type: ignore[union-attr]


def test_the_literals_of_a_formula_are_all_that_it_mentions() -> None:
    assert literals(any_of(A, all_of(B, C))) == {A, B, C}
    assert literals(TRUE) == frozenset()


def test_a_formula_is_read_aloud_with_brackets_where_they_are_needed() -> None:
    assert in_words(any_of(A, all_of(B, C)), word=lambda literal: literal.step) == "a or (b and c)"
    assert in_words(A) == "a:succeeded"
    assert (in_words(TRUE), in_words(FALSE)) == ("always", "never")


def test_a_digest_tells_formulas_apart_by_what_they_say() -> None:
    different = [
        A,
        B,
        all_of(A, B),
        any_of(A, B),
        all_of(B, A),
        any_of(A, all_of(B, C)),
        all_of(A, any_of(B, C)),
        TRUE,
        FALSE,
    ]
    assert len({digest(formula) for formula in different}) == len(different)
    assert digest(any_of(A, all_of(B, C))) == digest(any_of(A, all_of(B, C)))


def test_a_digest_does_not_depend_on_what_is_shared() -> None:
    shared = any_of(A, B)
    assert digest(All((shared, Any((C, shared))))) == digest(All((any_of(A, B), Any((C, any_of(A, B))))))


def test_a_formula_that_would_fill_the_world_if_written_out_is_evaluated_at_once() -> None:
    formula: Formula = A
    for _ in range(200):
        formula = All((Any((formula, B)), Any((formula, C))))
    assert not holds(formula, {B})
    assert holds(formula, {A})
    assert literals(formula) == {A, B, C}
    assert len(digest(formula)) == 64
