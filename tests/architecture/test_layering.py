"""The layers of ARCHITECTURE.md, asserted: who may import whom, what the pure core may use, what an import may do.

Everything is read from the syntax trees, so that an import inside a function, under TYPE_CHECKING, relative, or through
`import_module("...")` counts like any other.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
ROOT = "minuet"  # the layer of minuet/__init__.py, the public name
ALL = {
    *{"core", "codec", "ports", "app", "settings", "runtime", "doors"},
    *{"adapters", "observer", "testing", "bootstrap", "cli", ROOT},
}

# Keep this table the same as the picture in ARCHITECTURE.md.
MAY_IMPORT: dict[str, set[str]] = {
    "core": {"core"},
    "codec": {"core", "codec"},
    "ports": {"core", "codec", "ports"},
    "app": {"core", "app"},
    "settings": {"core", "settings"},
    "runtime": {"core", "codec", "ports", "app", "runtime"},
    "doors": {"core", "codec", "ports", "app", "runtime", "observer", "doors"},
    "adapters": {"core", "codec", "ports", "app", "adapters"},
    "observer": {"core", "codec", "ports", "app", "observer"},
    # A simulation runs the real wiring on adapters of its own.
    "testing": {"core", "codec", "ports", "app", "settings", "runtime", "adapters", "bootstrap", "testing"},
    "bootstrap": ALL - {"cli"},
    "cli": ALL,
    ROOT: {"core", "app"},
}
ROOT_MAY_IMPORT_LAZILY = {"bootstrap", "settings"}
PUBLIC_SUBPACKAGES = {"testing"}
SHARED_ADAPTERS = {"broker", "sql"}  # what brokers, and stores on SQL databases, have in common; all others are leaves

PURE_LAYERS = {"core", "codec"}
IMPURE_MODULES = {
    *{"asyncio", "concurrent", "multiprocessing", "os", "queue", "random", "secrets", "select", "selectors", "shutil"},
    *{"signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "uuid"},
}
PURE_THIRD_PARTY = {"annotated_types", "pydantic", "pydantic_core", "typing_extensions"}
IMPURE_CALLS = {"date.today", "datetime.now", "datetime.today", "datetime.utcnow", "input", "open", "print"}

HEAVY_MODULES = {"aiohttp", "fastapi", "rich", "sqlalchemy", "sqlite3", "typer", "uvicorn"}
WORLDLY_EVENTS = {
    *{"socket.__new__", "socket.bind", "socket.connect", "sqlite3.connect", "subprocess.Popen", "os.fork"},
    "threading.Thread.start",
}

MODULES = sorted((SRC / "minuet").rglob("*.py"))
SHOP_MODULES = sorted((SRC / "minuet_shop").rglob("*.py"))


# Reading imports


def name_of(path: Path) -> str:
    """The dotted name of the module at *path*: `minuet.core` for `minuet/core/__init__.py`."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(node: ast.AST, package: str) -> Iterator[str]:
    """Yield the dotted name of everything imported below *node*, which belongs to *package*.

    `from a import b` yields `a.b`, so that `from minuet import adapters` is seen as what it is.
    """
    for child in ast.walk(node):
        match child:
            case ast.Import():
                yield from (alias.name for alias in child.names)
            case ast.ImportFrom():
                above = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
                source = ".".join([*above, *([child.module] if child.module else [])])
                yield from (f"{source}.{alias.name}" for alias in child.names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                if name.startswith("."):
                    above = package.split(".")
                    level = len(name) - len(name.lstrip("."))
                    name = ".".join([*above[: len(above) - level + 1], name.lstrip(".")])
                yield name


def imports_in(path: Path) -> set[str]:
    return set(imports_of(ast.parse(path.read_text()), package_of(path)))


def package_of(path: Path) -> str:
    return name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]


def layer_of(path: Path) -> str:
    """The layer that the module at *path* is in: the first name below `minuet`."""
    relative = path.relative_to(SRC / "minuet")
    first = relative.parts[0].removesuffix(".py")
    return {"__init__": ROOT, "__main__": "cli", "codec_http": "codec"}.get(first, first)


def imported_layer(name: str) -> str | None:
    """The layer that importing *name* reaches, or None when it is not ours. `minuet.Saga` is the public root."""
    top, *below = name.split(".")
    if top != "minuet":
        return None
    first = "codec" if below[:1] == ["codec_http"] else "".join(below[:1])
    return first if first in ALL else ROOT


def imported_layers(names: set[str]) -> set[str]:
    return {layer for name in names if (layer := imported_layer(name))}


def adapter_of(name: str) -> str | None:
    """`sqlite` for `minuet.adapters.sqlite.store`, "" for the package `minuet.adapters` itself, None for all else."""
    match name.split("."):
        case ["minuet", "adapters", adapter, *_]:
            return adapter
        case ["minuet", "adapters"]:
            return ""
        case _:
            return None


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(SRC)))


# The guard, guarded


def test_the_guard_has_something_to_guard() -> None:
    assert {layer_of(path) for path in MODULES} >= {"core", "ports", "runtime", "adapters"}
    assert SHOP_MODULES


def test_every_layer_is_in_the_table() -> None:
    assert set(MAY_IMPORT) == ALL
    unknown = {layer_of(path) for path in MODULES} - ALL
    assert not unknown, "a new layer: say in MAY_IMPORT and in ARCHITECTURE.md who may import whom"


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("import minuet.adapters.sqlite", "minuet.runtime", "minuet.adapters.sqlite"),
        ("from minuet import adapters", "minuet.runtime", "minuet.adapters"),
        ("from minuet.adapters import sqlite as s", "minuet.runtime", "minuet.adapters.sqlite"),
        ("from . import worker", "minuet.runtime", "minuet.runtime.worker"),
        ("from .middleware import retries", "minuet.runtime", "minuet.runtime.middleware.retries"),
        ("from .. import adapters", "minuet.runtime", "minuet.adapters"),
        ("from ..adapters.memory import Store", "minuet.runtime", "minuet.adapters.memory.Store"),
        ("from ...adapters import memory", "minuet.runtime.middleware", "minuet.adapters.memory"),
        ("def f():\n    from minuet import adapters", "minuet.core", "minuet.adapters"),
        ("if TYPE_CHECKING:\n    from minuet import adapters", "minuet.core", "minuet.adapters"),
        ("importlib.import_module('minuet.adapters.memory')", "minuet.core", "minuet.adapters.memory"),
        ("import_module('..adapters', __package__)", "minuet.core", "minuet.adapters"),
    ],
)
def test_every_way_to_import_is_seen(source: str, package: str, expected: str) -> None:
    assert list(imports_of(ast.parse(source), package)) == [expected]


@pytest.mark.parametrize(
    ("name", "layer"),
    [("minuet.core.saga", "core"), ("minuet", ROOT), ("minuet.Saga", ROOT), ("minuet_shop.app", None), ("json", None)],
)
def test_an_imported_name_belongs_to_its_layer(name: str, layer: str | None) -> None:
    assert imported_layer(name) == layer


@pytest.mark.parametrize(
    ("source", "impure"),
    [
        ("datetime.now(UTC)", {"datetime.now"}),
        ("datetime.datetime.utcnow()", {"datetime.utcnow"}),
        ("dt.date.today()", {"date.today"}),
        ("open('x')", {"open"}),
        ("datetime.fromisoformat(text)", set()),
        ("self.clock.now()", set()),
    ],
)
def test_every_impure_call_is_seen(source: str, impure: set[str]) -> None:
    assert impure_calls_in(ast.parse(source)) == impure


# The layers


@each([path for path in MODULES if layer_of(path) != ROOT])  # the root has a test of its own
def test_imports_point_inward(path: Path) -> None:
    layer = layer_of(path)
    allowed = MAY_IMPORT.get(layer, set())
    wrong = {name for name in imports_in(path) if imported_layers({name}) - allowed}
    assert not wrong, f"{layer} may import only {sorted(allowed)}"


def test_the_root_imports_declarations_at_once_and_the_rest_only_when_asked_for() -> None:
    tree = ast.parse((SRC / "minuet" / "__init__.py").read_text())
    at_once = imported_layers(set(executed_imports(tree)))
    ever = imported_layers(set(imports_of(tree, "minuet")))
    assert at_once - {ROOT} <= MAY_IMPORT[ROOT]
    assert ever - {ROOT} <= MAY_IMPORT[ROOT] | ROOT_MAY_IMPORT_LAZILY


def executed_imports(tree: ast.Module) -> Iterator[str]:
    """Yield what importing the root module *tree* executes: nothing inside a function or under TYPE_CHECKING."""
    pending: list[ast.AST] = [tree]
    while pending:
        match pending.pop():
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                pass
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"), orelse=orelse):
                pending.extend(orelse)
            case ast.Import() | ast.ImportFrom() | ast.Call() as node:
                yield from imports_of(node, "minuet")
            case node:
                pending.extend(ast.iter_child_nodes(node))


@each([path for path in MODULES if layer_of(path) == "adapters"])
def test_adapters_do_not_know_each_other(path: Path) -> None:
    assert not other_adapters(imports_in(path), own=adapter_of(name_of(path)))


def other_adapters(names: set[str], *, own: str | None) -> set[str]:
    """An adapter is a leaf: what two of them share belongs in ports, codec or core, or in `broker` or `sql`."""
    shared = set() if own in SHARED_ADAPTERS else SHARED_ADAPTERS
    return {name for name in names if adapter_of(name) not in {own, None} | shared}


@pytest.mark.parametrize(
    ("own", "name", "is_wrong"),
    [
        ("kafka", "minuet.adapters.broker.port.Broker", False),
        ("kafka", "minuet.adapters.kafka.broker", False),
        ("kafka", "minuet.adapters.rabbitmq", True),
        ("kafka", "minuet.adapters", True),
        ("broker", "minuet.adapters.broker.held", False),
        ("broker", "minuet.adapters.kafka", True),
    ],
)
def test_brokers_share_one_package_and_it_knows_none_of_them(own: str, name: str, *, is_wrong: bool) -> None:
    assert bool(other_adapters({name}, own=own)) == is_wrong


@each([path for path in MODULES if layer_of(path) != "cli"])
def test_only_the_command_line_knows_the_reference_system(path: Path) -> None:
    assert "minuet_shop" not in {name.split(".")[0] for name in imports_in(path)}


@each(SHOP_MODULES)
def test_the_reference_system_sees_only_what_every_user_sees(path: Path) -> None:
    wrong = {name for name in imports_in(path) if imported_layers({name}) - {ROOT} - PUBLIC_SUBPACKAGES}
    assert not wrong, "import it from `minuet` or `minuet.testing`; if it is not there, it is not public"


# The pure core


def impure_calls_in(tree: ast.AST) -> set[str]:
    calls = (ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {".".join(call.split(".")[-2:]) for call in calls} & IMPURE_CALLS


@each([path for path in MODULES if layer_of(path) in PURE_LAYERS])
def test_the_core_is_pure(path: Path) -> None:
    packages = {name.split(".")[0] for name in imports_in(path)}
    assert not packages & IMPURE_MODULES
    assert packages - sys.stdlib_module_names <= PURE_THIRD_PARTY | {"minuet"}
    assert not impure_calls_in(ast.parse(path.read_text()))


# What an import does

IMPORTER = """
import importlib, json, sys, threading
watched, worldly = sys.argv[1].split(), []
def note(event, args):
    if event in watched:
        worldly.append(event)
sys.addaudithook(note)
start = threading.Thread.start  # Python tells auditors of new threads from 3.12 on only: this does for all
def noted_start(thread):
    note("threading.Thread.start", ())
    start(thread)
threading.Thread.start = noted_start
for name in sys.argv[2:]:
    importlib.import_module(name)
print(json.dumps({"worldly": worldly, "modules": sorted(sys.modules)}))
"""


def import_in_a_fresh_process(*names: str) -> tuple[list[str], set[str]]:
    """Import *names*; return what that did to the world (sockets, threads, ...) and which modules are then loaded."""
    command = [sys.executable, "-c", IMPORTER, " ".join(sorted(WORLDLY_EVENTS)), *names]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    return report["worldly"], set(report["modules"])


def test_importing_minuet_does_nothing_and_loads_nothing_heavy() -> None:
    worldly, modules = import_in_a_fresh_process("minuet")
    assert "minuet" in modules
    assert not worldly
    assert not modules & HEAVY_MODULES


def test_importing_every_module_touches_nothing() -> None:
    worldly, _ = import_in_a_fresh_process(*(name_of(path) for path in MODULES if path.name != "__main__.py"))
    assert not worldly


def test_the_witness_of_imports_sees_what_they_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    culprit = "import socket, sqlite3, threading\nsocket.socket().close()\nthreading.Thread(target=print).start()\n"
    (tmp_path / "culprit.py").write_text(culprit)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worldly, modules = import_in_a_fresh_process("culprit")
    assert worldly == ["socket.__new__", "threading.Thread.start"]
    assert {"culprit", "sqlite3"} <= modules
