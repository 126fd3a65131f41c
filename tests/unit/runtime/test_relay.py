"""From the outbox to the transport: everything goes out, in its order, whatever fails on the way."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence

import pytest

from minuet.adapters.memory import MemoryDatabase
from minuet.core.envelope import Envelope
from minuet.ports import Features, Outgoing, Tx
from minuet.runtime import relay as relay_module
from minuet.runtime.relay import Relay
from tests.unit.runtime.virtual_loop import SeededIds, in_virtual_time
from tests.unit.runtime.world import Broken, WatchedStore


class Wire:
    """A transport that keeps what it is given, and fails as told."""

    features = Features()

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.chance = random.Random(7)
        self.fails = 0.0
        self.raises = 0.0
        self.gate: asyncio.Event | None = None

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        await asyncio.sleep(0.001)
        if self.gate is not None:
            await self.gate.wait()
        if self.chance.random() < self.raises:
            raise Broken("the connection")
        problems: list[Exception | None] = []
        stuck: set[str] = set()
        for message in messages:
            key = message.envelope.key
            if key in stuck or self.chance.random() < self.fails:
                stuck.add(key)
                problems.append(Broken("not now"))
            else:
                self.sent.append(message.envelope.id)
                problems.append(None)
        return problems


class Out:
    """A store with its relay."""

    def __init__(self, database: MemoryDatabase | None = None) -> None:
        self.database = database or MemoryDatabase()
        self.wire = Wire()
        self.ids = SeededIds()
        self.store = WatchedStore(self.database, ids=SeededIds(hash(id(self)) % 1000))
        self.store.instance = f"instance-{id(self)}"
        self.store._tx = type(self.store._tx)(self.database, self.store.instance)
        self.relay = Relay(self.store, lambda channel: self.wire, self.ids)  # type: ignore[arg-type,return-value]
        self.store.committed = self.relay.hand_over
        self.task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Out:
        await self.store.start()
        self.task = asyncio.get_running_loop().create_task(self.relay.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.store.close()

    async def add(self, *names: str) -> None:
        """Commit messages; a name is a key, a slash and a number."""

        def work(tx: Tx) -> None:
            for name in names:
                tx.outbox.add(
                    "c", Envelope(id=name, type="T", source="s", time=0.0, body=b"{}", key=name.partition("/")[0])
                )

        await self.store.transact(work)


def names(count: int, keys: int) -> list[str]:
    return [f"k{number % keys}/{number:05}" for number in range(count)]


def by_key(sent: Sequence[str]) -> dict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(sent):
        found[name.partition("/")[0]].append(name)
    return found


@pytest.mark.parametrize(("fails", "raises"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.5), (0.3, 0.3)])
@pytest.mark.parametrize(("limit", "held"), [("HELD_MAX", 10_000), ("HELD_MAX", 7), ("HELD_BYTES_MAX", 14)])
@in_virtual_time
async def test_everything_goes_out_in_order_per_key_and_only_then_leaves_the_outbox(
    fails: float, raises: float, limit: str, held: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay_module, limit, held)
        patch.setattr(relay_module, "BATCH_MAX", 5)
        async with Out() as out:
            out.wire.fails, out.wire.raises = fails, raises
            everything = names(200, 7)
            for number in range(0, 200, 4):
                await out.add(*everything[number : number + 4])
                (lane,) = out.relay._lanes.values()
                assert len(lane._held) * 2 <= lane._held_bytes <= 2 * (held + 5), (
                    "two bytes each, and a batch on its way"
                )
                assert {row.message.envelope.id for row in out.database.outbox.values()} >= set(
                    everything[: number + 4]
                ) - set(out.wire.sent)
            await out.relay.drained()
            await asyncio.sleep(1)
            assert sorted(dict.fromkeys(out.wire.sent)) == sorted(everything)
            assert by_key(out.wire.sent) == by_key(everything)
            assert not out.database.outbox
            assert lane._held_bytes == 0
            if held == 10_000:
                assert len(out.wire.sent) == len(everything)


@in_virtual_time
async def test_what_was_taken_over_while_there_was_no_room_is_not_forgotten() -> None:
    """Its positions are lower than those that were published already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay_module, "HELD_MAX", 3)
        dead = Out()
        await dead.store.start()
        await dead.add("old/1", "old/2")
        async with Out(dead.database) as out:
            await out.add("new/1")
            await out.relay.drained()
            out.wire.gate = asyncio.Event()
            await out.add("new/2")
            await asyncio.sleep(0.1)
            await out.add("new/3", "new/4", "new/5", "new/6")  # no room
            dead.store.crash()
            out.relay.hand_over(await out.store.transact(lambda tx: tx.outbox.take(100)))
            out.wire.gate.set()
            await out.relay.drained()
            assert set(out.wire.sent) >= {"old/1", "old/2", *(f"new/{number}" for number in range(1, 7))}


@in_virtual_time
async def test_what_is_committed_while_the_outbox_is_read_is_not_forgotten() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay_module, "HELD_MAX", 2)
        async with Out() as out:
            real = out.store.transact
            late: list[str] = []

            async def transact(work, *, reads_only=False, lazily=False):  # type: ignore[no-untyped-def]
                result = await real(work, reads_only=reads_only, lazily=lazily)
                if reads_only and not result and len(late) < 3:  # all is read, but the relay has not heard that yet
                    late.append(f"late/{len(late)}")
                    await out.add(late[-1])
                return result

            out.store.transact = transact  # type: ignore[method-assign]
            await out.add("k/1", "k/2", "k/3")
            await out.relay.drained()
            await asyncio.sleep(1)
            assert list(dict.fromkeys(out.wire.sent)) == ["k/1", "k/2", "k/3", "late/0", "late/1", "late/2"]
            assert not out.database.outbox


@in_virtual_time
async def test_a_relay_survives_whatever_is_raised() -> None:
    async with Out() as out:
        failing = [1, 2, 3]

        def transport_of(channel: str) -> Wire:
            if failing:
                raise KeyError(f"no such channel {failing.pop()}")
            return out.wire

        out.relay.transport_of = out.relay._nowhere._transport_of = transport_of  # type: ignore[assignment]
        await out.add("k/1", "k/2")
        await asyncio.wait_for(out.relay.drained(), 60)
        assert out.wire.sent == ["k/1", "k/2"]


@in_virtual_time
async def test_a_store_that_cannot_be_read_stops_no_relay() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay_module, "HELD_MAX", 1)
        async with Out() as out:
            real, failing = out.store.transact, [1, 2]

            async def transact(work, *, reads_only=False, lazily=False):  # type: ignore[no-untyped-def]
                if reads_only and failing:
                    raise Broken(f"busy {failing.pop()}")
                return await real(work, reads_only=reads_only, lazily=lazily)

            out.store.transact = transact  # type: ignore[method-assign]
            await out.add("k/1", "k/2")
            await asyncio.wait_for(out.relay.drained(), 60)
            assert out.wire.sent == ["k/1", "k/2"]


@in_virtual_time
async def test_a_transport_that_hangs_holds_up_no_other() -> None:
    async with Out() as out:
        hanging = Wire()
        hanging.gate = asyncio.Event()
        out.relay.transport_of = lambda channel: hanging if channel == "slow" else out.wire  # type: ignore[assignment,return-value]
        await out.add("k/1")
        await out.store.transact(
            lambda tx: tx.outbox.add("slow", Envelope(id="s", type="T", source="s", time=0.0, body=b"{}"))
        )
        await out.add("k/2", "k/3")
        while len(out.wire.sent) < 3:
            await asyncio.sleep(0.01)
        assert not hanging.sent
        hanging.gate.set()
        await asyncio.wait_for(out.relay.drained(), 60)
        assert hanging.sent == ["s"]
