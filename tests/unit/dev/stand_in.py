"""``dev/services`` with stand-ins for the servers, for its own tests: redis works, nats ends, aws is never ready.

Like Postgres, a stand-in has a child with a session of its own. Both command lines name the folder: so tests find them.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping

from dev.servers.base import HOST, Server
from dev.servers.program import main

SERVER = """
import socket, subprocess, sys, time
folder, port = sys.argv[1:]
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", folder], start_new_session=True)
listener = socket.create_server(("127.0.0.1", int(port)))
print("listening", flush=True)
while True:
    listener.accept()[0].close()
"""


class StandIn(Server):
    name = "redis"

    @classmethod
    def install(cls) -> None:
        pass

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def environment(self) -> Mapping[str, str]:
        return {"REDIS_URL": self.url, "REDIS_QUOTED": "it's $HOME"}

    def launch(self) -> None:
        self.spawn([sys.executable, "-c", SERVER, self.folder, str(self.port)])

    def is_ready(self) -> bool:
        with socket.create_connection((HOST, self.port), timeout=5):
            return True


class Ends(StandIn):
    name = "nats"

    @classmethod
    def install(cls) -> None:
        raise RuntimeError("no such package")

    def launch(self) -> None:
        self.spawn([sys.executable, "-c", "print('out of luck')"])

    def is_ready(self) -> bool:
        return False


class NeverReady(StandIn):
    name = "aws"

    def is_ready(self) -> bool:
        return False


def find(name: str) -> type[Server]:
    if name == "kafka":
        raise ImportError("no client")
    return {one.name: one for one in (StandIn, Ends, NeverReady)}[name]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], find))
