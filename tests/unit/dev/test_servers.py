"""Tests get their servers: from the environment, or private ones, which are gone afterwards. On real servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dev.servers import base, scratch
from tests.servers import private_server, server_url

REPOSITORY = Path(__file__).parents[3]
INNER = """
import os, signal
import pytest
from tests.servers import server_url

@pytest.mark.parametrize("number", range(4))
def test_one_for_each_process(redis_url, number):
    assert redis_url == os.environ["REDIS_URL"] == server_url("redis")
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(redis_url + "\\n")
    assert number != 3, "a failure does not hinder the stopping"

def test_that_kills_its_process(redis_url):
    if os.environ.get("DIES"):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def run_inner(tmp_path: Path, *arguments: str, **environment: str) -> tuple[int, set[str]]:
    test = tmp_path / "test_inner.py"
    test.write_text(INNER)
    seen = tmp_path / "seen"
    seen.unlink(missing_ok=True)
    ours = ["-p", "tests.servers", "-c", str(REPOSITORY / "pyproject.toml"), "--rootdir", str(REPOSITORY)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ours, *arguments, test],
        cwd=REPOSITORY,
        env={
            **{name: value for name, value in os.environ.items() if name != "REDIS_URL"},
            "SEEN": str(seen), "TMPDIR": str(tmp_path), **environment,
        },
        capture_output=True,
        check=False,
    )  # fmt: skip
    return done.returncode, set(seen.read_text().splitlines())


def left_over(tmp_path: Path) -> list[Path]:
    return [path.parent for path in tmp_path.glob(f"minuet-services-*/*/*/{base.PROCESSES}")]


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "servers"), [([], {1}), (["-n", "2"], {1, 2})])
def test_each_test_process_starts_one_and_stops_it(tmp_path: Path, arguments: list[str], servers: set[int]) -> None:
    code, seen = run_inner(tmp_path, *arguments)
    assert code == 1
    assert len(seen) in servers
    assert left_over(tmp_path) == []
    assert [path for path in tmp_path.glob("minuet-services-*/*") if path.is_dir()] == []


@pytest.mark.server
@pytest.mark.slow
def test_what_a_killed_test_process_left_is_ended_by_the_next(tmp_path: Path) -> None:
    code, _ = run_inner(tmp_path, DIES="yes")
    assert code == -9
    (server,) = left_over(tmp_path)
    assert base.running_in(server)
    run_inner(tmp_path)
    assert left_over(tmp_path) == []
    assert base.running_in(server) == []


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_URL", "kafka://somewhere:1")
    assert server_url("kafka") == "kafka://somewhere:1"


@pytest.mark.server
def test_a_private_server_may_be_killed_and_started_again(servers_path: Path) -> None:
    with private_server("redis", servers_path) as redis:
        assert redis.url != os.environ.get("REDIS_URL")
        for _ in range(2):
            redis.kill()
            redis.start()
            assert redis.is_ready()
    assert base.running_in(servers_path) == []
    assert servers_path.is_relative_to(scratch.home())
