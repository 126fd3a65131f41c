"""The app of docs/writing-an-app.md is one, and does what the page says, in both coordinations."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from minuet import StepAbandoned, StepAccepted
from minuet.testing import participant

PAGE = Path(__file__).parents[2] / "docs" / "writing-an-app.md"


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's module has in it."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "library_app.py").write_text("\n".join(blocks))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "library_app", raising=False)
    return vars(importlib.import_module("library_app"))


def test_books_are_lent_until_none_is_left(given: Any, names: dict[str, Any]) -> None:
    ask = names["AskLoan"]
    (
        given(names["app"])
        .having(ask(loan_id="l1", book="Emma", member="m1"))
        .when(ask(loan_id="l2", book="Emma", member="m2"))
        .then(names["LoanClosed"](loan_id="l2", status="LENT"))
        .then_ends("completed")
    )
    (
        given(names["app"])
        .having(ask(loan_id="l1", book="Emma", member="m1"), ask(loan_id="l2", book="Emma", member="m2"))
        .when(ask(loan_id="l3", book="Emma", member="m3"))
        .then(names["NoCopyLeft"](loan_id="l3"))
        .then(names["LoanClosed"](loan_id="l3", status="REFUSED"))
        .then_ends("compensated")
    )


def test_a_loan_waits_until_it_is_approved_or_denied(given: Any, names: dict[str, Any]) -> None:
    asked = given(names["patient_app"]).when(names["AskLoan"](loan_id="l1", book="Emma", member="m1")).after(minutes=1)
    (
        asked.when(names["LoanApproved"](loan_id="l1"))
        .then_done(names["LendBook"], names["TakeFee"])
        .then(StepAccepted, step="take_fee")
        .then_ends("completed")
    )
    (
        asked.when(names["LoanDenied"](loan_id="l1"))
        .then(StepAbandoned, reason="refused by LoanDenied")
        .then_undone(names["LendBook"])
        .then_never(names["TakeFee"])
        .then_ends("compensated")
    )


def test_who_does_not_pay_gives_the_book_back(given: Any, names: dict[str, Any]) -> None:
    (
        given(names["app"])
        .when(names["AskLoan"](loan_id="l1", book="Emma", member="m1"))
        .and_when(participant("cash").refuses(names["TakeFee"], names["FeeRefused"](loan_id="l1")))
        .then_undone(names["LendBook"])
        .then_ends("compensated")
    )


def test_attempts_that_are_exhausted_end_as_the_page_says(given: Any, names: dict[str, Any]) -> None:
    asked = given(names["app"]).when(names["AskLoan"](loan_id="l1", book="Emma", member="m1"))
    asked.and_when(participant("library").fails(names["LendBook"], times=8)).then_ends("compensated")
    asked.and_when(participant("cash").fails(names["TakeFee"], times=5)).then_ends("needs operator")
