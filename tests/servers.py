"""Real servers for tests: given by the environment, or else private ones, started when the first test asks for them.

With ``dev/services run -- pytest`` all test processes share the servers that the environment names. Without, each test
process starts what it needs, once, and stops it at its end. What is missing is a failure, never a skip.

A test takes a fixture (``kafka_url``) or asks `server_url`. One that wants to kill a server takes a `private_server`.
This module is a plugin of pytest, by tests/conftest.py.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from pathlib import Path

import pytest

from dev.servers import scratch, together
from dev.servers.base import Server

_stack = contextlib.ExitStack()
_folder: Path | None = None
_private: list[Server] = []


def server_url(name: str) -> str:
    """Where the server is that all tests of this process share; it is up.

    A server that is started here is put into the environment, with all its variables, so that processes which tests
    start find it too.

    Raises:
        ServerMissing: the environment does not name it, and it cannot be started.
    """
    variable = together.variable(name)
    if not os.environ.get(variable):
        server = together.server_class(name)(_shared_folder() / name)
        _start(server)
        _stack.callback(server.stop)
        for key, value in server.environment().items():
            _stack.callback(_set, key, os.environ.get(key))
            os.environ[key] = value
    return os.environ[variable]


def private_server(name: str, folder: Path) -> Server:
    """A server of the test's own, which it may kill and start again. It is not started yet: ``with`` does so.

    It is private also where the environment names one. If the test forgets it, it is killed with the test process.

    Args:
        folder: for its data. The server may run as another user, who must be able to reach the folder: below pytest's
            ``tmp_path`` that is not so; take the fixture `servers_path`.
    """
    server = together.server_class(name)(folder)
    _private.append(server)
    return server


class ServerMissing(Exception):
    """A test needs a server that is not there; the message says how to get it."""


@pytest.fixture
def servers_path() -> Path:
    """A new folder for private servers, which servers of other users can reach too; gone after the session."""
    above = _shared_folder() / "tests"
    above.mkdir(exist_ok=True)
    made = above / str(sum(1 for _ in above.iterdir()))  # short, for it may become part of a socket's name
    made.mkdir()
    return made


@pytest.fixture(scope="session")
def kafka_url() -> str:
    return server_url("kafka")


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    return server_url("rabbitmq")


@pytest.fixture(scope="session")
def nats_url() -> str:
    return server_url("nats")


@pytest.fixture(scope="session")
def redis_url() -> str:
    return server_url("redis")


@pytest.fixture(scope="session")
def postgres_url() -> str:
    return server_url("postgres")


@pytest.fixture(scope="session")
def temporal_url() -> str:
    return server_url("temporal")


@pytest.fixture(scope="session")
def aws_url() -> str:
    """An endpoint for SNS and SQS; what else the SDK needs is in the environment."""
    return server_url("aws")


def pytest_unconfigure() -> None:
    """Stop them. At the exit of the interpreter it may be too late: workers of xdist leave without one."""
    close()


@atexit.register
def close() -> None:
    """Stop all that was started here. May be called twice."""
    global _folder  # noqa: PLW0603 - one set of servers for each process is what this module is for
    while _private:
        _private.pop().kill()
    _stack.close()
    _folder = None


def _shared_folder() -> Path:
    global _folder  # noqa: PLW0603
    if _folder is None:
        _folder = _stack.enter_context(scratch.private(say=_say))
    return _folder


def _start(server: Server) -> None:
    try:
        server.start()
    except Exception as error:
        raise ServerMissing(
            f"{server.name} cannot be started: {error}\n"
            f"Install it with dev/services install {server.name}, or name one in {together.variable(server.name)}."
        ) from error


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _say(line: str) -> None:
    print(line, file=sys.stderr)
