"""The server: where it listens, and how it stops."""

import asyncio
import signal
import socket
from dataclasses import replace

import aiohttp
import pytest
from starlette.types import Receive, Scope, Send

from minuet.core.errors import ConfigurationError
from minuet.doors.server import serve
from tests.unit.doors.kit import Answer, InventoryReserved, Shop, running_shop


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def fetch(url: str) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(url) as got:
        return await got.read()


async def test_it_listens_on_a_free_port_of_this_machine_only() -> None:
    async with serve(hello) as url:
        assert url.startswith("http://127.0.0.1:")
        assert await fetch(url) == b"hello"
    with pytest.raises(aiohttp.ClientConnectorError):
        await fetch(url)


async def test_no_answer_waits_for_an_acknowledgement() -> None:
    found: list[int] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        transports = asyncio.get_running_loop()._transports.values()  # type: ignore[attr-defined]
        accepted = [one.get_extra_info("socket") for one in transports if one.get_extra_info("peername")]
        found.extend(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in accepted)
        await hello(scope, receive, send)

    async with serve(look) as url:
        assert await fetch(url) == b"hello"
    assert len(found) >= 2
    assert all(found)


async def test_it_says_how_to_reach_it_from_here() -> None:
    async with serve(hello, "0.0.0.0") as url:
        assert url.startswith("http://127.0.0.1:")
        assert await fetch(url) == b"hello"


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
async def test_it_listens_on_ipv6() -> None:
    try:
        async with serve(hello, "::1") as url:
            assert url.startswith("http://[::1]:")
            assert await fetch(url) == b"hello"
    except ConfigurationError:
        pytest.skip("no IPv6 on this machine's loopback interface")


@pytest.mark.parametrize(("host", "port"), [("256.0.0.1", 0), ("192.0.2.1", 0), ("127.0.0.1", 70000)])
async def test_an_address_that_cannot_be_is_a_configuration_error(host: str, port: int) -> None:
    with pytest.raises(ConfigurationError, match="choose another --port"):
        async with serve(hello, host, port):
            pass


async def test_a_port_that_is_taken_is_a_configuration_error() -> None:
    async with serve(hello) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1 port {port}"):
            async with serve(hello, port=port):
                pass
    async with serve(hello, port=port) as again:
        assert again == url


async def test_signals_are_left_to_the_program() -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    async with serve(hello):
        assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


async def reserve(shop: Shop) -> Answer:
    """Ask with a session of one's own, which outlives the shop's."""
    async with aiohttp.ClientSession() as session:
        return await replace(shop, session=session).call("POST", "/inventory/reserve", {"orderId": "o-1", "items": []})


async def test_requests_under_way_are_finished_before_it_stops() -> None:
    gate = asyncio.Event()
    async with running_shop() as shop:
        shop.inventory.answers = InventoryReserved(order_id="o-1", reserved_items=[])
        shop.inventory.gate = gate
        asking = asyncio.create_task(reserve(shop))
        while not shop.inventory.commands:
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.05, gate.set)
    assert (await asking).status == 200


async def test_what_does_not_finish_is_told_to_ask_again() -> None:
    async with running_shop(stop_s=0.1) as shop:
        shop.inventory.gate = asyncio.Event()
        asking = asyncio.create_task(reserve(shop))
        while not shop.inventory.commands:
            await asyncio.sleep(0)
    assert (await asking).is_problem(503, "problem:not-yet")


async def test_an_error_in_the_block_stops_it_too() -> None:
    with pytest.raises(KeyError):
        async with serve(hello) as url:
            raise KeyError("mine")
    with pytest.raises(aiohttp.ClientConnectorError):
        await fetch(url)


async def test_idle_connections_do_not_hold_it_up() -> None:
    async with aiohttp.ClientSession() as session:
        async with asyncio.timeout(3):
            async with serve(hello) as url, session.get(url) as got:
                assert await got.read() == b"hello"
