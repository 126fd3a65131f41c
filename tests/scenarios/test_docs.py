"""The code in docs/testing-sagas.md does what it says, and what is said of failures is what they say."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minuet.testing import Given, Simulation
from minuet.testing.scenario import Participant, Then

PAGE = (Path(__file__).parents[2] / "docs" / "testing-sagas.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NAMES: dict[str, Any] = {"__name__": "testing_sagas"}
WRONG = "test_that_is_wrong"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    if "app" not in NAMES:
        for block in BLOCKS:
            exec(compile(block, "docs/testing-sagas.md", "exec", dont_inherit=True), NAMES)
    return NAMES


@pytest.mark.parametrize("name", re.findall(r"^(?:async )?def (test_\w+)", PAGE, re.MULTILINE))
def test_each_test_of_the_tutorial(
    page: dict[str, Any],
    name: str,
    given: Callable[..., Given],
    simulation: Callable[..., Simulation],
    minuet_seed: int,
) -> None:
    test = page[name]
    fixtures: dict[str, Any] = {"given": given, "simulation": simulation}
    marks = getattr(test, "pytestmark", [])
    cases = [{mark.args[0]: value} for mark in marks for value in mark.args[1]] or [{}]
    for case in cases:
        arguments = {one: (fixtures | case)[one] for one in inspect.signature(test).parameters}
        if name == WRONG:
            with pytest.raises(AssertionError) as failed:
                test(**arguments)
            (shown,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
            assert str(failed.value).startswith(shown.replace("(seed 0)", f"(seed {minuet_seed})"))
        elif inspect.iscoroutinefunction(test):
            asyncio.run(test(**arguments))
        else:
            test(**arguments)


@pytest.mark.parametrize("kind", [Then, Participant])
def test_every_word_is_told_of(kind: type[Any]) -> None:
    told = set(re.findall(r"`(\w+)\(", PAGE))
    assert {name for name in vars(kind) if not name.startswith("_")} <= told
