"""A clock that is put back holds nothing up for longer than was meant."""

import asyncio
import time
from pathlib import Path

import pytest

from minuet.adapters.sqlite import SqliteTransport
from minuet.adapters.system import SystemIds
from minuet.core.envelope import Envelope
from minuet.ports import Again, Outgoing, Subscription

HOUR_S = 3600.0


class Adjusted:
    """The system's clock, as somebody set it."""

    ahead_s = 0.0

    def now(self) -> float:
        return time.time() + self.ahead_s


def message(name: str) -> Outgoing:
    return Outgoing(0, "orders", Envelope(id=name, type="Placed", source="test", time=0.0, body=b"{}", key="k"))


async def started(path: Path, clock: Adjusted) -> SqliteTransport:
    transport = SqliteTransport(path / "broker.db", clock=clock, ids=SystemIds())
    await transport.start()
    await transport.declare([Subscription(group="g", wanted={"orders": {"Placed": None}})])
    return transport


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("jump_s", [-2 * HOUR_S, 24 * HOUR_S])
async def test_a_delayed_message_comes_although_the_clock_was_put_back(
    tmp_path: Path, jump_s: float, restarted: bool
) -> None:
    clock = Adjusted()
    transport = await started(tmp_path, clock)
    await transport.publish([message("m-1")])
    (delivery,) = await transport.receive("g", 1)
    await transport.settle([(delivery, Again(0.1))])
    clock.ahead_s = jump_s
    if restarted:
        await transport.close()
        transport = await started(tmp_path, clock)
    await transport.publish([message("m-2")])
    async with asyncio.timeout(5):
        first = list(await transport.receive("g", 2))
        second = [] if len(first) == 2 else list(await transport.receive("g", 2))
    assert [one.attributes["id"] for one in first + second] == ["m-1", "m-2"]
    await transport.close()
