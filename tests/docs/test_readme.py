"""Every example of the README runs, and prints what the README says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from minuet.settings import Settings

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_example_prints_what_it_says(tmp_path: Path) -> None:
    example = blocks("python")[0]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == blocks("output")[0]
    assert not list(tmp_path.iterdir()), "the example leaves nothing behind"


def test_the_saga_shown_is_the_shops() -> None:
    shown = blocks("python")[1]
    source = (README.parent / "src/minuet_shop/process.py").read_text()
    for line in ("step(ReserveInventory, undo=ReleaseInventory)", "step(charge, undo=RefundPayment)", "step(ship)"):
        assert line in shown
        assert line in source


def test_the_settings_shown_are_settings(tmp_path: Path) -> None:
    (shown,) = blocks("toml")
    file = tmp_path / "minuet.toml"
    file.write_text(shown)
    loaded = Settings.load(file)
    assert loaded.coordination == tomllib.loads(shown)["coordination"]
    assert loaded.queries == {"GetOrder": "origin"}


def test_the_sentence_shown_is_true(given: object) -> None:
    (shown,) = [block for block in blocks("python") if "given(app)" in block]
    names: dict[str, object] = {}
    exec(
        "from minuet.testing import participant\nfrom minuet_shop import app\nfrom minuet_shop.contracts import *",
        names,
    )
    exec(shown, names)
    names["test_a_declined_card_gives_the_pieces_back"](given)  # type: ignore[operator]
