"""The broker dies in the middle of 300 orders, and comes back. Orders are taken all the while; in the end each of them
has ended, nothing was lost, and nothing was done twice."""

import asyncio
from pathlib import Path

import pytest

from tests.acceptance.grounds import BROKERS, is_everything
from tests.acceptance.processes import COORDINATIONS, GONE, Shop, mixed, shipped_of, shop, until
from tests.faults import FaultProxy
from tests.servers import private_server

pytestmark = [pytest.mark.acceptance, pytest.mark.server, pytest.mark.timeout(400)]

ORDERS = 300
BEFORE = 40
"""So many orders are shipped when it happens."""
ENDED_S = 150.0


@pytest.mark.parametrize(
    ("broker", "coordination"),
    [
        (broker, coordination)
        for number, broker in enumerate(name for name in BROKERS if name != "sns")
        for turn, coordination in enumerate(COORDINATIONS)
        if is_everything() or number % 2 == turn
    ],
)
async def test_it_is_killed_and_started_again(
    tmp_path: Path, servers_path: Path, broker: str, coordination: str
) -> None:
    with private_server(broker, servers_path) as server:
        async with shop(tmp_path, coordination, f"sqlite+{broker}", servers={broker: server.url}) as made:
            placing = await in_the_middle(made)
            await asyncio.to_thread(server.kill)
            await nobody_waits_for_it(made, placing)
            await asyncio.to_thread(server.start)
            await nothing_lost_nothing_twice(made)


@pytest.mark.parametrize("coordination", COORDINATIONS if is_everything() else COORDINATIONS[:1])
async def test_sns_and_sqs_cannot_be_reached_for_a_while(tmp_path: Path, servers_path: Path, coordination: str) -> None:
    """The emulator has everything in memory and would lose it, as AWS does not; so what dies is the way there. Requests
    that it has carried out, but whose answers are lost, are among those that are cut off."""
    with private_server("aws", servers_path) as server, FaultProxy("127.0.0.1", server.port) as way:
        endpoint = f"http://127.0.0.1:{way.port}"
        async with shop(tmp_path, coordination, "sqlite+sns", servers={"aws": endpoint}) as made:
            placing = await in_the_middle(made)
            await asyncio.to_thread(way.lose_replies)
            await until(lambda: _lost_an_answer(way), what="an answer got lost")
            await asyncio.to_thread(way.refuse)
            await asyncio.to_thread(way.reset)
            await nobody_waits_for_it(made, placing)
            await asyncio.to_thread(way.heal)
            await nothing_lost_nothing_twice(made)


async def in_the_middle(made: Shop) -> asyncio.Task[None]:
    """Processes run, some orders are shipped already, others are under way, and customers are placing the rest."""
    await made.start_apart()
    await made.stock(GONE, 0)
    orders = list(mixed("KILLED", ORDERS).items())
    await made.place_all(dict(orders[: ORDERS // 2]))

    async def some_shipped() -> bool:
        return len(await made.orders("SHIPPED")) >= BEFORE

    await until(some_shipped, what=lambda: f"{BEFORE} orders are shipped\n{made.said()}")
    placing = asyncio.create_task(made.place_all(dict(orders[ORDERS // 2 :])))

    async def more_placed() -> bool:
        return len(await made.orders()) > ORDERS // 2

    await until(more_placed, what="more orders are placed")
    return placing


async def nobody_waits_for_it(made: Shop, placing: asyncio.Task[None]) -> None:
    """Customers order on while it is away."""
    await placing
    pending = await made.orders("PENDING")
    assert pending, "it was not in the middle: all orders had ended"


async def nothing_lost_nothing_twice(made: Shop) -> None:
    orders = mixed("KILLED", ORDERS)
    ended = await made.ended(*orders, within_s=ENDED_S)
    assert {name for name, order in ended.items() if order.status == "SHIPPED"} == shipped_of(orders)
    await made.at_rest()
    books = await made.balanced()
    assert books.shipped == len(shipped_of(orders))
    assert books.shipped + books.cancelled == ORDERS


async def _lost_an_answer(way: FaultProxy) -> bool:
    return way.seen["swallowed replies"] > 0
