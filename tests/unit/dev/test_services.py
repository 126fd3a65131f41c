"""``dev/services`` starts, hands over, and leaves nothing behind, however it ends. With stand-ins for the servers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dev.servers import base, processes, together
from tests.unit.dev.stand_in import StandIn

REPOSITORY = Path(__file__).parents[3]
PROGRAM = [sys.executable, "-m", "tests.unit.dev.stand_in"]
WAIT_S = 60.0
FOREVER = [sys.executable, "-c", "import time; time.sleep(600)"]


@dataclass
class Services:
    """The program with a place of its own for scratch folders."""

    place: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def launch(self, *arguments: str) -> subprocess.Popen[str]:
        popen = subprocess.Popen(
            [*PROGRAM, *arguments], cwd=REPOSITORY, env={**os.environ, "TMPDIR": str(self.place)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started.append(popen)
        return popen

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        popen = self.launch(*arguments)
        out, err = popen.communicate(timeout=WAIT_S)
        return subprocess.CompletedProcess(popen.args, popen.returncode, out, err)

    @property
    def living(self) -> list[str]:
        """The command lines of all that name our place, but for the programs that we have launched."""
        launched = {str(popen.pid) for popen in self.started}
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and entry.name not in launched:
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().decode().replace("\0", " ")
                    if str(self.place) in words:
                        found.append(words[-200:])
        return found

    @property
    def folders(self) -> list[str]:
        return [path.name for path in self.place.glob("minuet-services-*/*") if path.is_dir()]

    def await_recorded(self, *names: str) -> None:
        """Until the program has started these, and has noted that down."""
        for name in names:
            pattern = f"minuet-services-*/*/{name}/{base.PROCESSES}"
            until(lambda pattern=pattern: list(self.place.glob(pattern)), lambda name=name: f"no {name}")  # type: ignore[misc]


def until(check: Callable[[], object], what: Callable[[], str]) -> None:
    gives_up_at = time.monotonic() + WAIT_S
    while not check():
        assert time.monotonic() < gives_up_at, what()
        time.sleep(0.02)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = Services(tmp_path)
    try:
        yield made
    finally:
        for popen in made.started:
            popen.kill()
            popen.communicate()
        made("stop")
    assert made.living == []


def test_the_command_finds_the_servers_and_its_exit_code_is_ours(services: Services) -> None:
    done = services("run", "redis", "--", "sh", "-c", 'echo "$REDIS_URL" "$REDIS_QUOTED"; exit 7')
    assert done.returncode == 7
    assert done.stdout.startswith("redis://127.0.0.1:")
    assert done.stdout.endswith("it's $HOME\n")
    assert "redis     is ready on port" in done.stderr
    assert services.living == []
    assert services.folders == []


def test_a_command_that_is_killed_ends_like_in_a_shell(services: Services) -> None:
    assert services("run", "redis", "--", "sh", "-c", "kill -9 $$").returncode == 137
    assert services("run", "redis", "--", "/no/such/program").returncode == 127


def test_what_the_command_leaves_behind_ends_with_it(services: Services) -> None:
    assert services("run", "redis", "--", "sh", "-c", f"sleep 600 {services.place} & exit 0").returncode == 0
    assert services.living == []


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_and_the_servers(services: Services, sign: signal.Signals) -> None:
    popen = services.launch("run", "redis", "--", *FOREVER, str(services.place))
    services.await_recorded("redis", "command")
    popen.send_signal(sign)
    assert popen.wait(WAIT_S) == 128 + sign
    assert services.living == []
    assert services.folders == []


def test_a_signal_while_a_server_starts(services: Services) -> None:
    popen = services.launch("run", "redis", "aws", "--", "echo", "never")
    services.await_recorded("redis", "aws")
    popen.terminate()
    out, _ = popen.communicate(timeout=WAIT_S)
    assert (popen.returncode, out) == (143, "")
    assert services.living == []


@pytest.mark.parametrize(("name", "reason"), [("nats", "out of luck"), ("kafka", "no client")])
def test_a_server_that_does_not_start_is_an_error(services: Services, name: str, reason: str) -> None:
    done = services("run", "redis", name, "--", "echo", "never")
    assert done.returncode == 1
    assert done.stdout == ""
    assert reason in done.stderr
    assert f"did not start: {name}" in done.stderr
    assert services.living == []
    assert services.folders == []


def test_what_a_killed_run_left_is_ended_by_the_next_stop(services: Services) -> None:
    popen = services.launch("run", "redis", "--", *FOREVER, str(services.place))
    services.await_recorded("redis", "command")
    popen.kill()
    popen.wait()
    assert len(services.living) == 3, services.living
    assert "redis     is stopped; a program that was killed had left it" in services("stop").stderr
    assert services.living == []
    assert services.folders == []


def test_a_run_that_lives_is_left_alone_by_others(services: Services) -> None:
    popen = services.launch("run", "redis", "--", *FOREVER, str(services.place))
    services.await_recorded("redis", "command")
    assert services("stop").returncode == 0
    assert services("run", "redis", "--", "true").returncode == 0
    assert len(services.living) == 3
    popen.terminate()
    assert popen.wait(WAIT_S) == 143


def test_started_in_the_background_until_stop(services: Services) -> None:
    first = services("start", "redis")
    assert first.returncode == 0
    assert first.stdout.startswith("export REDIS_URL=redis://127.0.0.1:")
    script = f'{first.stdout}\necho "$REDIS_QUOTED"'
    evaluated = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert evaluated.stdout == "it's $HOME\n"
    assert services("run", "redis", "--", "true").returncode == 0
    second = services("start", "redis")
    assert second.stdout == first.stdout
    assert "redis     runs already" in second.stderr
    assert "redis" in services("status").stdout
    assert "is stopped" in services("stop").stderr
    assert services("status").stdout == "nothing runs\n"
    assert services.living == []


def test_a_start_that_fails_leaves_what_ran_before(services: Services) -> None:
    services("start", "redis")
    assert services("start", "redis", "nats").returncode == 1
    assert len(services.living) == 2
    assert services("stop").returncode == 0


def test_what_a_killed_start_left_is_ended(services: Services) -> None:
    popen = services.launch("start", "redis", "aws")
    services.await_recorded("redis", "aws")
    popen.kill()
    popen.wait()
    again = services("start", "redis")
    assert again.returncode == 0
    assert len(services.living) == 2


def test_a_folder_of_ones_own_keeps_data_and_logs(services: Services) -> None:
    folder = services.place / "mine"
    assert services("run", "redis", "--dir", str(folder), "--", "true").returncode == 0
    assert "listening" in (folder / "redis" / "server.log").read_text()
    assert services.living == []
    services("start", "redis", "--dir", str(folder))
    refused = services("run", "redis", "--dir", str(folder), "--", "true")
    assert refused.returncode == 1
    assert f"dev/services stop --dir {folder}" in refused.stderr
    services("stop", "--dir", str(folder))
    assert not folder.exists()


def test_a_folder_with_other_things_is_not_touched(services: Services) -> None:
    folder = services.place / "precious"
    folder.mkdir()
    (folder / "redis").write_text("mine")
    for verb in ("start", "stop"):
        services(verb, *(["redis"] if verb == "start" else []), "--dir", str(folder))
        assert (folder / "redis").read_text() == "mine"
    assert "holds other things" in services("start", "redis", "--dir", str(folder)).stderr


def test_an_installation_that_fails_is_an_error_and_the_others_are_tried(services: Services) -> None:
    done = services("install", "nats", "redis")
    assert done.returncode == 1
    assert "nats      FAILED to install: RuntimeError: no such package" in done.stderr
    assert "redis     is installed" in done.stderr


@pytest.mark.parametrize("wrong", [["run", "redis"], ["start", "redis", "--", "true"], ["run", "mysql", "--", "true"]])
def test_nonsense_is_refused(services: Services, wrong: list[str]) -> None:
    assert services(*wrong).returncode in (1, 2)


def test_the_script_can_be_called_from_anywhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [REPOSITORY / "dev" / "services", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    for name in together.SERVERS:
        assert name in done.stdout


def test_killing_a_server_ends_all_its_processes(tmp_path: Path) -> None:
    server = StandIn(tmp_path)
    for end in (server.kill, server.stop):
        server.start()
        (leader,) = base.running_in(tmp_path)
        known = [processes.identify(pid) for pid in processes.family(leader)]
        assert len(known) == 2
        end()
        assert processes.family(leader) == set()
        assert base.running_in(tmp_path) == []
        assert server.processes == []
        assert not any(processes.family(one) for one in known)


def test_a_number_that_was_given_to_another_process_is_not_mistaken() -> None:
    me = processes.identify(os.getpid())
    assert os.getpid() in processes.family(processes.Process(me.pid, me.started)) or os.getpgrp() != os.getpid()
    assert processes.family(processes.Process(me.pid, me.started - 1)) == set()


def test_a_port_is_not_one_that_outgoing_connections_get() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(base.free_port() < first for _ in range(20))
