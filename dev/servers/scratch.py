"""Folders for servers, each held by the program that uses it, and swept by the next one if that was killed.

A folder holds a file that its user keeps locked. The kernel opens the lock when the user dies, however it dies: what
is not locked is left over, unless a file in it says that its servers are to run on in the background.

All folders of a checkout are in one place, the `home`; a folder may also be anywhere else.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from dev.servers import base

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK = "dev-services.lock"
BACKGROUND = "dev-services.background"

Say = Callable[[str], None]


class InUse(Exception):
    """Another program works with the folder, or it is not one of ours."""


def home() -> Path:
    """Where all folders of this checkout are; made if missing. Others may look into it, for servers of other users.

    Raises:
        InUse: somebody else has made it.
    """
    checkout = hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"minuet-services-{os.getuid()}-{checkout}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o755)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
        raise InUse(f"{folder} belongs to somebody else; set TMPDIR to another place")
    return folder


@contextlib.contextmanager
def private(*, say: Say) -> Iterator[Path]:
    """A new folder. After the block nothing runs in it, and it is gone."""
    with contextlib.ExitStack() as stack:
        with _alone():
            _sweep(say)
            folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=home()))
            folder.chmod(0o755)
            stack.enter_context(_locked(folder / LOCK))
        try:
            yield folder
        finally:
            end(folder, say=say)
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Nobody else uses the folder during the block; it is made if missing, and it stays.

    Raises:
        InUse: somebody uses it, or it holds what is not ours.
    """
    with contextlib.ExitStack() as stack:
        with _alone():
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / LOCK).exists() and any(folder.iterdir()):
                raise InUse(f"{folder} holds other things; name an empty folder")
            stack.enter_context(_locked(folder / LOCK))
        yield


def sweep(*, say: Say) -> None:
    """End what killed programs left running in `home`, and remove their folders."""
    with _alone():
        _sweep(say)


def end(folder: Path, *, say: Say) -> None:
    """End everything that runs in the folder, whoever had started it."""
    for server in sorted(path.parent for path in folder.glob(f"*/{base.PROCESSES}")):
        end_one(server, say=say)


def end_one(server: Path, *, say: Say) -> None:
    """End what runs in this folder of one server."""
    if base.stop_recorded(server):
        say(f"{server.name:<9} is stopped")


def _sweep(say: Say) -> None:
    for folder in sorted(home().iterdir()):
        if folder.is_dir() and not (folder / BACKGROUND).exists():
            with contextlib.suppress(InUse), _locked(folder / LOCK):
                end(folder, say=lambda line: say(f"{line}; a program that was killed had left it"))
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Between being made and being locked, a folder must not look left over."""
    with _locked(home() / LOCK, wait=True):
        yield


@contextlib.contextmanager
def _locked(file: Path, *, wait: bool = False) -> Iterator[None]:
    with file.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise InUse(f"another program uses {file.parent}") from error
        yield
