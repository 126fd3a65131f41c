"""What ``dev/services`` does. Standard output is for shells to evaluate; what people read goes to standard error."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from dev.servers import base, processes, scratch, together
from dev.servers.together import Failed, Find, Unknown

COMMAND_S_MAX = 30.0
"""How long a command may take to end after it was told to."""
ENVIRONMENT = "environment.json"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

EXAMPLES = """\
servers: {servers}; no name means all

examples:
  dev/services install                          put what is missing on this machine, as root or with sudo
  dev/services run -- make test ARGS="-m server"
  dev/services run kafka redis -- env           only these two
  eval "$(dev/services start postgres)"         runs on in the background ...
  dev/services stop                             ... until here
"""


class Interrupted(BaseException):
    """We have been told to stop by a signal."""

    def __init__(self, sign: int) -> None:
        super().__init__(sign)
        self.sign = sign


def main(arguments: Sequence[str], find: Find = together.server_class) -> int:
    """Do what the command line says; the exit code.

    Args:
        find: gives the class of a server by its name.
    """
    own, command = _split(arguments)
    asked = _parser().parse_args(own)
    if (asked.verb == "run") != bool(command):
        _parser().error("run needs a command after --, and nothing else takes one")
    for sign in STOP_SIGNALS:
        signal.signal(sign, _interrupt)
    try:
        match asked.verb:
            case "install":
                return install(asked.names, find)
            case "run":
                return run(asked.names, command, asked.dir, find)
            case "start":
                return start(asked.names, asked.dir or _default(), find)
            case "stop":
                return stop(asked.dir or _default())
            case _:
                return status(asked.dir)
    except (Failed, Unknown, scratch.InUse) as error:
        say(f"dev/services: {error}")
        return 1
    except Interrupted as interrupted:
        return 128 + interrupted.sign


def say(line: str) -> None:
    # Whoever reads this may be gone, and what is to be stopped is stopped all the same.
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


def install(names: Sequence[str], find: Find) -> int:
    """Put what is missing on this machine."""
    failed = 0
    for name in together.in_order(names):
        began = time.monotonic()
        try:
            find(name).install()
        except Exception as error:
            failed += 1
            said = getattr(error, "stderr", None) or ""
            said = said.decode(errors="replace") if isinstance(said, bytes) else said
            say(f"{name:<9} FAILED to install: {type(error).__name__}: {error}\n{said[-2000:]}".rstrip())
        else:
            say(f"{name:<9} is installed ({time.monotonic() - began:.1f} s)")
    return 1 if failed else 0


def run(names: Sequence[str], command: Sequence[str], folder: Path | None, find: Find) -> int:
    """Run the command with servers that are there for as long as it runs; its exit code.

    Args:
        folder: holds the data and logs, and keeps them. By default there is one that is removed afterwards.
    """
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(scratch.private(say=say))
        else:
            folder = stack.enter_context(_cleared(folder))
        began = time.monotonic()
        servers = together.start_all(together.in_order(names), folder, say=say, find=find)
        try:
            say(f"all are ready after {time.monotonic() - began:.1f} s\n")
            environment = {key: value for one in servers.values() for key, value in one.environment().items()}
            return _run(command, environment, folder)
        finally:
            with _undisturbed():
                began = time.monotonic()
                together.stop_all(servers)
                say(f"all are stopped ({time.monotonic() - began:.1f} s)")


def start(names: Sequence[str], folder: Path, find: Find) -> int:
    """Start those that do not run yet, leave them running, and print all their variables for a shell."""
    names = together.in_order(names)
    scratch.sweep(say=say)
    with scratch.held(folder):
        running = [name for name in names if _runs_for_good(folder / name)]
        for name in names:
            if name in running:
                say(f"{name:<9} runs already")
            else:
                scratch.end_one(folder / name, say=say)
        servers = together.start_all([name for name in names if name not in running], folder, say=say, find=find)
        (folder / scratch.BACKGROUND).touch()
        for name, server in servers.items():
            (folder / name / ENVIRONMENT).write_text(json.dumps(dict(server.environment())))
        for name in names:
            for key, value in json.loads((folder / name / ENVIRONMENT).read_text()).items():
                print(f"export {key}={shlex.quote(value)}")
    option = "" if folder == _default() else f" --dir {shlex.quote(str(folder))}"
    say(f"data and logs are in {folder}; end with: dev/services stop{option}")
    return 0


def stop(folder: Path) -> int:
    """Stop what `start` started there, and what killed programs left, and remove their data."""
    with _undisturbed():
        scratch.sweep(say=say)
        if not (folder / scratch.LOCK).exists():
            say("nothing runs")
            return 0
        with scratch.held(folder):
            scratch.end(folder, say=say)
            shutil.rmtree(folder)
    return 0


def status(folder: Path | None) -> int:
    """Print who runs, where, and how much memory that takes."""
    folders = [path for path in sorted(scratch.home().iterdir()) if path.is_dir()]
    if folder is not None:
        folders.append(folder)
    found = False
    for one in folders:
        for server in sorted(path.parent for path in one.glob(f"*/{base.PROCESSES}")):
            if pids := {pid for leader in base.running_in(server) for pid in processes.family(leader)}:
                found = True
                print(f"{server.name:<9} {processes.resident_kib(pids) // 1024:>5} MiB  {server}")
    if not found:
        print("nothing runs")
    return 0


def _run(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> int:
    # At a terminal the command stays in our group: Ctrl-C reaches it by itself, and it may read from there. Elsewhere
    # it has a group of its own, and whatever it has started ends with it.
    at_terminal = _at_terminal()
    child: subprocess.Popen[bytes] | None = None
    leaders: list[processes.Process] = []
    try:
        with _deferred():  # a signal inside of Popen would make us forget a child that runs already
            child = subprocess.Popen(
                command, env={**os.environ, **environment}, process_group=None if at_terminal else 0
            )
            leaders.append(processes.identify(child.pid))
            base.record(folder / "command", leaders[0])
        code = child.wait()
        return code if code >= 0 else 128 - code
    except OSError as error:
        say(f"dev/services: {command[0]} cannot be run: {error.strerror}")
        return 127 if isinstance(error, FileNotFoundError) else 126
    except Interrupted as interrupted:
        if child is not None:
            if not (at_terminal and interrupted.sign == signal.SIGINT):
                _signal(child, interrupted.sign, group=not at_terminal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(COMMAND_S_MAX)
        raise
    finally:
        with _undisturbed():
            processes.end(leaders, signal.SIGKILL, within_s=0)
            if child is not None:
                child.wait()


def _signal(child: subprocess.Popen[bytes], sign: int, *, group: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        if group:
            os.killpg(child.pid, sign)
        else:
            child.send_signal(sign)


def _at_terminal() -> bool:
    try:
        return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


@contextlib.contextmanager
def _cleared(folder: Path) -> Iterator[Path]:
    """The folder, ours for the block. What runs there in the background is not ended; what is left over is.

    Raises:
        InUse: servers run there, or somebody else uses it.
    """
    with scratch.held(folder):
        if (folder / scratch.BACKGROUND).exists():
            raise scratch.InUse(f"servers run in {folder}; end them with: dev/services stop --dir {folder}")
        scratch.end(folder, say=say)
        try:
            yield folder
        finally:
            scratch.end(folder, say=say)


@contextlib.contextmanager
def _deferred() -> Iterator[None]:
    """A signal interrupts only after the block. Unlike one that is ignored, it is not so for children too."""
    came: list[int] = []
    before = {sign: signal.signal(sign, lambda sign, _: came.append(sign)) for sign in STOP_SIGNALS}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
        if came:
            _interrupt(came[0], None)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No signal disturbs the block: stopping takes a bounded time."""
    before = {sign: signal.signal(sign, signal.SIG_IGN) for sign in STOP_SIGNALS}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _interrupt(sign: int, _: FrameType | None) -> None:
    # Once is enough: the second Ctrl-C of somebody impatient must not disturb the stopping.
    for one in STOP_SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    raise Interrupted(sign)


def _runs_for_good(server: Path) -> bool:
    """Whether a `start` got this far with it."""
    return (server / ENVIRONMENT).exists() and bool(base.running_in(server))


def _default() -> Path:
    return scratch.home() / "background"


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is ours, and the command after the first ``--``."""
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:at]), list(arguments[at + 1 :])


def _folder(text: str) -> Path:
    return Path(text).resolve()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dev/services",
        description="The real servers that tests need, without containers: private ones, on free ports of 127.0.0.1.",
        epilog=EXAMPLES.format(servers=", ".join(sorted(together.SERVERS))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    names = argparse.ArgumentParser(add_help=False)
    names.add_argument("names", nargs="*", metavar="SERVER", help="by default all")
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--dir", type=_folder, help="for data and logs, instead of a scratch folder")
    verbs.add_parser("install", parents=[names], help="put what is missing on this machine")
    verbs.add_parser("run", parents=[where, names], help="run a command with servers that end with it")
    verbs.add_parser("start", parents=[where, names], help="start them in the background, print `export X=...` lines")
    verbs.add_parser("stop", parents=[where], help="stop what was started, and remove its data")
    verbs.add_parser("status", parents=[where], help="list who runs")
    return parser
