"""What happens to those who work: lost messages, slow and leaving members, two processes on one store, nobody there."""

import asyncio
import contextlib
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from minuet import System
from minuet.runtime import place as place_module
from minuet.runtime.hearing import DELIVERIES_MAX
from tests.failures.grounds import Site
from tests.failures.shop import (
    DONE,
    SAGA,
    Conduct,
    all_effects,
    at_work,
    effects,
    ended,
    notes_app,
    order_app,
    place,
    tap,
    unpublished,
    until,
)
from tests.failures.test_messages import note

pytestmark = [pytest.mark.server, pytest.mark.timeout(150)]

# 17, 36


OFTEN = {"every_s": 0.2, "after_s": 1.0}
"""How a test's system looks for what was lost."""


async def test_17_a_message_that_the_broker_loses_is_missed_and_handed_over(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    others = ["orders", "billing", "shipping"]
    async with at_work(order_app(), site.channels, tmp_path, services=others) as system:
        await place(system, "lost")
        await until(lambda: paid(system, "lost"), "billing has heard of it")
        await system.drained()
        await site.stranger.lose("stock", "orders")
    async with at_work(order_app(), site.channels, tmp_path, reconciliation=OFTEN) as system:
        await place(system, "after")
        assert await ended(system, "after", "lost") == {"after": "completed", "lost": "completed"}
        assert await all_effects(system, "after", "lost") == {"after": DONE, "lost": DONE}
    assert "stock has not heard Placed of Order lost, told by orders" in caplog.text


async def paid(system: System, order_id: str) -> bool:
    return ("Pay", order_id) in await effects(system, "billing")


async def test_36_an_event_that_nobody_can_hear_any_more_is_noticed(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever runs again makes what is missing on the broker, and gets what was told meanwhile all the same."""
    others = ["orders", "billing", "shipping"]
    async with at_work(order_app(), site.channels, tmp_path, services=["stock"]):
        pass
    async with at_work(order_app(), site.channels, tmp_path, services=others) as system:
        await site.stranger.unroute("stock", "orders")
        await place(system, "unheard")
        # Where nobody at all gets it the broker says so, and it stays in the outbox; else it is gone.
        if site.ground.refuses_what_is_unheard:
            await until(lambda: unpublished(system, "orders"), "it cannot be published")
            await until(lambda: _said(caplog, "cannot publish"), "somebody says so")
        else:
            await until(lambda: paid(system, "unheard"), "billing has heard of it")
            view = await system.observer.saga("unheard", SAGA)
            assert view.status == "running"
            assert ("stock", "Reserve") in [(one.service, one.command) for one in view.waiting]
    async with at_work(order_app(), site.channels, tmp_path, reconciliation=OFTEN) as system:
        await place(system, "after")
        assert await ended(system, "after", "unheard") == {"after": "completed", "unheard": "completed"}
        assert await all_effects(system, "after", "unheard") == {"after": DONE, "unheard": DONE}
    if not site.ground.refuses_what_is_unheard:
        assert "stock has not heard Placed of Order unheard, told by orders" in caplog.text


async def _said(caplog: pytest.LogCaptureFixture, what: str) -> bool:
    return what in caplog.text


# 26, 28, 29, 32


def memory_mb() -> float:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1024**2


async def test_26_a_slow_consumer_has_bounded_memory(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far more messages than it may have in work: the others wait on the broker."""
    most, count, text = 20, site.ground.fewer(400, least=200), "x" * 50_000
    monkeypatch.setattr(place_module, "DUE_MAX", most)
    go_on = asyncio.Event()

    async def wait() -> None:
        await go_on.wait()

    conduct = Conduct(meanwhile={"Noted": wait})
    async with at_work(notes_app(), site.channels, tmp_path, services=["clerk"], conduct=conduct) as system:
        clerk = system.places["clerk"]
        before = memory_mb()
        for start in range(0, count, 50):
            numbers = range(start, start + 50)
            await asyncio.gather(*(note(site, number, about=str(number), text=text) for number in numbers))
        await until(lambda: is_full(system), "it can take no more")
        grown = memory_mb() - before
        assert len(clerk._under_way) + len(clerk._timers) <= most + DELIVERIES_MAX
        assert grown < 64 + 2 * (most + DELIVERIES_MAX) * len(text) / 1024**2
        go_on.set()

        async def copied() -> bool:
            return len(conduct.copied) >= count

        await until(copied, "it has done all of it")
        assert len(conduct.copied) == len(set(conduct.copied)) == count


async def is_full(system: System) -> bool:
    return system.places["clerk"].is_full


async def test_28_members_come_and_go_in_the_middle_of_their_work(site: Site, tmp_path: Path) -> None:
    """A second process for stock and billing joins and leaves while orders are under way."""
    order_ids = [f"o{number}" for number in range(site.ground.fewer(60))]
    async with at_work(order_app(), site.channels, tmp_path) as system:

        async def come_and_go() -> None:
            for _ in range(3):
                async with at_work(order_app(), site.channels, tmp_path, services=["stock", "billing"]):
                    await asyncio.sleep(0.4)

        async def load() -> None:
            for order_id in order_ids:
                await place(system, order_id)
                await asyncio.sleep(0.02)

        await asyncio.gather(come_and_go(), load())
        assert Counter((await ended(system, *order_ids)).values()) == {"completed": len(order_ids)}
        assert await all_effects(system, *order_ids) == dict.fromkeys(order_ids, DONE)


async def test_29_a_handler_that_takes_longer_than_the_broker_waits(site: Site, tmp_path: Path) -> None:
    """It stops the whole process meanwhile, so that nothing tells the broker that it is still at work."""
    calls: list[str] = []

    def take_long() -> bool | None:
        calls.append("Reserve")
        time.sleep(2.5)
        return None

    conduct = Conduct(now={"Reserve slow": take_long})
    async with at_work(order_app(), site.holding(1), tmp_path, conduct=conduct) as system:
        await place(system, "slow", "quick")
        assert set((await ended(system, "slow", "quick")).values()) == {"completed"}
        await place(system, "after")
        await ended(system, "after")
        found = await all_effects(system, "slow", "quick", "after")
        assert found == dict.fromkeys(("slow", "quick", "after"), DONE)
        assert calls == ["Reserve"]


async def test_32_two_processes_publish_from_one_outbox(site: Site, tmp_path: Path) -> None:
    """Each order's messages go out in their order, whichever of the two publishes them, and one of the two leaves."""
    count = site.ground.fewer(30)
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(at_work(order_app(), site.channels, tmp_path))
        told = tap(one)
        async with at_work(order_app(), site.channels, tmp_path, services=["orders"]) as other:
            tap(other, told)
            site.proxy.slow(latency_s=0.2)
            await asyncio.gather(
                place(one, *(f"one-{number}" for number in range(count))),
                place(other, *(f"other-{number}" for number in range(count))),
            )
            assert await unpublished(one, "orders") > 0
        site.proxy.heal()
        order_ids = [f"{name}-{number}" for name in ("one", "other") for number in range(count)]
        assert Counter((await ended(one, *order_ids)).values()) == {"completed": len(order_ids)}
        assert await all_effects(one, *order_ids) == dict.fromkeys(order_ids, DONE)
        await one.drained()
        sent = [(message.envelope.key, message.envelope.type) for message in told]
        for order_id in order_ids:
            mine = [kind for key, kind in sent if key == order_id and kind in ("Placed", "Closed")]
            assert list(dict.fromkeys(mine)) == ["Placed", "Closed"], mine
