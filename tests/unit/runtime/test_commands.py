"""Participants that are asked by messages: the same outcome, whatever becomes of the messages and of their answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minuet import Settings, System, running
from minuet.core.errors import DefinitionError
from minuet.core.projection import Coordination
from minuet.ports import EntryState, Outgoing
from tests.failures.shop import DONE, PAYMENT_DECLINED, SAGA, Conduct, all_effects, order_app, place
from tests.unit.runtime.test_reconciler import LATE_REFUSAL

OTHERS = ["orders", "stock", "billing", "shipping"]
AGAIN_S = 0.1


def settings_on(data: Path, **participants: str) -> Settings:
    return Settings(
        data=data,
        coordination={SAGA: Coordination.ORCHESTRATION},
        orchestration={"participants": "local" if participants else "commands", "ask_again_s": AGAIN_S},  # type: ignore[arg-type]
        participants=participants,
    )


@asynccontextmanager
async def at_work(
    data: Path, conduct: Conduct | None = None, services: list[str] | None = None, **participants: str
) -> AsyncIterator[System]:
    provided = {Conduct: conduct or Conduct()}
    async with running(order_app(), settings_on(data, **participants), services=services, provided=provided) as system:
        yield system


async def ended(system: System, *order_ids: str) -> set[str]:
    async with asyncio.timeout(20):
        return {(await system.ended(SAGA, one)).value for one in order_ids}


async def states(system: System, order_id: str) -> set[EntryState]:
    """Of all that the orchestrator asked for."""
    store = system.stores["orchestrator"]
    entries = await store.transact(lambda tx: tx.records.entries_of(SAGA, order_id), reads_only=True)
    return {one.state for one in entries}


@pytest.mark.parametrize("participants", [{}, {"stock": "commands"}, {"billing": "commands", "shipping": "commands"}])
@pytest.mark.parametrize(
    ("refuses", "effects"), [("", DONE), ("Pay", PAYMENT_DECLINED), ("Ship", LATE_REFUSAL)], ids=["done", "pay", "ship"]
)
async def test_the_outcome_is_the_same(
    participants: dict[str, str], refuses: str, effects: list[str], tmp_path: Path
) -> None:
    conduct = Conduct(now={refuses: lambda: True})
    async with at_work(tmp_path, conduct, **participants) as system:
        await place(system, "o1", "o2")
        await ended(system, "o1", "o2")
        left = sorted(one for one in effects if not (refuses and one == refuses))
        assert await all_effects(system, "o1", "o2") == {"o1": left, "o2": left}
        # The last answer is on its way: orders knows that it is over before the orchestrator has heard.
        async with asyncio.timeout(20):
            while await states(system, "o1") != {EntryState.DONE}:
                await asyncio.sleep(0.01)


async def test_participants_and_orchestrator_may_run_apart(tmp_path: Path) -> None:
    async with at_work(tmp_path, services=OTHERS) as system, at_work(tmp_path, services=["orchestrator"]) as conductor:
        await place(system, *(f"o{number}" for number in range(20)))
        assert await ended(conductor, *(f"o{number}" for number in range(20))) == {"completed"}
        assert set(map(tuple, (await all_effects(system, "o1", "o19")).values())) == {tuple(DONE)}


async def test_one_that_was_away_is_asked_again_and_does_it_once(tmp_path: Path) -> None:
    async with at_work(tmp_path, services=["orders", "stock", "billing", "orchestrator"]) as system:
        await place(system, "o1")
        async with asyncio.timeout(20):
            while "Pay" not in (await all_effects(system, "o1"))["o1"]:
                await asyncio.sleep(AGAIN_S)
        view = await system.observer.saga("o1")
        async with asyncio.timeout(20):
            while not any("asked shipping on shipping.commands" in one.why for one in view.waiting):
                view = await system.observer.saga("o1")
                await asyncio.sleep(AGAIN_S)
        async with at_work(tmp_path, services=["shipping"]) as late:
            assert await ended(system, "o1") == {"completed"}
            await late.drained()
            assert (await all_effects(late, "o1"))["o1"] == ["Ship"]


async def test_an_answer_that_got_lost_is_given_again(tmp_path: Path) -> None:
    """The participant decided, and nobody heard of it."""
    async with at_work(tmp_path, services=OTHERS) as system:
        lost: list[Outgoing] = []
        (transport,) = {id(one): one for one in system.transports.values()}.values()
        publish = transport.publish

        async def lose(messages: Any) -> Any:
            kept = [one for one in messages if one.envelope.type != "Shipped" or lost]
            lost.extend(one for one in messages if one not in kept)
            answers = iter(await publish(kept) if kept else ())
            return [next(answers) if one in kept else None for one in messages]

        transport.publish = lose  # type: ignore[method-assign]
        async with at_work(tmp_path, services=["orchestrator"]) as conductor:
            await place(system, "o1")
            assert await ended(conductor, "o1") == {"completed"}
        assert len(lost) == 1
        assert (await all_effects(system, "o1"))["o1"] == DONE


async def test_a_participant_that_cannot_do_it_needs_an_operator_and_then_goes_on(tmp_path: Path) -> None:
    broken = [True]

    def cannot() -> None:
        if broken:
            raise DefinitionError("mend me")

    async with at_work(tmp_path, Conduct(now={"Ship": cannot})) as system:
        await place(system, "o1")
        async with asyncio.timeout(20):
            while not (parked := await system.observer.parked()):
                await asyncio.sleep(AGAIN_S)
        assert [(one.service, one.type) for one in parked] == [("shipping", "Ship")]
        assert (await system.observer.saga("o1")).status == "needs operator"
        broken.clear()
        await system.observer.reopen(parked[0].id)
        assert await ended(system, "o1") == {"completed"}


async def test_a_command_of_nobody_and_one_that_contradicts_are_parked(tmp_path: Path) -> None:
    async with at_work(tmp_path) as system:
        await place(system, "o1")
        await ended(system, "o1")
        asked = (await system.stores["billing"].transact(lambda tx: tx.records.entries_of(SAGA, "o1")))[0].envelope
        assert asked.saga is not None
        (transport,) = {id(one): one for one in system.transports.values()}.values()
        strange = [
            replace(asked, id="nobody", saga=None),
            replace(asked, id="other", type="Query"),
            replace(asked, id="late", body=b"no json"),
        ]
        answers = await transport.publish([Outgoing(0, "billing.commands", one) for one in strange])
        assert list(answers) == [None] * 3
        async with asyncio.timeout(20):
            while len(parked := await system.observer.parked()) < 3:
                await asyncio.sleep(AGAIN_S)
        reasons = " | ".join(one.reason for one in parked)
        assert "Pay is a command of nobody's saga; send it over HTTP" in reasons
        assert "nobody here understands 'Query'" in reasons
        assert (await all_effects(system, "o1"))["o1"] == DONE


async def test_the_same_command_ten_times_at_once_is_done_once(tmp_path: Path) -> None:
    async with at_work(tmp_path) as system:
        await place(system, "o1")
        await ended(system, "o1")
        asked = (await system.stores["shipping"].transact(lambda tx: tx.records.entries_of(SAGA, "o1")))[0].envelope
        (transport,) = {id(one): one for one in system.transports.values()}.values()
        again = [Outgoing(0, "shipping.commands", replace(asked, id=f"again {number}")) for number in range(10)]
        assert list(await transport.publish(again)) == [None] * 10
        await place(system, "o2")
        assert await ended(system, "o2") == {"completed"}
        assert await all_effects(system, "o1", "o2") == {"o1": DONE, "o2": DONE}
        assert await system.observer.parked() == []
