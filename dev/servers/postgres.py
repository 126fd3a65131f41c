"""A PostgreSQL server, from Debian's package."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from dev.servers import debian
from dev.servers.base import HOST, STOP_S_MAX, Server

VERSIONS = Path("/usr/lib/postgresql")
USER = "postgres"
ANSWER_S_MAX = 5
INITDB_S_MAX = 120.0


class Postgres(Server):
    """With fsync on: what it committed survives. It listens on 127.0.0.1 only, and on no socket in the file system.

    The server refuses to run as root; started by root, it runs as the user ``postgres``, who must be able to get into
    the folder.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # the fast way: sessions are ended, and what is committed is on disk

    @classmethod
    def install(cls) -> None:
        if _programs() is not None:
            return
        debian.install("postgresql")

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@{HOST}:{self.port}/postgres"

    def environment(self) -> Mapping[str, str]:
        return {"POSTGRES_URL": self.url}

    def launch(self) -> None:
        programs = _programs()
        if programs is None:
            raise FileNotFoundError(f"there is no PostgreSQL in {VERSIONS}; run: dev/services install postgres")
        user = USER if os.getuid() == 0 else None
        data = self.folder / "data"
        if not (data / "PG_VERSION").exists():
            self._initialize(programs, data, user)
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",  # their paths may be too long, and nobody needs one
            "max_connections": 200,
            "shared_buffers": "32MB",
            "fsync": "on",
            "log_min_messages": "warning",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self.spawn([programs / "postgres", "-D", data, *options], user=user)

    def _initialize(self, programs: Path, data: Path, user: str | None) -> None:
        shutil.rmtree(data, ignore_errors=True)  # a start that was interrupted left half of it
        data.mkdir(mode=0o700)
        if user is not None:
            account = pwd.getpwnam(user)
            os.chown(data, account.pw_uid, account.pw_gid)
        options = ["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-instructions"]
        with self.log.open("ab") as log:
            made = subprocess.run(
                [programs / "initdb", "-D", data, *options],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=INITDB_S_MAX,
                check=False,
                user=user,
                group=user,
                extra_groups=[] if user else None,
            )
        if made.returncode:
            raise RuntimeError(
                f"initdb failed in {data}; user {user or os.getuid()} must be able to get there: {self.said()}"
            )

    def is_ready(self) -> bool:
        import psycopg  # only where a server is really started

        with psycopg.connect(self.url, connect_timeout=ANSWER_S_MAX) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)

    def kill(self) -> None:
        """As above. One of its processes may be born just then, and a server refuses a folder while one is left."""
        super().kill()
        deadline = time.monotonic() + STOP_S_MAX
        while (left := self._left()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)

    def _left(self) -> list[int]:
        """All of a server's processes work in its data folder."""
        data = str(self.folder / "data")
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(process / "cwd") == data:
                    found.append(int(process.name))
        return found


def _programs() -> Path | None:
    """The folder of the newest version that is installed."""
    found = [folder for folder in VERSIONS.glob("*/bin") if (folder / "postgres").exists()]
    return max(found, key=lambda folder: float(folder.parent.name), default=None)
