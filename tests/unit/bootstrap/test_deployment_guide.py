"""What the guides for deployment and operating show are settings and commands that there are, and pages that exist."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from minuet.adapters.system import SystemIds
from minuet.bootstrap.stores import Stores
from minuet.bootstrap.topology import show_topology
from minuet.cli.loading import load_app
from minuet.cli.main import app as minuet
from minuet.settings import Settings

GUIDE = Path(__file__).parents[3] / "docs" / "deployment.md"
TEXT = GUIDE.read_text() + GUIDE.with_name("operating.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def lines(beginning: str) -> list[str]:
    return [
        line.removeprefix("$ ")
        for block in blocks("console")
        for line in block.splitlines()
        if line.startswith(f"$ {beginning}")
    ]


def test_there_is_something_to_check() -> None:
    assert len(blocks("toml")) >= 5
    assert {line.split()[1] for line in lines("minuet")} >= {"run", "sagas", "store", "topology"}


@pytest.mark.parametrize("shown", blocks("toml"))
def test_the_settings_fit_the_shop(shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("minuet.toml").write_text(shown)
    settings = Settings.load()
    shop = load_app("minuet_shop:app")
    assert show_topology(shop, settings)
    stores = Stores(settings.model_copy(update={"data": tmp_path}), SystemIds())
    assert all(stores.make(name, "") for name in shop.services)
    assert settings.participants.keys() <= shop.services.keys()


@pytest.mark.parametrize("line", lines("minuet"))
def test_the_commands_are_commands(line: str) -> None:
    result = CliRunner().invoke(minuet, [*shlex.split(line)[1:], "--help"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("line", lines("export"))
def test_the_variables_are_settings(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    name, _, value = shlex.split(line)[1].partition("=")
    monkeypatch.setenv(name, value)
    setting = name.removeprefix("MINUET_").partition("__")[0].lower()
    given = getattr(Settings.load(), setting)
    assert given == json.loads(value) if value.startswith("{") else value in given.values()


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", TEXT):
        assert not target or (GUIDE.parent / target).exists(), target
    headings = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in re.findall(r"^#+ (.*)$", TEXT, re.M)}
    assert set(re.findall(r"\]\(#([^)]*)\)", TEXT)) <= headings
