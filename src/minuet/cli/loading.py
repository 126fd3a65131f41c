"""From what the command line says to an app, its settings, and what its services have stored."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from minuet.core.errors import ConfigurationError, MinuetError

if TYPE_CHECKING:
    from minuet.app import App
    from minuet.bootstrap import System
    from minuet.core.saga import Saga
    from minuet.observer import Observer
    from minuet.settings import Settings

T = TypeVar("T")

SHOP = "minuet_shop:app"
REMEMBERED = "app.json"
WAYS = ("choreography", "orchestration")

AppOption = Annotated[
    str | None,
    typer.Option("--app", metavar="MODULE:NAME", help=f"By default the app that last ran on the data, or {SHOP}."),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", file_okay=False, help="The folder of the databases; by default .minuet."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The settings; by default minuet.toml, if there is one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]


def load_app(name: str) -> App:
    """The app that a name like ``minuet_shop:app`` stands for.

    Raises:
        ConfigurationError: there is no such app; says what is wrong with the name.
        DefinitionError: the app itself is declared wrongly.
    """
    from minuet.app import App

    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"{name!r} names no app; write module:name, as in {SHOP}")
    found = import_named(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"module {module_name} has no {attribute!r}; which name has the App there?")
        found = getattr(found, part)
    if not isinstance(found, App):
        raise ConfigurationError(f"{name} is a {type(found).__name__}, not a minuet App")
    return found


def import_named(module_name: str) -> Any:
    # As Python does for a script: the folder that one stands in counts.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(module_name)
    except MinuetError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigurationError(f"there is no module {module_name} here ({Path.cwd()})") from error
        raise ConfigurationError(f"importing {module_name} failed: {error}; is its package installed?") from error
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        if "asyncio.run() cannot be called" in why:
            why += '; put what runs the app under: if __name__ == "__main__":'
        raise ConfigurationError(f"importing {module_name} failed: {why}") from error


def find_saga(app: App, name: str) -> Saga:
    """The app's saga of that name.

    Raises:
        ConfigurationError: there is none; names those that there are.
    """
    saga = app.saga(name)
    if saga is None:
        there = ", ".join(app.current_sagas) or "none"
        raise ConfigurationError(f"app {app.name} has no saga {name!r}; it has {there}; name another app with --app")
    return saga


def load_settings(config: Path | None, **flags: Any) -> Settings:
    """The settings; flags that are None do not count."""
    from minuet.settings import Settings

    return Settings.load(config, **flags)


def remember_app(data: Path, name: str) -> None:
    """Let commands that only read the data know whose it is."""
    from minuet.settings import writable

    draft = writable(data) / f"{REMEMBERED}.{id(name)}"
    draft.write_text(json.dumps({"app": name}))
    draft.replace(data / REMEMBERED)


def remembered_app(data: Path) -> str:
    """The app that last ran on the data; if there was none, the reference system."""
    try:
        return str(json.loads((data / REMEMBERED).read_text())["app"])
    except (OSError, ValueError, KeyError, TypeError):
        return SHOP


@asynccontextmanager
async def observing(app_name: str | None, data: Path | None, config: Path | None) -> AsyncIterator[Observer]:
    """Open what the services have stored, whether they run or not.

    Raises:
        ConfigurationError: there is nothing.
    """
    from minuet.bootstrap import stored

    settings = load_settings(config, data=data)
    _hint_at_demo(settings.data)
    app = load_app(app_name or remembered_app(settings.data))
    async with stored(app, settings) as observer:
        yield observer


@asynccontextmanager
async def outside_of(app_name: str | None, data: Path | None, config: Path | None) -> AsyncIterator[System]:
    """The app as somebody sees it who runs none of it, to begin, cancel and hand over.

    Raises:
        ConfigurationError: nothing is stored that another process can see.
    """
    from minuet.bootstrap import outside

    settings = load_settings(config, data=data)
    _hint_at_demo(settings.data)
    async with outside(load_app(app_name or remembered_app(settings.data)), settings) as system:
        yield system


def _hint_at_demo(data: Path) -> None:
    """`minuet demo` keeps two folders of data in the one that it is given."""
    kept = [data / way for way in WAYS if (data / way / REMEMBERED).exists()]
    if kept and not (data / REMEMBERED).exists():
        folders = " or ".join(map(str, kept))
        raise ConfigurationError(f"{data} is what minuet demo kept; choose --data {folders}")


def run_async(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's asynchronous half."""
    import asyncio

    return asyncio.run(work())
