"""From names to apps, and from a data folder to the app that it belongs to."""

from pathlib import Path

import pytest

from minuet import ConfigurationError
from minuet.cli.loading import SHOP, find_saga, load_app, remember_app, remembered_app
from tests.unit.cli import tiny


def test_an_app_is_found_by_module_and_name() -> None:
    assert load_app(tiny.APP) is tiny.app


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("minuet_shop", "write module:name, as in minuet_shop:app"),
        (":app", "write module:name"),
        ("no_such_module:app", "there is no module no_such_module here"),
        ("tests.unit.cli.nothing:app", "there is no module tests.unit.cli.nothing here"),
        ("tests.unit.cli.tiny:nothing", "has no 'nothing'"),
        ("tests.unit.cli.tiny:not_an_app", "is a str, not a minuet App"),
    ],
)
def test_a_wrong_name_is_told_with_what_is_wrong(name: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        load_app(name)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import no_such_package", "No module named 'no_such_package'; is its package installed"),
        ("1 / 0", "importing broken_app failed: ZeroDivisionError: division by zero"),
        ("def", "importing broken_app failed: SyntaxError"),
        (
            "raise RuntimeError('asyncio.run() cannot be called from a running event loop')",
            'put what runs the app under: if __name__ == "__main__":',
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, why: str
) -> None:
    (tmp_path / "broken_app.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError, match=why):
        load_app("broken_app:app")


def test_the_data_remembers_its_app(tmp_path: Path) -> None:
    assert remembered_app(tmp_path) == SHOP
    remember_app(tmp_path / "data", tiny.APP)
    assert remembered_app(tmp_path / "data") == tiny.APP
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["app.json"]


def test_data_that_cannot_be_written_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"^cannot write in /proc/foo: No such file or directory; choose"):
        remember_app(Path("/proc/foo"), tiny.APP)


def test_a_saga_that_the_app_has_not_is_told() -> None:
    assert find_saga(tiny.app, "Wishes").name == "Wishes"
    with pytest.raises(ConfigurationError, match="has no saga 'Buying'; it has Wishes; name another app with --app"):
        find_saga(tiny.app, "Buying")


@pytest.mark.parametrize("content", ["", "[]", "{}", '"x"', "{"])
def test_a_damaged_memory_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "app.json").write_text(content)
    assert remembered_app(tmp_path) == SHOP
