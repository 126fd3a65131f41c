"""`minuet` as its users have it: real processes, real signals, real files."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.acceptance

MINUET = [sys.executable, "-m", "minuet.cli.main"]
SHOP = "minuet_shop:app"


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No minuet.toml and no .minuet of ours gets in the way, and ours does not get in theirs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)


def minuet(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*MINUET, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90, **options)


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*MINUET, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line of the process, or the reason why there is none."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _, complaint = process.communicate()
        raise AssertionError(f"it ended with {process.returncode}: {complaint}")
    return line


def ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(line_of(process))
    return said


def ends(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, complaint = process.communicate(timeout=30)
    return process.returncode, complaint


def request(url: str, body: object = None, method: str | None = None) -> tuple[int, Any]:
    content = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data=content, method=method, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=20) as response:
        return response.status, json.load(response)


def status_of(url: str, order_id: str) -> str:
    """How the order ended; asked until it has."""
    for _ in range(2000):
        _, order = request(f"{url}/orders/{order_id}")
        if order["status"] != "PENDING":
            return str(order["status"])
    raise AssertionError(f"{order_id} does not end")


@pytest.mark.parametrize(
    ("coordination", "signal_"), [("choreography", signal.SIGTERM), ("orchestration", signal.SIGINT)]
)
def test_a_shop_runs_until_a_signal_and_its_sagas_are_seen_then_too(
    tmp_path: Path, coordination: str, signal_: signal.Signals
) -> None:
    ways = ("--coordination", f"OrderProcessing={coordination}")
    with started("run", SHOP, "--data", tmp_path / "data", "--port", 0, "--json", *ways) as shop:
        said = ready(shop)
        assert said["pid"] == shop.pid
        assert {"orders", "payment", "sandbox", "orchestrator"} <= set(said["services"])
        status, _ = request(f"{said['url']}/orders", {"orderId": "A-1", "customerId": "C", "items": ["ITEM001"]})
        assert status == 202
        assert status_of(said["url"], "A-1") == "SHIPPED"
        while_running = minuet("sagas", "show", "A-1", "--data", tmp_path / "data", "--json")
        shop.send_signal(signal_)
        assert ends(shop) == (0, "")
    afterwards = minuet("sagas", "show", "A-1", "--data", tmp_path / "data", "--json")
    for seen in (while_running, afterwards):
        saga = json.loads(seen.stdout)
        assert (saga["status"], saga["coordination"]) == ("completed", coordination)


def test_it_says_where_each_service_is(tmp_path: Path) -> None:
    with started(
        "run", SHOP, "--data", tmp_path / "data", "--port", 0, "--service", "orders", "--service", "sandbox"
    ) as one:
        lines = [line_of(one) for _ in range(3)]
        assert [line.split()[0] for line in lines] == ["orders", "sandbox", "ready:"]
        url = lines[0].split()[1]
        assert request(f"{url}/health")[0] == 200
        one.terminate()
        assert ends(one)[0] == 0


def test_processes_on_one_folder_are_one_shop(tmp_path: Path) -> None:
    def run(*services: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
        chosen = [word for name in services for word in ("--service", name)]
        return started("run", SHOP, "--data", tmp_path / "data", "--port", 0, "--json", *chosen)

    with run("orders") as front, run("inventory", "sandbox") as middle, run("payment", "shipping") as back:
        url = ready(front)["url"]
        ready(middle)
        ready(back)
        for number in range(5):
            request(f"{url}/orders", {"orderId": f"A-{number}", "customerId": "C", "items": ["ITEM001"]})
        assert [status_of(url, f"A-{number}") for number in range(5)] == ["SHIPPED"] * 5
        for process in (front, middle, back):
            process.terminate()
        assert [ends(process) for process in (front, middle, back)] == [(0, "")] * 3
    listed = json.loads(minuet("sagas", "list", "--data", tmp_path / "data", "--json").stdout)
    assert {one["status"] for one in listed["sagas"]} == {"completed"}


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    with started("run", SHOP, "--data", tmp_path / "data", "--port", 0) as shop:
        url = line_of(shop).split()[1]
        while not line_of(shop).startswith("ready:"):
            pass
        # The gateway does not answer, so that a stop in order has something to wait for.
        request(f"{url}/sandbox/gateway/behaviour", {"latencyMs": 60000}, "PUT")
        request(f"{url}/orders", {"orderId": "A-1", "customerId": "C", "items": ["ITEM001"]})
        shop.terminate()
        assert shop.stderr is not None
        assert shop.stderr.readline() == "stopping; the same signal again leaves at once\n"
        shop.terminate()
        assert shop.wait(5) == 128 + signal.SIGTERM


def test_a_port_that_is_taken_is_one_clear_line(tmp_path: Path) -> None:
    with started("run", SHOP, "--data", tmp_path / "one", "--port", 0, "--json") as shop:
        port = ready(shop)["url"].rpartition(":")[2]
        second = minuet("run", SHOP, "--data", tmp_path / "two", "--port", port)
    assert second.returncode == 1
    assert second.stdout == ""
    assert second.stderr.startswith(f"minuet: cannot listen on 127.0.0.1 port {port}")
    assert len(second.stderr.splitlines()) == 1


def test_the_demo_balances_both_ways_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    result = minuet("demo", "--orders", 20, "--json", env={**os.environ, "TMPDIR": str(tmp_path / "tmp")})
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["ok"] is True
    assert facts["orders"] == 20
    assert list(facts["coordinations"]) == ["choreography", "orchestration"]
    for run in facts["coordinations"].values():
        assert run["shipped"] == 16
        assert run["cancelled_by_reason"] == {"out of stock": 2, "payment declined": 1, "no address": 1}
        assert run["unfinished"] == {}
        assert run["books"]["balanced"] is True
        assert run["books"]["ordered"] == run["books"]["paid"] == run["books"]["charged"] > 0
        assert run["books"]["shipments"] == run["books"]["parcels"] == 16
        assert [story["status"] for story in run["stories"]] == ["completed", "compensated"]
        assert run["messages"] > 0
        assert run["commits"] > 0
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_demo_for_people_in_a_pipe(tmp_path: Path) -> None:
    result = minuet("demo", "--orders", 5, "--data", tmp_path / "data")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "first order ORD10001 SHIPPED after" in result.stdout
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert "balanced" in result.stdout
    kept = minuet("sagas", "list", "--data", tmp_path / "data" / "orchestration", "--json")
    assert len(json.loads(kept.stdout)["sagas"]) == 5


def test_the_demo_with_orders_from_a_file(tmp_path: Path) -> None:
    orders = [
        {"orderId": "R-1", "customerId": "C", "items": ["tea", "cake"], "prices": [1.25, 3]},
        {"orderId": "R-2", "customerId": "DECLINE-C", "items": ["tea"], "prices": {"tea": 1.25}},
    ]
    path = tmp_path / "orders.jsonl"
    path.write_text("\n".join(map(json.dumps, orders)))
    result = minuet("demo", "--from", path, "--json")
    assert result.returncode == 0, result.stderr
    for run in json.loads(result.stdout)["coordinations"].values():
        assert (run["shipped"], run["cancelled"], run["books"]["ordered"]) == (1, 1, 4.25)


def test_the_demo_goes_on_serving(tmp_path: Path) -> None:
    with started("demo", "--orders", 2, "--serve", "--port", 0) as demo:
        while "goes on by orchestration at" not in (line := line_of(demo)):
            pass
        url = line.split()[-2].rstrip(".")
        status, _ = request(f"{url}/orders", {"orderId": "A-1", "customerId": "C", "items": ["ITEM001"]})
        assert status == 202
        assert status_of(url, "A-1") == "SHIPPED"
        demo.send_signal(signal.SIGINT)
        assert ends(demo)[0] == 0


def test_nobody_reads_to_the_end(tmp_path: Path) -> None:
    minuet("demo", "--orders", 3, "--data", tmp_path / "data")
    folder = tmp_path / "data" / "choreography"
    command = f"{' '.join(MINUET)} sagas list --json --data {folder} | head -1"
    piped = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert (piped.stdout, piped.stderr) == ("{\n", "")
