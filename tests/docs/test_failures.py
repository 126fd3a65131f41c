"""`docs/failures.md` has a row for each of the seventy failures, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/failures.md").read_text()
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+) \| (.+?) \|$", re.MULTILINE)
NAME = re.compile(r"`(?:(?P<file>tests/[\w/.]+\.py)::)?(?P<test>test_\w+)`")
SHORT = re.compile(r"test_\d+")


def functions_of(folder: Path) -> dict[Path, set[str]]:
    found: dict[Path, set[str]] = {}
    for file in folder.rglob("*.py"):
        nodes = ast.walk(ast.parse(file.read_text()))
        found[file] = {
            node.name
            for node in nodes
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        }
    return found


TESTS = {**functions_of(ROOT / "tests"), **functions_of(ROOT / "src/minuet/testing")}
MUTATIONS = {
    node.name
    for node in ast.walk(ast.parse((ROOT / "tests/simulation/test_mutations.py").read_text()))
    if isinstance(node, ast.FunctionDef) and any("breaks" in ast.unparse(one) for one in node.decorator_list)
}


def test_each_of_the_seventy_has_a_row() -> None:
    assert [int(number) for number, *_ in ROW.findall(PAGE)] == list(range(1, 71))


@pytest.mark.parametrize(("file", "test"), sorted(set(NAME.findall(PAGE))))
def test_every_test_that_is_named_is_there(file: str, test: str) -> None:
    known = {name for path, names in TESTS.items() for name in names if not file or path == ROOT / file}
    if SHORT.fullmatch(test):
        test += "_"
        assert any(name.startswith(test) for name in known), f"no test's name begins with {test}"
    else:
        assert test in known, f"{file or 'nowhere'} has no {test}"


def test_every_row_names_a_test_or_says_why_there_is_none() -> None:
    for number, _, _, where in ROW.findall(PAGE):
        files = re.findall(r"`(tests/[\w/]+\.py)`", where)
        assert all((ROOT / file).exists() for file in files), number
        assert NAME.search(where) or files or "mutation" in where or "simulator" in where, f"{number}: {where}"


def test_every_mutation_that_is_named_is_there() -> None:
    named = re.findall(r"mutations? ((?:`\w+`(?:, )?)+)", PAGE)
    names = [name for group in named for name in re.findall(r"`(\w+)`", group)]
    assert len(names) > 8
    assert [name for name in names if name not in MUTATIONS] == []


def test_every_test_of_a_failure_is_named() -> None:
    """By its number at least: a test that no row names is one that nobody finds."""
    rows = {number: where for number, _, _, where in ROW.findall(PAGE)}
    for file, names in TESTS.items():
        if file.parent != ROOT / "tests/failures":
            continue
        for name in names:
            number = name.split("_")[1]
            assert f"`test_{number}`" in rows.get(number, ""), f"{file.name}: {name}"
