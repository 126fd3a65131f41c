"""A transport that confirms and loses: comparing the stores finds what is missing, and hands it over once."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from minuet import App, Settings, System, running
from minuet.bootstrap import outside
from minuet.bootstrap.parts import Adapters
from minuet.core.projection import Coordination
from minuet.ports import Outgoing, Transport
from tests.failures.shop import DONE, PAYMENT_DECLINED, SAGA, Conduct, all_effects, order_app, place

ROUNDS_MAX = 12
LATE_REFUSAL = sorted([*(one for one in DONE if one != "SHIPPED"), "CANCELLED", "Refund", "Release"])


class Losing:
    """A transport that confirms everything and carries what it is told to."""

    def __init__(self, inner: Transport, loses: Callable[[Outgoing], bool]) -> None:
        self._inner = inner
        self._loses = loses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        kept = [one for one in messages if not self._loses(one)]
        problems = iter(await self._inner.publish(kept) if kept else ())
        return [next(problems) if one in kept else None for one in messages]


@asynccontextmanager
async def lossy(
    loses: Callable[[Outgoing], bool],
    coordination: str,
    data: Path,
    conduct: Conduct | None = None,
    app: App | None = None,
) -> AsyncIterator[System]:
    class Parts(Adapters):
        def transports(self, channels: Iterable[str]) -> Mapping[str, Transport]:
            made = super().transports(channels)
            self.losing = {id(one): Losing(one, loses) for one in made.values()}
            return {name: self.losing[id(one)] for name, one in made.items()}

        def transport_of(self, channel: str) -> Transport:
            return self.losing[id(super().transport_of(channel))]  # type: ignore[return-value]

    settings = Settings(data=data, channels={"*": "memory:"}, coordination={SAGA: Coordination(coordination)})
    provided = {Conduct: conduct or Conduct()}
    async with running(app or order_app(), settings, provided=provided, parts=Parts) as system:
        yield system


async def ended(system: System, *order_ids: str) -> None:
    async with asyncio.timeout(20):
        for one in order_ids:
            await system.ended(SAGA, one)
        await system.drained()


async def mended(system: System, *order_ids: str) -> int:
    """Look until they have ended; how often something was handed over."""
    reconciler, count = system.reconciler(), 0
    for _ in range(ROUNDS_MAX):
        count += len(await reconciler.look(after_s=0.0, back_s=60.0))
        try:
            async with asyncio.timeout(1.0):
                for one in order_ids:
                    await system.ended(SAGA, one)
                return count
        except TimeoutError:
            pass
    raise AssertionError(f"they did not end; {count} messages were handed over")


@pytest.mark.parametrize("coordination", ["choreography", "orchestration"])
@pytest.mark.parametrize(
    ("refuses", "effects"), [("", DONE), ("Pay", PAYMENT_DECLINED), ("Ship", LATE_REFUSAL)], ids=["done", "pay", "ship"]
)
async def test_a_saga_ends_though_every_message_gets_lost(
    coordination: str, refuses: str, effects: list[str], tmp_path: Path
) -> None:
    conduct = Conduct(now={refuses: lambda: True})
    async with lossy(lambda _: True, coordination, tmp_path, conduct) as system:
        await place(system, "o1", "o2")
        assert await mended(system, "o1", "o2") >= 2
        kept = {what for what, _ in (await all_effects(system, "o1")).items()}
        assert kept == {"o1"}
        undone = [one for one in effects if not (refuses and one == refuses)]  # its rows are rolled back
        assert (await all_effects(system, "o1", "o2")) == {"o1": sorted(undone), "o2": sorted(undone)}


async def test_what_everybody_has_heard_is_not_handed_over(tmp_path: Path) -> None:
    async with lossy(lambda _: False, "choreography", tmp_path) as system:
        await place(system, "o1")
        await system.ended(SAGA, "o1")
        await system.drained()
        assert await system.reconciler().look(after_s=0.0, back_s=60.0, with_ended=True) == []


async def test_what_was_told_just_now_is_on_its_way(tmp_path: Path) -> None:
    async with lossy(lambda one: one.envelope.type == "Placed", "choreography", tmp_path) as system:
        await place(system, "o1")
        reconciler = system.reconciler()
        assert await reconciler.look(after_s=60.0, back_s=600.0) == []
        missed = await reconciler.missed(SAGA, "o1")
        assert sorted(one.place for one, _ in missed) == ["billing", "stock"]
        assert {(one.type, one.by, one.id) for one, _ in missed} == {("Placed", "orders", "o1")}


async def test_handing_over_twice_at_once_does_it_once(tmp_path: Path) -> None:
    async with lossy(lambda one: one.envelope.type == "Placed", "choreography", tmp_path) as system:
        await place(system, "o1")
        one, other = system.reconciler(), system.reconciler()
        await asyncio.gather(one.mend(SAGA, "o1"), other.mend(SAGA, "o1"))
        async with asyncio.timeout(10):
            await system.ended(SAGA, "o1")
        assert (await all_effects(system, "o1"))["o1"] == DONE


async def test_another_process_hands_over_what_those_at_work_take_up(tmp_path: Path) -> None:
    app = order_app()
    async with lossy(lambda one: one.envelope.type == "Placed", "choreography", tmp_path) as system:
        await place(system, "o1")
        async with outside(app, Settings(data=tmp_path, channels={"*": "memory:"})) as elsewhere:
            found = await elsewhere.reconciler().look(after_s=0.0, back_s=60.0)
            assert sorted(one.place for one in found) == ["billing", "stock"]
            async with asyncio.timeout(10):  # while the other one is still there, as with --every
                await system.ended(SAGA, "o1")


async def test_a_process_with_the_whole_app_looks_by_itself_and_says_so(tmp_path: Path) -> None:
    said: asyncio.Queue[str] = asyncio.Queue()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.put_nowait(record.getMessage())

    listener = Listener()
    logging.getLogger("minuet.reconciler").addHandler(listener)
    async with lossy(lambda one: one.envelope.type == "Placed", "choreography", tmp_path) as system:
        await place(system, "o1")
        looking = asyncio.ensure_future(
            system.reconciler().run(every_s=0.01, after_s=0.0, back_s=60.0, ready=lambda: True)
        )
        async with asyncio.timeout(10):
            await system.ended(SAGA, "o1")
            while "stock has not heard Placed of Order o1, told by orders" not in await said.get():
                pass
        looking.cancel()
    logging.getLogger("minuet.reconciler").removeHandler(listener)


async def test_what_is_not_published_yet_is_not_lost(tmp_path: Path) -> None:
    async with lossy(lambda _: True, "choreography", tmp_path) as system:
        await place(system, "o1")
        asked = asyncio.Event()

        def ready() -> bool:
            asked.set()
            return False

        looking = asyncio.ensure_future(system.reconciler().run(every_s=0.01, after_s=0.0, back_s=60.0, ready=ready))
        await asked.wait()
        looking.cancel()
        assert len(await system.reconciler().missed(SAGA, "o1")) == 2


async def test_many_sagas_are_found_page_by_page_and_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minuet.runtime.reconciler.PAGE", 3)
    async with lossy(lambda one: one.envelope.type == "Placed", "choreography", tmp_path) as system:
        reconciler = system.reconciler()
        await place(system, *(f"a{number}" for number in range(10)))
        assert len(await reconciler.look(after_s=0.0, back_s=60.0)) == 20
        await place(system, *(f"b{number}" for number in range(7)))
        found = [one for one in await reconciler.look(after_s=0.0, back_s=60.0) if one.type == "Placed"]
        assert sorted({one.id for one in found}) == [f"b{number}" for number in range(7)]


@pytest.mark.parametrize("coordination", ["choreography", "orchestration"])
@pytest.mark.parametrize("service", ["stock", "billing", "shipping", "orchestrator"])
async def test_a_store_that_was_put_back_from_a_backup_gets_back_what_it_did(
    service: str, coordination: str, tmp_path: Path
) -> None:
    """Its own tables are as old as its inbox, so doing it again is right. Nobody else does anything twice."""
    async with lossy(lambda _: False, coordination, tmp_path) as system:
        await place(system, "old")
        await ended(system, "old")
    backup = tmp_path / "backup.db"
    shutil.copy(tmp_path / f"{service}.db", backup)
    async with lossy(lambda _: False, coordination, tmp_path, Conduct(now={"Ship no": lambda: True})) as system:
        await place(system, "new", "no")
        await ended(system, "new", "no")
        before = await all_effects(system, "old", "new", "no")
    shutil.copy(backup, tmp_path / f"{service}.db")
    async with lossy(lambda _: False, coordination, tmp_path, Conduct(now={"Ship no": lambda: True})) as system:
        assert service == "orchestrator" or await all_effects(system, "old", "new", "no") != before
        reconciler = system.reconciler()
        async with asyncio.timeout(20):
            while await reconciler.look(after_s=0.0, back_s=600.0, with_ended=True):
                await system.drained()
                reconciler = system.reconciler()
            while await all_effects(system, "old", "new", "no") != before:
                await asyncio.sleep(0.01)
        assert not await system.observer.parked()
