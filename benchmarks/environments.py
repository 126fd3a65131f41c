"""The peers' environments: made once by uv from locked requirements, into a cache, and used by all later runs.

``python -m benchmarks.environments`` makes them all; with ``lock`` it writes the locks anew from ``peers/*.in``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PEERS = Path(__file__).with_name("peers")
PYTHON_PEERS = ("dbos", "faststream", "restate", "temporal", "plot")
"""``plot`` is no peer: it draws the plot."""
NPM_PEER = "restate-server"
MADE = "made"
INSTALL_S_MAX = 900.0


class Unavailable(Exception):
    """A peer cannot be had here; the message says why."""


def python(name: str) -> Path:
    """The interpreter of the peer's environment, which is made if need be.

    Raises:
        Unavailable: it cannot be made.
    """
    requirements = PEERS / f"{name}.txt"
    folder = _folder(name, requirements, platform.python_version())
    with _made_once(folder) as is_made:
        if not is_made:
            uv = _uv()
            _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
            install = ["pip", "install", "--quiet", "--compile-bytecode", "--require-hashes", "--no-deps"]
            _run([uv, *install, "--python", str(folder / "bin" / "python"), "--requirement", str(requirements)])
    return folder / "bin" / "python"


def restate_server() -> Path:
    """The program of Restate's server, from the npm registry; its scripts are not run.

    Raises:
        Unavailable: it cannot be had.
    """
    source = PEERS / NPM_PEER
    folder = _folder(NPM_PEER, source / "package-lock.json")
    with _made_once(folder) as is_made:
        if not is_made:
            npm = shutil.which("npm")
            if npm is None:
                raise Unavailable("there is no npm, which the server is installed with")
            folder.mkdir(parents=True)
            for file in ("package.json", "package-lock.json"):
                shutil.copy(source / file, folder)
            _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder)
    found = sorted((folder / "node_modules" / "@restatedev").glob("*/bin/restate-server"))
    if not found:
        raise Unavailable(f"there is no server for {platform.system()} on {platform.machine()}")
    return found[0]


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minuet-bench"


def _folder(name: str, lock: Path, *more: str) -> Path:
    """Another one for each lock, so that a new lock is a new environment."""
    digest = hashlib.sha256(lock.read_bytes() + "".join(more).encode()).hexdigest()[:10]
    return cache() / f"{name}-{digest}"


@contextmanager
def _made_once(folder: Path) -> Iterator[bool]:
    """Whether it is made already. Several runs may ask at once, and one may have been killed halfway."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / MADE).exists():
            yield True
            return
        shutil.rmtree(folder, ignore_errors=True)
        yield False
        (folder / MADE).touch()


def _uv() -> str:
    """The one on the PATH, or the one beside our interpreter; asked for its version, to see through a shim."""
    for program in ("uv", str(Path(sys.executable).with_name("uv"))):
        try:
            if subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0:
                return program
        except OSError:
            continue
    raise Unavailable("there is no uv, which the environment is made with")


def _run(command: list[str], cwd: Path | None = None) -> None:
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "DO_NOT_TRACK": "1"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{Path(command[0]).name} took longer than {INSTALL_S_MAX:.0f} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"{Path(command[0]).name} failed: {' '.join(said[-3:])[:500]}")


def lock() -> None:
    """Write the locks anew; they hold hashes, and no address."""
    for name in PYTHON_PEERS:
        target = PEERS / f"{name}.txt"
        options = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url", "--upgrade"]
        said = ["--custom-compile-command", "python -m benchmarks.environments lock"]
        source = str((PEERS / f"{name}.in").relative_to(Path.cwd()))
        _run([_uv(), "pip", "compile", "--quiet", *options, *said, source, "--output-file", str(target)])
    npm = ["npm", "install", "--package-lock-only", "--ignore-scripts", "--omit-lockfile-registry-resolved"]
    _run(npm, cwd=PEERS / NPM_PEER)
    for path in (*PEERS.glob("*.txt"), PEERS / NPM_PEER / "package-lock.json"):
        if "://" in path.read_text():
            sys.exit(f"{path} must hold no address")


def main() -> None:
    if sys.argv[1:] == ["lock"]:
        lock()
        return
    for name in (*PYTHON_PEERS, NPM_PEER):
        try:
            print(f"{name:<15} {restate_server() if name == NPM_PEER else python(name)}")
        except Unavailable as reason:
            print(f"{name:<15} cannot be had: {reason}")


if __name__ == "__main__":
    main()
