"""RabbitMQ from Debian's package, with a node, a cookie and an Erlang port mapper (epmd) of its own.

The package's own start script changes to the user ``rabbitmq`` and starts a shared epmd as a daemon; both would reach
beyond a private folder. So the inner script is called, and epmd is a child like the broker.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pamqp.frame
from pamqp import commands
from pamqp.base import Frame
from pamqp.header import ProtocolHeader

from dev.servers import debian
from dev.servers.base import HOST, READY_S_MAX, Server, free_port

BROKER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
HANDSHAKE_S_MAX = 5.0
EMULATOR = "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
CONFIGURATION = """\
listeners.tcp.1 = {host}:{port}
log.console = true
log.console.level = warning
log.file = false
vm_memory_high_watermark.absolute = 512MiB
disk_free_limit.absolute = 50MB
"""


class RabbitMq(Server):
    """A node on one machine, with the user guest, whom it lets in over loopback only.

    Args:
        folder: see `Server`.
        settings: more lines of ``rabbitmq.conf``, for example a TLS listener.
        plugins: to be enabled, of those that come with the broker.
    """

    name: ClassVar[str] = "rabbitmq"

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, plugins: Sequence[str] = ()) -> None:
        super().__init__(folder)
        ports = {self.port}
        while len(ports) < 3:  # the broker's, epmd's, and the one by which nodes speak
            ports.add(free_port())
        self.epmd_port, self.node_port = ports - {self.port}
        self.settings = dict(settings or {})
        self.plugins = tuple(plugins)

    @classmethod
    def install(cls) -> None:
        if BROKER.exists():
            return
        debian.install("rabbitmq-server")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}"

    def environment(self) -> Mapping[str, str]:
        return {"RABBITMQ_URL": self.url}

    def launch(self) -> None:
        environment = self._prepare()
        epmd = shutil.which("epmd")
        if epmd is None:
            raise FileNotFoundError("epmd is not there; install it with RabbitMq.install()")
        self.spawn([epmd, "-address", HOST, "-port", str(self.epmd_port)], env=environment)
        _wait_for(self.epmd_port)  # a node that does not find one starts a daemon, which would outlive us
        self.spawn([BROKER], env=environment)

    def _prepare(self) -> dict[str, str]:
        """Write what it reads at its start, and say by which variables it finds that."""
        home = self.folder / "home"
        for folder in (home, self.folder / "mnesia", self.folder / "log"):
            folder.mkdir(exist_ok=True)
        cookie = home / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(16))
            cookie.chmod(0o400)
        lines = [f"{name} = {value}\n" for name, value in self.settings.items()]
        (self.folder / "rabbitmq.conf").write_text(CONFIGURATION.format(host=HOST, port=self.port) + "".join(lines))
        (self.folder / "enabled_plugins").write_text(f"[{','.join(self.plugins)}].")
        (self.folder / "none.conf").touch()
        return {
            "HOME": str(home),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self.epmd_port),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(self.node_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_NODENAME": f"minuet{self.port}@localhost",
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": EMULATOR,
        }

    def control(self, *arguments: str) -> str:
        """Ask or tell the running node something with ``rabbitmqctl``; what that printed."""
        command = [str(BROKER.with_name("rabbitmqctl")), "--quiet", *arguments]
        done = subprocess.run(
            command, env={**os.environ, **self._prepare()}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(arguments)} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def is_ready(self) -> bool:
        """Whether a virtual host can be opened: the last step of a client's connecting."""
        with socket.create_connection((HOST, self.port), timeout=HANDSHAKE_S_MAX) as connection:
            connection.sendall(ProtocolHeader().marshal())
            assert isinstance(_read(connection), commands.Connection.Start)
            _write(connection, commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US"))
            tune = _read(connection)
            assert isinstance(tune, commands.Connection.Tune)
            _write(connection, commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0))
            _write(connection, commands.Connection.Open("/"))
            opened = isinstance(_read(connection), commands.Connection.OpenOk)
            _write(connection, commands.Connection.Close(200, "ready", 0, 0))
            assert isinstance(_read(connection), commands.Connection.CloseOk)
            return opened


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=HANDSHAKE_S_MAX):
            return
        time.sleep(0.01)


def _write(connection: socket.socket, frame: Frame) -> None:
    connection.sendall(pamqp.frame.marshal(frame, 0))


def _read(connection: socket.socket) -> object:
    head = _exactly(connection, 7)  # type, channel, size
    return pamqp.frame.unmarshal(head + _exactly(connection, int.from_bytes(head[3:], "big") + 1))[2]


def _exactly(connection: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        some = connection.recv(size - len(read))
        if not some:
            raise ConnectionError("it hung up")
        read += some
    return read
