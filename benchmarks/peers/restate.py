"""A peer: Restate. A handler of four durable runs, each of which commits its row. Prints one JSON line.

The server comes from the npm registry; the handler is served by one process with hypercorn on uvloop. Both are children
of this process, which asks over HTTP, as a client of Restate does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import restate

from benchmarks.harness import STEPS, arguments, asked, measured, order, report
from benchmarks.peers.rows import Rows

HOST = "127.0.0.1"
READY_S_MAX = 60.0
STOP_S_MAX = 15.0
ROWS = "BENCH_ROWS"
"""The variable that tells the handler's process where its rows are."""

saga = restate.Service("Saga")


@saga.handler()
async def run(context: restate.Context, content: dict[str, Any]) -> str:
    done = []
    try:
        for table in STEPS:
            await context.run_typed(table, lambda table=table: rows_of_process().write(table, content))
            done.append(table)
    except restate.TerminalError:
        for table in reversed(done):
            await context.run_typed(f"undo {table}", nothing_is_refused)
        raise
    return "completed"


def nothing_is_refused() -> None:
    raise NotImplementedError("nothing is ever refused here")


_rows: list[Rows] = []


def rows_of_process() -> Rows:
    if not _rows:
        _rows.append(Rows(Path(os.environ[ROWS])))
    return _rows[0]


app = restate.app([saga])
"""What hypercorn serves."""


@contextmanager
def processes(folder: Path, program: Path) -> Iterator[tuple[str, str, str]]:
    """The server and the handler; where orders are placed, where the server is managed, and where the handler is."""
    ingress, admin, node, handler = (f"{HOST}:{port}" for port in free_ports(4))
    server_settings = {
        "RESTATE_BASE_DIR": str(folder / "restate"),
        "RESTATE_INGRESS__BIND_ADDRESS": ingress,
        "RESTATE_ADMIN__BIND_ADDRESS": admin,
        "RESTATE_BIND_ADDRESS": node,
        "RESTATE_ADVERTISED_ADDRESS": f"http://{node}",
        "RESTATE_DEFAULT_NUM_PARTITIONS": "2",
        "RESTATE_LOG_FILTER": "warn",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    serve = [
        Path(sys.executable).parent / "hypercorn",
        "benchmarks.peers.restate:app",
        "--bind",
        handler,
        "-k",
        "uvloop",
    ]
    started = []
    try:
        with (folder / "processes.log").open("wb") as log:
            for command, more in (([str(program)], server_settings), (serve, {ROWS: str(folder / "rows.db")})):
                environment = {**os.environ, **more}
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        yield f"http://{ingress}", f"http://{admin}", f"http://{handler}"
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind((HOST, 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


async def register(session: aiohttp.ClientSession, admin: str, handler: str) -> None:
    """Tell the server of the handler, once both are up."""
    deadline, said = asyncio.get_running_loop().time() + READY_S_MAX, ""
    while asyncio.get_running_loop().time() < deadline:
        try:
            async with session.post(f"{admin}/deployments", json={"uri": handler}) as response:
                if response.status < 300:
                    return
                said = await response.text()
        except aiohttp.ClientError as error:
            said = repr(error)
        await asyncio.sleep(0.2)
    raise TimeoutError(f"Restate does not take the handler: {said}")


async def measure(given: argparse.Namespace, ingress: str, admin: str, handler: str) -> dict[str, Any]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await register(session, admin, handler)

        async def one_order(number: int) -> None:
            content = order(number)
            headers = {"idempotency-key": content["order_id"]}
            async with session.post(f"{ingress}/Saga/run", json=content, headers=headers) as response:
                assert response.status == 200, await response.text()
                assert await response.json() == "completed"

        # What it tells of a handler is there a moment later.
        deadline = asyncio.get_running_loop().time() + READY_S_MAX
        while True:
            try:
                await one_order(0)
                break
            except AssertionError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.2)
        return await measured(one_order, asked(given), rows=lambda: Rows(given.dir / "rows.db").complete() - 1)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--server", type=Path, required=True, help="the program restate-server")
    given = parser.parse_args()
    with processes(given.dir, given.server) as (ingress, admin, handler):
        found = asyncio.run(measure(given, ingress, admin, handler))
    report(found, versions={"restate-sdk": version("restate-sdk")})


if __name__ == "__main__":
    main()
