"""What happens to connections: cut, silent in one direction, black holes; and to the broker itself. All goes on."""

import asyncio
import contextlib
import os
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from minuet import System
from minuet.adapters.broker import BrokerTransport
from minuet.runtime import relay
from tests.failures.grounds import Site
from tests.failures.shop import (
    DONE,
    PATIENCE_S,
    all_effects,
    at_work,
    ended,
    order_app,
    place,
    unpublished,
    until,
)
from tests.faults import REPLIES, REQUESTS, Direction

pytestmark = [pytest.mark.server, pytest.mark.timeout(150)]

KILLS = os.environ.get("FAILURES_KILLS", "")
"""How often a broker is killed in a test, if it is to be more often than in every run; 50, for example."""


def transport_of(system: System) -> BrokerTransport:
    (transport,) = system.transports.values()
    assert isinstance(transport, BrokerTransport)
    return transport


async def assert_done(system: System, *order_ids: str, within_s: float = PATIENCE_S) -> None:
    """Completed, and each step was done once."""
    assert Counter((await ended(system, *order_ids, within_s=within_s)).values()) == {"completed": len(order_ids)}
    found = await all_effects(system, *order_ids)
    assert found == dict.fromkeys(order_ids, DONE)


class Load:
    """Orders that are placed one after the other until it is told to stop."""

    def __init__(self, system: System, *, pause_s: float = 0.05) -> None:
        self.placed: list[str] = []
        self._system = system
        self._pause_s = pause_s
        self._is_over = False

    async def run(self) -> None:
        while not self._is_over:
            order_id = f"load-{len(self.placed)}"
            await place(self._system, order_id)
            self.placed.append(order_id)
            await asyncio.sleep(self._pause_s)

    @contextlib.asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.run())
        try:
            yield
        finally:
            self._is_over = True
            await running


# 18


@pytest.mark.timeout(1500 if KILLS else 150)
async def test_18_the_broker_is_killed_over_and_over_under_load(site: Site, tmp_path: Path) -> None:
    if not site.ground.survives:
        await goes_on_after_a_restart_that_forgot_everything(site, tmp_path)
        return
    async with at_work(order_app(), site.channels, tmp_path) as system:
        await place(system, "first")
        await ended(system, "first")
        load, kills, before = Load(system), int(KILLS or site.ground.kills), site.proxy.seen["accepted"]
        async with load.going_on():
            for _ in range(kills):
                count = len(load.placed)
                await until(lambda count=count: enough(load, count + 5), "orders are placed", every_s=0.01)  # type: ignore[misc]
                await asyncio.to_thread(site.server.kill)
                await asyncio.to_thread(site.server.start)
        # A broker that takes long to start was up for moments only, so all of it may still be to be done.
        await assert_done(system, "first", *load.placed, within_s=2 * PATIENCE_S + len(load.placed) / 20)
        assert site.proxy.seen["accepted"] > before


async def enough(load: Load, count: int) -> bool:
    return len(load.placed) >= count


async def goes_on_after_a_restart_that_forgot_everything(site: Site, tmp_path: Path) -> None:
    """The emulator keeps nothing, so what it had is lost. What comes afterwards is not."""
    async with at_work(order_app(), site.channels, tmp_path) as system:
        await place(system, "first")
        await ended(system, "first")
        await asyncio.to_thread(site.server.kill)
        await place(system, *(f"while-away-{number}" for number in range(5)))
        await asyncio.to_thread(site.server.start)
        await assert_done(system, *(f"while-away-{number}" for number in range(5)))


# 19, 30


async def test_19_while_the_broker_is_away_orders_are_taken_and_kept_on_disk(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory are no more of them than always; on disk is every one, and afterwards all of them go out."""
    site.ground.hurry(monkeypatch)
    monkeypatch.setattr(relay, "HELD_MAX", 40)
    monkeypatch.setattr(relay, "BATCH_MAX", 20)
    order_ids = [f"o{number}" for number in range(site.ground.fewer(150, least=60))]
    async with at_work(order_app(), site.channels, tmp_path) as system:
        await place(system, "first")
        await ended(system, "first")
        await system.drained()
        site.proxy.black_hole()
        async with asyncio.timeout(20):
            for order_id in order_ids:
                await place(system, order_id)
        assert await unpublished(system, "orders") == len(order_ids)
        lanes = system.workers["orders"].relay._lanes.values()
        assert sum(len(lane._held) for lane in lanes) <= relay.HELD_MAX + relay.BATCH_MAX
        await asyncio.sleep(3)
        assert await unpublished(system, "orders") == len(order_ids)
        site.proxy.heal()
        await assert_done(system, *order_ids)

        async def empty() -> bool:
            return await unpublished(system, "orders") == 0

        await until(empty, "the outbox is empty")


async def test_30_many_that_were_cut_off_do_not_all_come_back_at_once(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They knock seldom while nobody answers, and each comes back once."""
    site.ground.hurry(monkeypatch)
    seen = site.proxy.seen
    herd, look_s = 4, 2.0
    async with contextlib.AsyncExitStack() as stack:
        systems = [
            await stack.enter_async_context(
                at_work(order_app(), site.channels, tmp_path / str(number), services=["orders"])
            )
            for number in range(herd)
        ]
        for system in systems:
            await place(system, "first")
            await system.drained()
        at_peace = site.proxy.connections / herd
        site.proxy.black_hole()
        for system in systems:
            await place(system, "away")
        knocks = []
        for _ in range(2):
            before = seen["accepted"]
            await asyncio.sleep(look_s)
            knocks.append((seen["accepted"] - before) / herd)
        before = seen["accepted"]
        site.proxy.heal()
        for system in systems:
            await asyncio.wait_for(system.drained(), PATIENCE_S)
        back = (seen["accepted"] - before) / herd
    # One that tried again every 0.1 s would knock 20 times in that time, with each of the connections that it had.
    assert max(knocks) <= 2 * at_peace + 6, (at_peace, knocks, back)
    assert not site.ground.keeps_connections or back <= 3 * at_peace + 6, (at_peace, knocks, back)


async def test_30_where_connections_are_accepted_and_reset_they_knock_seldom_too(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a load balancer does that has no server behind it."""
    site.ground.hurry(monkeypatch)
    knocks = 0
    look_s = 2.0

    async def slam(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal knocks
        knocks += 1
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with at_work(order_app(), site.channels, tmp_path, services=["orders"]) as system:
        await place(system, "first")
        await system.drained()
        site.proxy.refuse()
        async with await asyncio.start_server(slam, site.proxy.host, site.proxy.port):
            site.proxy.reset()
            await place(system, "away")
            seen = []
            for _ in range(3):
                before = knocks
                await asyncio.sleep(look_s)
                seen.append(knocks - before)
        site.proxy.heal()
        await asyncio.wait_for(system.drained(), PATIENCE_S)
    # One that tried again every 0.1 s would knock 20 times in that time, with each of its connections. Who has one for
    # each request under way, and polls eight queues, comes once or twice with each; and then with one.
    assert 1 <= seen[0] <= (16 if site.ground.keeps_connections else 32), seen
    assert max(seen[1:]) <= 10, seen


# 20, 21, 22


@pytest.mark.parametrize("dead", [REQUESTS, REPLIES], ids=["requests", "replies"])
async def test_20_a_connection_that_is_dead_in_one_direction_is_noticed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: Direction
) -> None:
    site.ground.hurry(monkeypatch)
    async with at_work(order_app(), site.channels, tmp_path) as system:
        await place(system, "first")
        await ended(system, "first")
        accepted = site.proxy.seen["accepted"]
        site.proxy.half_open(dead)
        await place(system, "meanwhile")
        await connected_anew(site, accepted, within_s=30)
        site.proxy.heal()
        await place(system, "after")
        await assert_done(system, "first", "meanwhile", "after")


async def test_20_a_connection_that_is_ended_in_order_is_noticed_by_who_only_listens(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a load balancer ends those that are idle: nobody sends anything who would find out."""
    site.ground.hurry(monkeypatch)
    async with at_work(order_app(), site.channels, tmp_path) as system:
        await place(system, "first")
        await ended(system, "first")
        await system.drained()
        for turn in range(3):
            accepted = site.proxy.seen["accepted"]
            assert site.proxy.end()
            await connected_anew(site, accepted, within_s=5)
            await place(system, f"after-{turn}")
            await assert_done(system, f"after-{turn}")


async def connected_anew(site: Site, accepted: int, *, within_s: float) -> None:
    """Until somebody has noticed: a client that believes in its connection makes no other."""

    async def more_are_accepted() -> bool:
        return site.proxy.seen["accepted"] > accepted

    await until(more_are_accepted, "somebody has noticed and connects anew", within_s=within_s)


async def test_21_a_message_whose_confirmation_is_lost_is_published_again_and_handled_once(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.ground.hurry(monkeypatch)
    async with at_work(order_app(), site.channels, tmp_path) as system:
        await place(system, "first")
        await ended(system, "first")
        for turn in range(3):
            lost = site.proxy.seen["swallowed replies"]
            site.proxy.lose_replies()
            await place(system, *(f"o{turn}-{number}" for number in range(5)))
            await until(lambda lost=lost: replies_lost(site, lost), "a reply is lost")  # type: ignore[misc]
            await asyncio.sleep(0.2)
            site.proxy.heal()
        await assert_done(system, "first", *(f"o{turn}-{number}" for turn in range(3) for number in range(5)))


async def replies_lost(site: Site, before: int) -> bool:
    return site.proxy.seen["swallowed replies"] > before


async def test_22_a_connection_that_is_cut_in_the_middle_of_a_batch(site: Site, tmp_path: Path) -> None:
    """After so many bytes, of requests and of replies: at the first, within a frame, between two, after many."""
    cuts = [(0, REQUESTS), (1, REPLIES), (100, REQUESTS), (100, REPLIES), (777, REQUESTS), (5000, REQUESTS)]
    async with at_work(order_app(), site.channels, tmp_path) as system:
        await place(system, "first")
        await ended(system, "first")
        order_ids = []
        for after_bytes, direction in cuts:
            these = [f"{direction.value}-{after_bytes}-{number}" for number in range(site.ground.fewer(20))]
            site.proxy.cut(after_bytes=after_bytes, direction=direction)
            await place(system, *these)
            await asyncio.to_thread(site.proxy.await_cut)
            order_ids += these
        await assert_done(system, *order_ids)
        assert site.proxy.seen["cuts"] >= len(cuts)
