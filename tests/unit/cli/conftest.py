import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from minuet import Settings, running
from minuet.cli.loading import remember_app
from minuet.cli.main import app as minuet
from tests.unit.cli import tiny

Minuet = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Minuet:
    """Run `minuet` with these arguments, in a folder of its own, without a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINUET_DEBUG", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    return lambda *arguments, **options: CliRunner().invoke(minuet, [str(one) for one in arguments], **options)


@pytest.fixture
def as_json(run: Minuet) -> Callable[..., Any]:
    """Run a reading command; return what it says in JSON."""

    def read(*arguments: object) -> Any:
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return json.loads(result.stdout)

    return read


def perform(data: Path, *wishes: tuple[str, str], until: str | None = None) -> None:
    """Run the tiny app on the folder, make wishes, and stop it."""

    async def work() -> None:
        async with running(tiny.app, Settings(data=data)) as system:
            for wish_id, text in wishes:
                await system.send(tiny.Wish(wish_id=wish_id, text=text))
            for wish_id, _ in wishes:
                if wish_id not in tiny.broken:
                    await asyncio.wait_for(system.ended("Wishes", wish_id), 10)
                else:
                    await _parked(system, wish_id)
            if until:
                await asyncio.wait_for(system.ended("Wishes", until), 10)
            await system.drained()

    asyncio.run(work())


async def _parked(system: Any, wish_id: str) -> None:
    async with asyncio.timeout(10):
        while not any(wish_id in one.id for one in await system.observer.parked()):
            await asyncio.sleep(0.01)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A folder in which one wish was granted, one denied, and one is stuck with its thanks."""
    tiny.broken.add("w-3")
    folder = tmp_path / "data"
    perform(folder, ("w-1", "a pony"), ("w-2", "gold"), ("w-3", "peace"))
    remember_app(folder, tiny.APP)
    yield folder
    tiny.broken.clear()
    tiny.printed.clear()
