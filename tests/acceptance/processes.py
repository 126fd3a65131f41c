"""The shop as real processes, and a customer who only knows its HTTP addresses.

A `Shop` is a data directory and the `minuet run` processes on it. It can start, stop, kill and freeze them, place
orders whatever happens to them, wait until every order has ended, and then look into all books.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp

from minuet import View
from minuet_shop.audit import Balance, balance
from minuet_shop.contracts import (
    OrderPage,
    OrderView,
    PaymentPage,
    ReservationPage,
    ShipmentPage,
    StockPage,
)
from minuet_shop.outside import CarrierLedger, GatewayLedger
from tests.acceptance.grounds import EMBEDDED, Ground, ground

T = TypeVar("T")
V = TypeVar("V", bound=View)

COORDINATIONS = ("choreography", "orchestration")
SERVICES = ("orders", "inventory", "payment", "shipping", "notifications")
APART = (*SERVICES, "sandbox", "orchestrator")
MINUET = Path(sys.executable).with_name("minuet")
SEED_ITEMS = ["ITEM001", "ITEM005"]

# How long things may take. Generous, for machines that do other work too; nothing waits for as long as this.
READY_S = 180.0
ENDED_S = 60.0
STOPPED_S = 30.0
LEAVING_S = 4.0
IN_FLIGHT = 32


async def until(
    check: Callable[[], Awaitable[T | None]], *, within_s: float = ENDED_S, what: str | Callable[[], str]
) -> T:
    """What the check returns as soon as that is something. The one place where these tests wait.

    Raises:
        TimeoutError: says for what.
    """
    gives_up_at = time.monotonic() + within_s
    pause_s = 0.01
    while True:
        found = await check()
        if found:
            return found
        if time.monotonic() > gives_up_at:
            raise TimeoutError(f"after {within_s:.0f} s still not: {what() if callable(what) else what}")
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.2)


class Process:
    """One `minuet run`."""

    def __init__(
        self, services: Sequence[str], arguments: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.services = tuple(services)
        self.log = log
        self.ready_file = log.with_suffix(".ready")
        chosen = [part for name in services for part in ("--service", name)]
        with log.open("ab") as errors, self.ready_file.open("wb") as ready:
            self.popen = subprocess.Popen(
                [MINUET, "run", "minuet_shop:app", "--port", "0", "--json", *chosen, *arguments],
                stdin=subprocess.DEVNULL, stdout=ready, stderr=errors, env=dict(environment), cwd=log.parent,
            )  # fmt: skip

    def __repr__(self) -> str:
        return f"{'+'.join(self.services) or 'everything'}[{self.popen.pid}]"

    @property
    def is_alive(self) -> bool:
        return self.popen.poll() is None

    @property
    def url(self) -> str:
        """Where it answers HTTP; empty until it is ready."""
        line = self.ready_file.read_text()
        return str(json.loads(line)["url"]) if line.endswith("\n") else ""

    async def ready(self) -> Self:
        async def says_so() -> bool:
            if not self.is_alive:
                raise AssertionError(f"{self} ended with {self.popen.returncode}:\n{self.said()}")
            return bool(self.url)

        await until(says_so, within_s=READY_S, what=lambda: f"{self} is ready\n{self.said()}")
        return self

    def kill(self) -> None:
        """End it between two instructions."""
        self.popen.kill()
        self.popen.wait()

    def freeze(self) -> None:
        self.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.popen.send_signal(signal.SIGCONT)

    async def stop(self) -> int:
        """Ask it to end in order; its exit code."""
        self.popen.terminate()

        async def ended() -> bool:
            return not self.is_alive

        await until(ended, within_s=STOPPED_S, what=lambda: f"{self} ends after SIGTERM\n{self.said()}")
        return self.popen.wait()

    def said(self) -> str:
        return self.log.read_text()[-4000:]


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Troubles:
    """What a customer met who asked while processes came and went, counted by kind."""

    seen: Counter[str] = field(default_factory=Counter)


class Shop:
    """Processes on one data directory, seen from outside.

    Args:
        folder: for the data, and beside it the logs.
        stands_on: its stores and channels; by default those in its folder.
        config: the text of a ``minuet.toml``.
    """

    def __init__(self, folder: Path, coordination: str, *, stands_on: Ground | None = None, config: str = "") -> None:
        self.folder = folder
        self.data = folder / "data"
        self.ground = stands_on or ground(EMBEDDED, self.data)
        self.coordination = coordination
        self.processes: list[Process] = []
        self.troubles = Troubles()
        self._config = folder / "minuet.toml"
        if text := f"{self.ground.config}\n{config}".strip():
            self._config.write_text(text)
        self._http: aiohttp.ClientSession | None = None
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._logs = Counter[str]()

    # -- processes -----------------------------------------------------------------------------------------------------

    def launch(self, *services: str, **variables: str) -> Process:
        """Start a process with these services, or with all, and these variables; it is not ready yet."""
        name = "+".join(services) or "everything"
        self._logs[name] += 1
        arguments = ["--data", str(self.data), "--coordination", f"OrderProcessing={self.coordination}"]
        if self._config.exists():
            arguments += ["--config", str(self._config)]
        log = self.folder / f"{name}.{self._logs[name]}.log"
        process = Process(services, arguments, log, {**self.environment, **variables})
        self.processes.append(process)
        return process

    @property
    def environment(self) -> Mapping[str, str]:
        """Of its processes."""
        # Python may keep its byte code: compiling everything anew would triple the time of a start.
        ours = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**ours, **self.ground.environment}

    async def start(self, *services: str) -> Process:
        return await self.launch(*services).ready()

    async def start_apart(self, services: Iterable[str] = APART) -> dict[str, Process]:
        """Each service in a process of its own."""
        launched = {name: self.launch(name) for name in services}
        await asyncio.gather(*(process.ready() for process in launched.values()))
        return launched

    async def leave(self) -> None:
        """Ask all processes to end, for a moment: a broker that several shops use need not wait for dead members."""
        for process in self.processes:
            if process.is_alive:
                process.popen.terminate()
        with contextlib.suppress(TimeoutError):
            await until(self._all_gone, within_s=LEAVING_S, what="all processes have ended")

    async def _all_gone(self) -> bool:
        return not any(process.is_alive for process in self.processes)

    def close(self) -> None:
        for process in self.processes:
            if process.is_alive:
                process.kill()

    def said(self) -> str:
        """What the processes had to say, the last of it."""
        logs = sorted(self.folder.glob("*.log"), key=lambda log: log.stat().st_mtime)
        return "\n".join(f"--- {log.name}\n{log.read_text()[-1500:]}" for log in logs if log.stat().st_size)

    def url(self, service: str) -> str:
        """Of a process that runs it now."""
        for process in reversed(self.processes):
            if (service in process.services or not process.services) and process.is_alive and process.url:
                return process.url
        raise NobodyThere(service)

    # -- HTTP ----------------------------------------------------------------------------------------------------------

    @property
    def http(self) -> aiohttp.ClientSession:
        if self._http is None:
            # A connection for each request: none is found closed by a server that has just been stopped.
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            self._http = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=40))
        return self._http

    async def aclose(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def ask(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, **headers: str
    ) -> Answer:
        """One request, as a stranger's curl would send it. Underscores in header names stand for dashes."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None or raw is not None:
            sent.setdefault("content-type", "application/json")
        encoded = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        data = None if encoded is None else io.BytesIO(encoded)
        url = path if path.startswith("http") else self.url(_service_at(path)) + path
        async with self.http.request(method, url, data=data, headers=sent, allow_redirects=False) as response:
            return Answer(response.status, response.headers, await response.text())

    async def get(self, path: str) -> Any:
        answer = await self.ask("GET", path)
        assert answer.status == 200, f"GET {path}: {answer.status} {answer.text}"
        return answer.json

    async def insist(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Ask until there is a definite answer. That there is none yet is counted in `troubles`."""
        async with self._room:
            return await until(
                lambda: self._try(method, path, body, **headers), what=f"{method} {path} has a definite answer"
            )

    async def _try(self, method: str, path: str, body: Any, **headers: str) -> Answer | None:
        try:
            answer = await self.ask(method, path, body, **headers)
        except (aiohttp.ClientError, NobodyThere, OSError) as error:
            self.troubles.seen[type(error).__name__] += 1
            return None
        if answer.status == 503:
            self.troubles.seen["503"] += 1
            return None
        return answer

    # -- orders --------------------------------------------------------------------------------------------------------

    async def place(
        self, order_id: str, customer_id: str = "CUST987", items: Sequence[str] = tuple(SEED_ITEMS)
    ) -> None:
        """Place an order, however often that needs asking."""
        body = {"orderId": order_id, "customerId": customer_id, "items": list(items)}
        answer = await self.insist("POST", "/orders", body, idempotency_key=f"place {order_id}")
        assert answer.status == 202, f"{order_id}: {answer.status} {answer.text}"

    async def place_all(self, orders: Mapping[str, tuple[str, Sequence[str]]]) -> None:
        await asyncio.gather(*(self.place(order_id, *rest) for order_id, rest in orders.items()))

    async def ended(self, *order_ids: str, within_s: float = ENDED_S) -> dict[str, OrderView]:
        """The orders, by default all, once each is SHIPPED or CANCELLED."""
        left: list[OrderView] = []

        async def all_final() -> dict[str, OrderView] | None:
            nonlocal left
            try:
                found = {order.order_id: order for order in await self.orders()}
            except (aiohttp.ClientError, NobodyThere, OSError):
                return None
            wanted = {name: found[name] for name in order_ids or found if name in found}
            left = [order for order in wanted.values() if order.status == "PENDING"]
            return wanted if not left and len(wanted) == len(order_ids or found) else None

        return await until(all_final, within_s=within_s, what=lambda: self._unfinished(left))

    def _unfinished(self, left: Sequence[OrderView]) -> str:
        names = ", ".join(order.order_id for order in left[:5])
        stories = "".join(self._story(order.order_id) for order in left[:2])
        return f"all orders have ended; {len(left)} are pending: {names}\n{stories}\n{self.left_over()}\n{self.said()}"

    def _story(self, order_id: str) -> str:
        shown = subprocess.run(
            [MINUET, "sagas", "show", order_id, "--data", self.data],
            capture_output=True, text=True, check=False, cwd=self.folder, env=dict(self.environment),
        )  # fmt: skip
        return shown.stdout + shown.stderr

    async def orders(self, status: str = "") -> list[OrderView]:
        only = f"&status={status}" if status else ""
        return [order for page in await self._pages("/orders", OrderPage, only) for order in page.orders]

    async def _pages(self, path: str, kind: type[V], more: str = "") -> list[V]:
        pages: list[V] = []
        after = ""
        while True:
            answer = await self.ask("GET", f"{path}?limit=500{after}{more}")
            if answer.status != 200:
                raise aiohttp.ClientPayloadError(f"GET {path}: {answer.status} {answer.text}")
            pages.append(kind.model_validate_json(answer.text))
            if pages[-1].after is None:  # type: ignore[attr-defined]
                return pages
            after = f"&after={pages[-1].after}"  # type: ignore[attr-defined]

    # -- books ---------------------------------------------------------------------------------------------------------

    async def balanced(self) -> Balance:
        """All books, which fit each other. Nothing was done twice, and nothing is left to do."""
        charges, parcels = await self.ledgers()
        found = balance(
            orders=await self.orders(),
            stock=[shelf for page in await self._pages("/inventory/stock", StockPage) for shelf in page.stock],
            reservations=[
                one
                for page in await self._pages("/inventory/reservations", ReservationPage)
                for one in page.reservations
            ],
            payments=[one for page in await self._pages("/payment/payments", PaymentPage) for one in page.payments],
            shipments=[
                one for page in await self._pages("/shipping/shipments", ShipmentPage) for one in page.shipments
            ],
            charges=charges.charges,
            parcels=parcels.parcels,
        )
        assert found.is_even, "\n".join(found.differences[:20])
        assert found.pending == 0
        # Not even charged twice and refunded once: the outside world was asked with one key for each order.
        assert _twice(charge.order_id for charge in charges.charges) == []
        assert _twice(parcel.order_id for parcel in parcels.parcels) == []
        assert charges.charged - charges.refunded == found.paid == found.ordered
        assert found.shipments == found.parcels == found.shipped
        return found

    async def ledgers(self) -> tuple[GatewayLedger, CarrierLedger]:
        charges = await self.ask("GET", "/sandbox/gateway/ledger")
        parcels = await self.ask("GET", "/sandbox/carrier/ledger")
        return GatewayLedger.model_validate_json(charges.text), CarrierLedger.model_validate_json(parcels.text)

    async def at_rest(self, *, parked: int = 0) -> None:
        """Until no service has anything left to do, to publish or to take in."""

        left: dict[str, int] = {}

        async def nothing_left() -> bool:
            nonlocal left
            stored = {name: rows for name, rows in self.left_over().items() if not name.endswith(" parked")}
            left = stored or _some(await self.ground.wires.undelivered())
            return not left

        await until(nothing_left, within_s=30, what=lambda: f"everything is at rest: {left}\n{self.said()}")
        assert sum(left for name, left in self.left_over().items() if name.endswith(" parked")) == parked, (
            self.left_over()
        )

    def left_over(self) -> dict[str, int]:
        """How many rows each store has of what should come to an end, where there are any."""
        return _some(self.ground.stores.left_over())

    async def behave(self, system: str, **behaviour: float) -> None:
        answer = await self.ask("PUT", f"/sandbox/{system}/behaviour", behaviour)
        assert answer.status == 200, answer.text

    async def stock(self, item: str, on_hand: int) -> None:
        answer = await self.insist("PUT", f"/inventory/stock/{item}", {"onHand": on_hand})
        assert answer.status == 200, answer.text


class NobodyThere(Exception):
    """No process that is ready runs the service."""


@asynccontextmanager
async def shop(
    folder: Path,
    coordination: str,
    on: str = EMBEDDED,
    *,
    servers: Mapping[str, str] | None = None,
    config: str = "",
) -> AsyncIterator[Shop]:
    """A shop without any process yet. None is left when the block ends; if it fails, the logs are told.

    Args:
        on: the name of its ground.
        servers: what the ground is to stand on; see `ground`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stands_on = ground(on, folder / "data", servers=servers)
    made = Shop(folder, coordination, stands_on=stands_on, config=config)
    try:
        yield made
    except BaseException as error:
        error.add_note(made.said())
        raise
    finally:
        if on != EMBEDDED:
            await made.leave()
        made.close()
        await made.aclose()
        await stands_on.clear()


def mixed(prefix: str, count: int) -> dict[str, tuple[str, list[str]]]:
    """Orders of all kinds: one in eight is declined, one in eight has no address, one in eight is not in stock."""
    orders: dict[str, tuple[str, list[str]]] = {}
    for number in range(count):
        customer = {1: f"DECLINE{number}", 3: f"NOADDRESS{number}"}.get(number % 8, f"CUST{number}")
        items = ["ITEM002", "ITEM002", f"ITEM00{1 + number % 8}"] if number % 2 else SEED_ITEMS
        orders[f"{prefix}-{number:04}"] = (customer, ["ITEM001", GONE] if number % 8 == 5 else items)
    return orders


def shipped_of(orders: Mapping[str, tuple[str, Sequence[str]]]) -> set[str]:
    """Those that nothing speaks against."""
    return {
        name for name, (customer, items) in orders.items()
        if not customer.startswith(("DECLINE", "NOADDRESS")) and GONE not in items
    }  # fmt: skip


GONE = "ITEM008"
"""What tests take off the shelves."""


def _service_at(path: str) -> str:
    first = path.split("/")[1].partition("?")[0]
    return first if first in APART else "orders"


def _some(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]
