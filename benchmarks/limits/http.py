"""The limit for participants over HTTP: an order's five calls to processes that do nothing. Prints one JSON line.

With the client and the server that minuet uses, on connections that are kept open: place the order, reserve, charge,
ship, set the status, one after the other. Each body is read as JSON, and JSON is the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from typing import Any

import aiohttp

from benchmarks.harness import arguments, asked, measured, order, report

CALLS = ("orders", "inventory", "payment", "shipping", "orders")
"""The process that each call of an order goes to."""


async def answer(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    done = json.dumps({"orderId": json.loads(body)["order_id"]}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(done)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": done})


async def be_a_participant() -> None:
    from minuet.doors.server import serve

    async with serve(answer) as url:
        print(url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def measure(given: argparse.Namespace, urls: dict[str, str]) -> dict[str, Any]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one_order(number: int) -> None:
            content = order(number)
            for at, name in enumerate(CALLS):
                async with session.post(f"{urls[name]}/{at}", json=content) as response:
                    assert response.status == 200
                    await response.json()

        return await measured(one_order, asked(given))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(be_a_participant())
        return
    command = [sys.executable, "-m", "benchmarks.limits.http", "--serve", "--dir", str(given.dir)]
    processes, urls = [], {}
    try:
        for name in sorted(set(CALLS)):
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes.append(process)
            assert process.stdout is not None
            urls[name] = process.stdout.readline().strip()
        report(asyncio.run(measure(given, urls)))
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in processes:
            process.wait()


if __name__ == "__main__":
    main()
