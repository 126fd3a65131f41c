"""Sagas on a real Temporal server: the same ends, the same effects, each once, whatever dies in between.

To record the histories in temporal_histories anew, after the saga in temporal_app was changed on purpose:

    RECORD=1 dev/services run temporal -- .venv/bin/python -m pytest tests/contract/test_temporal.py -k recorded
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowHandle, WorkflowHistory
from temporalio.service import RPCError
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from minuet import App, System, running
from minuet.adapters.temporal import definitions
from minuet.adapters.temporal.address import parse
from minuet.adapters.temporal.engine import PASSED_THROUGH
from minuet.adapters.temporal.values import Name
from minuet.adapters.temporal.workflow import SagaWorkflow
from minuet.bootstrap import outside
from minuet.core.errors import ConfigurationError, Conflict
from minuet.core.messages import SagaCancelled
from minuet.core.projection import Coordination
from minuet.ports import Act
from minuet.settings import Orchestration, Settings
from tests.certificates import make_certificates
from tests.contract import temporal_app as trips
from tests.contract.temporal_app import BOOKED, Book, trip_app
from tests.failures import shop
from tests.failures.shop import (
    DONE,
    PAYMENT_DECLINED,
    Conduct,
    all_effects,
    at_work,
    ended,
    fail,
    order_app,
    place,
    until,
)
from tests.servers import private_server

server = pytest.mark.server
HISTORIES = Path(__file__).parent / "temporal_histories"
ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
REPLAYED_MAX = 5


@dataclass
class Site:
    """A task queue of the test's own, and names that no other test has: workflows of all tests share a namespace."""

    server: str
    data: Path
    name: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:10]}")
    options: str = ""

    @property
    def url(self) -> str:
        return f"{self.server}?task_queue={self.name}" + (f"&{self.options}" if self.options else "")

    def of(self, *names: str) -> list[str]:
        return [f"{self.name}-{one}" for one in names]

    async def client(self) -> Client:
        address = parse(self.server)
        return await Client.connect(address.target, namespace=address.namespace)

    async def workflow(self, name: str, saga: str = shop.SAGA) -> WorkflowHandle[Any, Any]:
        return (await self.client()).get_workflow_handle(f"{saga}/{name}")

    async def history(self, name: str, saga: str = shop.SAGA) -> WorkflowHistory:
        return await (await self.workflow(name, saga)).fetch_history()

    async def state(self, name: str, saga: str = shop.SAGA) -> Mapping[str, Any]:
        found: Mapping[str, Any] = await (await self.workflow(name, saga)).query(Name.STATE)
        return found

    @asynccontextmanager
    async def at_work(
        self, app: App, *, conduct: Conduct | None = None, channels: str = "embedded:", **more: Any
    ) -> AsyncIterator[System]:
        orchestration = {"engine": self.url} | more.pop("orchestration", {})
        ways = {saga.name: "orchestration" for saga in app.sagas}
        async with at_work(
            app, {"*": channels}, self.data, conduct=conduct, coordination=ways, orchestration=orchestration, **more
        ) as system:
            yield system


@pytest.fixture
async def site(temporal_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """Afterwards what was recorded is replayed, whatever had happened in between: it must be deterministic."""
    made = Site(temporal_url, tmp_path / "data")
    yield made
    client = await made.client()

    async def begun() -> list[WorkflowExecution]:
        listed = client.list_workflows(f"TaskQueue = '{made.name}'", limit=REPLAYED_MAX)
        return [one async for one in listed]

    ours = await until(begun, "the test's workflows are listed")
    for one in ours:
        history = await client.get_workflow_handle(one.id, run_id=one.run_id).fetch_history()
        (tmp_path / f"{uuid.uuid4().hex}.json").write_text(history.to_json())
    histories = [WorkflowHistory.from_json("Replayed", file.read_text()) for file in tmp_path.glob("*.json")]
    for history in histories:
        await replayer().replay_workflow(history)


def kinds(history: WorkflowHistory) -> list[str]:
    return [EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in history.events]


def asked(history: WorkflowHistory) -> list[str]:
    """Which steps were asked for, in their order."""
    found = []
    for event in history.events:
        scheduled = event.activity_task_scheduled_event_attributes
        if scheduled.activity_type.name == Name.ASK:
            found.append(json.loads(scheduled.input.payloads[0].data)["rule"])
    return found


async def book(system: System, *names: str) -> None:
    await asyncio.gather(*(system.send(Book(trip_id=name)) for name in names))


async def trip_ends(system: System, *names: str) -> list[str]:
    async with asyncio.timeout(PATIENCE_S):
        return [(await system.ended(trips.SAGA, name)).value for name in names]


# -- every way in which a saga ends ------------------------------------------------------------------------------------


@server
async def test_each_end_is_the_same_as_without_temporal(site: Site) -> None:
    good, declined, late, exhausted = names = site.of("good", "declined", "late", "exhausted")
    conduct = Conduct(now={f"Pay {declined}": lambda: True, f"Ship {late}": lambda: True, f"Ship {exhausted}": fail})
    async with site.at_work(order_app(), conduct=conduct) as system:
        await place(system, *names)
        ends = await ended(system, *names)
        effects = await all_effects(system, *names)
        views = {name: await system.observer.saga(name) for name in names}
        states = {name: await site.state(name) for name in names}  # somebody must be there to answer

    assert ends == {good: "completed", declined: "compensated", late: "compensated", exhausted: "compensated"}
    undone = sorted([*PAYMENT_DECLINED, "Pay", "Refund"])
    assert effects == {good: DONE, declined: PAYMENT_DECLINED, late: undone, exhausted: undone}
    for name in names:
        assert (states[name]["status"], states[name]["waiting"]) == (ends[name], [])
        assert await (await site.workflow(name)).result() == ends[name]
        assert (views[name].status, views[name].waiting) == (ends[name], ())
    assert {one.type for one in views[exhausted].messages} >= {"Placed", "Reserved", "Paid", "StepRefused", "Closed"}


@server
async def test_what_was_done_is_undone_in_the_reverse_order(site: Site) -> None:
    (name,) = site.of("a")
    conduct = Conduct(now={f"Room {name}": lambda: True})
    async with site.at_work(trip_app(), conduct=conduct) as system:
        await book(system, name)
        assert await trip_ends(system, name) == ["compensated"]
    assert asked(await site.history(name, trips.SAGA)) == [
        "seat",
        "charge",
        "room",
        "charge/undo",
        "seat/undo",
        "compensated",
    ]


@server
async def test_steps_in_parallel_are_asked_at_the_same_time(site: Site) -> None:
    (name,) = site.of("a")
    async with site.at_work(order_app()) as system:
        await place(system, name)
        await ended(system, name)
    told = kinds(await site.history(name))
    first = told.index("ACTIVITY_TASK_SCHEDULED")
    assert told[first : first + 2] == ["ACTIVITY_TASK_SCHEDULED"] * 2


# -- building commands -------------------------------------------------------------------------------------------------


@server
async def test_a_command_is_built_once_whatever_its_query_says_later(site: Site) -> None:
    (name,) = site.of("a")
    async with site.at_work(trip_app()) as system:
        ask, bodies = system.places["purse"].ask, []

        async def unsure(command: Any, **how: Any) -> Any:
            bodies.append(command.body)
            if len(bodies) < 3:
                raise OSError("no answer")
            return await ask(command, **how)

        system.places["purse"].ask = unsure  # type: ignore[method-assign]
        await book(system, name)
        assert await trip_ends(system, name) == ["completed"]
        assert await all_effects(system, name) == {name: BOOKED}
    assert len(bodies) == 3
    assert len(set(bodies)) == 1
    builds = [
        event
        for event in (await site.history(name, trips.SAGA)).events
        if event.activity_task_scheduled_event_attributes.activity_type.name == Name.BUILD
    ]
    assert len(builds) == 1


@server
async def test_a_command_that_cannot_be_built_is_refused_and_everybody_hears_it(site: Site) -> None:
    (name,) = site.of("a")
    async with site.at_work(trip_app(), conduct=Conduct(now={f"Fare {name}": lambda: True})) as system:
        heard = shop.tap(system)
        await book(system, name)
        assert await trip_ends(system, name) == ["compensated"]
        assert await all_effects(system, name) == {name: ["Book", "CANCELLED", "Free", "Seat"]}
        await system.drained()
    refused = [one for one in heard if one.envelope.type == "StepRefused"]
    assert [(one.channel, one.envelope.saga and one.envelope.saga.step) for one in refused] == [
        ("purse.refused", "charge")
    ]


# -- beginning ---------------------------------------------------------------------------------------------------------


@server
async def test_twenty_beginnings_at_once_are_one_saga(site: Site) -> None:
    (name,) = site.of("a")
    async with site.at_work(order_app()) as system:
        engine = system.workers["orchestrator"]._engine  # type: ignore[attr-defined]
        told = []
        tell = engine.tell

        async def twenty_times(begun: Any, what: Any) -> None:
            told.append((begun, what))
            await asyncio.gather(*(tell(begun, what) for _ in range(20)))

        engine.tell = twenty_times
        await asyncio.gather(*(place(system, name) for _ in range(20)))
        await ended(system, name)
        assert await all_effects(system, name) == {name: DONE}
        assert len(told) == 1
        workflow = await site.workflow(name)
        assert await workflow.result() == "completed"
        only = (await workflow.describe()).run_id
        await tell(*told[0])
        assert (await workflow.describe()).run_id == only
    assert asked(await site.history(name)) == ["reserve", "pay", "ship", "completed"]


@server
async def test_a_saga_can_be_begun_by_a_process_that_runs_nothing(site: Site) -> None:
    """As ``minuet sagas begin`` does."""
    (name,) = site.of("a")
    app = order_app()
    async with site.at_work(app) as system:
        settings = system.settings
    async with outside(app, settings) as client:
        assert await client.begin(shop.Placed(order_id=name))
    async with site.at_work(app) as system:
        assert await ended(system, name) == {name: "completed"}


# -- deaths ------------------------------------------------------------------------------------------------------------


class Child:
    """A worker in a process of its own."""

    def __init__(self, site: Site, prefix: str, count: int) -> None:
        arguments = [str(site.data), site.url, prefix, str(count)]
        self.log = site.data.parent / f"{prefix}.{uuid.uuid4().hex[:6]}.log"
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "tests.contract.temporal_app", *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    async def line(self) -> Mapping[str, Any] | None:
        """The next thing it says; None when it has ended."""
        assert self.popen.stdout is not None
        async with asyncio.timeout(3 * PATIENCE_S):
            text = await asyncio.to_thread(self.popen.stdout.readline)
        return json.loads(text) if text else None

    async def rest(self) -> dict[str, str]:
        """How each trip ended, once all have."""
        found = {}
        while (line := await self.line()) is not None:
            if "name" in line:
                found[line["name"]] = line["status"]
        assert self.popen.wait(30) == 0, self.log.read_text()[-3000:]
        return found

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()


@contextmanager
def children(site: Site) -> Iterator[Callable[[str, int], Child]]:
    site.data.mkdir(parents=True, exist_ok=True)
    made: list[Child] = []

    def child(prefix: str, count: int) -> Child:
        made.append(Child(site, prefix, count))
        return made[-1]

    try:
        yield child
    finally:
        for one in made:
            if one.popen.poll() is None:
                one.kill()
            assert one.popen.stdout is not None
            one.popen.stdout.close()


def trip_outcomes(prefix: str, count: int) -> dict[str, str]:
    return {f"{prefix}-{number}": "compensated" if number % 2 else "completed" for number in range(count)}


async def check_trips(site: Site, *names: str) -> None:
    """Each trip's effects are there once."""
    async with site.at_work(trip_app(), services=["trips", "trains", "purse", "hotels"]) as system:
        effects = await all_effects(system, *names)
    undone = sorted(["Book", "Seat", "Charge 4200", "Return", "Free", "CANCELLED"])
    for name in names:
        assert effects[name] == (undone if int(name.rpartition("-")[2]) % 2 else BOOKED), name


@server
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_worker_killed_in_the_middle_of_fifty_sagas_changes_nothing(site: Site) -> None:
    prefix = site.name
    with children(site) as child:
        first = child(prefix, 50)
        for _ in range(9):  # it is ready, and eight have ended
            assert await first.line() is not None, first.log.read_text()[-3000:]
        first.kill()
        again = child(prefix, 50)
        assert await again.rest() == trip_outcomes(prefix, 50)
    await check_trips(site, *trip_outcomes(prefix, 50))


@server
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_two_workers_share_the_sagas(site: Site) -> None:
    one, other = site.of("one", "other")
    with children(site) as child:
        workers = [child(one, 15), child(other, 15)]
        found = await asyncio.gather(*(worker.rest() for worker in workers))
    wanted = trip_outcomes(one, 15) | trip_outcomes(other, 15)
    assert found[0] | found[1] == wanted
    await check_trips(site, *wanted)
    identities = set()
    for name in wanted:
        events = (await site.history(name, trips.SAGA)).events
        identities |= {one.activity_task_started_event_attributes.identity for one in events} - {""}
    assert len(identities) == 2


@server
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_participant_elsewhere_that_is_away_is_waited_for(site: Site) -> None:
    first, second = site.of("a", "b")
    async with running_apart(site, "orchestrator", "trips", "trains", "purse") as system:
        await book(system, first)

        async def waits() -> bool:
            try:
                return [one["step"] for one in (await site.state(first, trips.SAGA))["waiting"]] == ["room"]
            except RPCError:  # it is not begun yet
                return False

        await until(waits, "it waits for the hotel")
        async with running_apart(site, "hotels"):
            assert await trip_ends(system, first) == ["completed"]
        await book(system, second)
        async with running_apart(site, "hotels") as hotels:
            assert await trip_ends(system, second) == ["completed"]
            assert sorted(await shop.effects(hotels, "hotels")) == [("Room", first), ("Room", second)]


@server
@pytest.mark.slow
async def test_whoever_waits_for_the_end_hears_of_it_also_if_it_is_done_elsewhere(site: Site) -> None:
    early, late = site.of("a", "b")
    others = ("orchestrator", "trains", "purse", "hotels")
    async with running_apart(site, "trips") as trips_alone, running_apart(site, *others) as system:
        await book(trips_alone, early)
        assert await trip_ends(system, early) == ["completed"]
        assert (await system.observer.saga(early)).status == "completed"
        waiting = asyncio.create_task(trip_ends(system, late))  # nobody has heard of it yet
        await book(trips_alone, late)
        assert await waiting == ["completed"]


@asynccontextmanager
async def running_apart(site: Site, *services: str) -> AsyncIterator[System]:
    """Some services of the trips, which find the others over HTTP."""
    settings = Settings(
        data=site.data,
        port=0,
        coordination={trips.SAGA: Coordination.ORCHESTRATION},
        orchestration=Orchestration(engine=site.url),
        grace_s=5.0,
    )
    async with running(trip_app(), settings, services=services, serve=True, provided={Conduct: Conduct()}) as system:
        yield system


@server
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_what_is_to_be_told_waits_for_temporal(servers_path: Path, tmp_path: Path) -> None:
    with private_server("temporal", servers_path) as temporal:
        site = Site(temporal.url, tmp_path / "data")
        before, during = site.of("before", "during")
        async with site.at_work(order_app()) as system:
            await place(system, before)
            assert await ended(system, before) == {before: "completed"}
            temporal.kill()
            await place(system, during)

            async def is_kept() -> bool:
                view = await system.observer.saga(during)
                return any(one.step == "begin" and one.error for one in view.attempts)

            await until(is_kept, "it was tried to tell Temporal")
            temporal.start()
            assert await ended(system, during, within_s=3 * PATIENCE_S) == {during: "completed"}
            assert await all_effects(system, before, during) == {before: DONE, during: DONE}


@server
@pytest.mark.slow
async def test_a_start_without_temporal_waits_for_it(servers_path: Path, tmp_path: Path) -> None:
    temporal = private_server("temporal", servers_path)
    site = Site(temporal.url, tmp_path / "data")
    (name,) = site.of("a")
    async with site.at_work(order_app()) as system:
        await place(system, name)
        with temporal:
            assert await ended(system, name, within_s=3 * PATIENCE_S) == {name: "completed"}


# -- operators ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def stuck(site: Site, name: str) -> AsyncIterator[tuple[System, Conduct]]:
    """A trip whose hotel says that it was asked for something else before, until it is told not to."""
    conduct = Conduct()
    async with site.at_work(trip_app(), conduct=conduct) as system:
        ask = system.places["hotels"].ask
        conduct.now["mended"] = lambda: False

        async def contrary(command: Any, **how: Any) -> Any:
            if not conduct.refuses("mended", name):
                raise Conflict("it was asked before with other content")
            return await ask(command, **how)

        system.places["hotels"].ask = contrary  # type: ignore[method-assign]
        await book(system, name)

        async def is_parked() -> bool:
            return bool(await system.observer.parked())

        await until(is_parked, "it needs an operator")
        yield system, conduct


@server
async def test_an_operator_goes_on_with_a_signal(site: Site) -> None:
    (name,) = site.of("a")
    async with stuck(site, name) as (system, conduct):
        state = await site.state(name, trips.SAGA)
        assert state["status"] == "needs operator"
        (waiting,) = state["waiting"]
        assert (waiting["step"], waiting["service"]) == ("room", "hotels")
        assert "asked before with other content" in waiting["why"]
        assert (await system.observer.saga(name)).status == "needs operator"

        conduct.now["mended"] = lambda: True
        await (await site.workflow(name, trips.SAGA)).signal(Name.RETRY, "room")
        assert await trip_ends(system, name) == ["completed"]
        assert await all_effects(system, name) == {name: BOOKED}
        assert await system.observer.parked() == []


@server
async def test_an_operator_goes_on_with_our_own_verb_and_may_have_to_do_so_again(site: Site) -> None:
    (name,) = site.of("a")
    async with stuck(site, name) as (system, conduct):
        (first,) = await system.observer.parked()
        assert "asked before with other content" in first.reason
        assert await system.observer.reopen(first.id)  # nothing was mended

        async def another() -> Any:
            return next((one for one in await system.observer.parked() if one.id != first.id), None)

        second = await until(another, "it needs an operator once more")
        conduct.now["mended"] = lambda: True
        assert await system.observer.reopen(second.id)
        assert await trip_ends(system, name) == ["completed"]
        assert await system.observer.parked() == []


@server
async def test_an_operator_says_what_came_of_a_command(site: Site) -> None:
    (name,) = site.of("a")
    async with stuck(site, name) as (system, _):
        (parked,) = await system.observer.parked()
        assert (parked.kind, parked.type) == ("command", "Room")
        act = Act(at=system.clock.now(), who="me", verb="answer", what=name)
        key = parked.id.partition(":")[2]
        await system.places["orchestrator"].answer_for(key, trips.Roomed(trip_id=name), act)
        assert await trip_ends(system, name) == ["completed"]
        assert await (await site.workflow(name, trips.SAGA)).result() == "completed"
        assert await system.observer.parked() == []


@server
@pytest.mark.slow
async def test_a_saga_that_is_not_wanted_any_more_is_undone(site: Site) -> None:
    waiting, unbegun = site.of("waiting", "unbegun")
    async with running_apart(site, "orchestrator", "trips", "trains", "purse") as system:
        await book(system, waiting)

        async def waits() -> bool:
            return [one.step for one in (await system.observer.saga(waiting)).waiting] == ["room"]

        await until(waits, "it waits for the hotel")
        assert await system.cancel(waiting, who="me", why="it rains")
        async with running_apart(site, "hotels") as hotels:
            assert await trip_ends(system, waiting) == ["compensated"]
            assert await shop.effects(hotels, "hotels") == []
        # Before anything of it is due: each command says so when it is built.
        place_of = system.places["orchestrator"]
        event = SagaCancelled(saga=trips.SAGA, saga_id=unbegun, who="me")
        await place_of.cancel(event, Act(at=system.clock.now(), who="me", verb="cancel", what=unbegun))
        await book(system, unbegun)
        assert await trip_ends(system, unbegun) == ["compensated"]
        assert await all_effects(system, unbegun) == {unbegun: ["Book", "CANCELLED"]}


@server
async def test_what_is_paused_is_not_asked_until_it_goes_on(site: Site) -> None:
    service, every = site.of("service", "every")
    async with site.at_work(trip_app()) as system:
        await system.pause(service="hotels", who="me")
        await book(system, service)

        async def waits() -> bool:
            waiting = (await system.observer.saga(service)).waiting
            return [(one.step, one.why) for one in waiting] == [("room", "service hotels was paused by me")]

        await until(waits, "it waits for the hotel")
        await system.pause(all_of=trips.SAGA, who="me")
        await system.resume(service="hotels", who="me")
        await book(system, every)
        await asyncio.sleep(3)  # longer than whoever is paused waits before he asks again
        assert await all_effects(system, every) == {every: ["Book"]}
        assert await shop.effects(system, "hotels") == []
        await system.resume(all_of=trips.SAGA, who="me")
        assert await trip_ends(system, service, every) == ["completed", "completed"]
        assert await all_effects(system, service, every) == {service: BOOKED, every: BOOKED}


@server
async def test_temporals_own_cancel_leaves_nothing_half_done(site: Site) -> None:
    (name,) = site.of("a")
    async with stuck(site, name) as (system, conduct):
        await (await site.workflow(name, trips.SAGA)).cancel()

        async def has_seen_it() -> bool:
            told, asked = kinds(await site.history(name, trips.SAGA)), "WORKFLOW_EXECUTION_CANCEL_REQUESTED"
            return asked in told and "WORKFLOW_TASK_COMPLETED" in told[told.index(asked) :]

        await until(has_seen_it, "the workflow knows of it")
        conduct.now["mended"] = lambda: True
        await (await site.workflow(name, trips.SAGA)).signal(Name.RETRY)
        assert await trip_ends(system, name) == ["completed"]


# -- other ways to ask -------------------------------------------------------------------------------------------------


@server
async def test_participants_can_be_asked_by_messages(site: Site) -> None:
    good, late = site.of("good", "late")
    conduct = Conduct(now={f"Ship {late}": lambda: True})
    async with site.at_work(order_app(), conduct=conduct, orchestration={"participants": "commands"}) as system:
        await place(system, good, late)
        assert await ended(system, good, late) == {good: "completed", late: "compensated"}
        assert await all_effects(system, good) == {good: DONE}
        async with asyncio.timeout(PATIENCE_S):  # they hear of the end like everybody else
            assert await (await site.workflow(good)).result() == "completed"
            assert await (await site.workflow(late)).result() == "compensated"


@server
async def test_a_saga_that_began_without_temporal_ends_without_it(site: Site) -> None:
    old, new = site.of("old", "new")
    app, embedded = trip_app(), {"engine": "embedded"}
    most = ["orchestrator", "trips", "trains", "purse"]
    async with site.at_work(app, orchestration=embedded, services=most) as system:
        await book(system, old)

        async def waits() -> bool:
            return [one.step for one in (await system.observer.saga(old)).waiting] == ["room"]

        await until(waits, "it waits for the hotel")
    async with site.at_work(app) as system:
        await book(system, new)
        assert await trip_ends(system, old, new) == ["completed", "completed"]
        assert await all_effects(system, old, new) == {old: BOOKED, new: BOOKED}
    found = [one.id async for one in (await site.client()).list_workflows(f"WorkflowId = 'Trip/{old}'")]
    assert found == []


# -- versions ----------------------------------------------------------------------------------------------------------


@server
async def test_an_unknown_definition_waits_for_a_worker_that_has_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = site.of("a")
    app = order_app()
    (saga,) = app.sagas
    key = (saga.name, saga.fingerprint)
    async with site.at_work(app) as system:
        rules = definitions._RULES[key]
        monkeypatch.delitem(definitions._RULES, key)
        await place(system, name)

        async def has_failed() -> str:
            try:
                history = await site.history(name)
            except RPCError:  # it is not begun yet
                return ""
            failed = [one.workflow_task_failed_event_attributes for one in history.events]
            return next((one.failure.message for one in failed if one.failure.message), "")

        said = await until(has_failed, "the workflow task has failed")
        assert saga.fingerprint in said
        assert "run a worker with that definition" in said
        assert (await (await site.workflow(name)).describe()).status is WorkflowExecutionStatus.RUNNING
        monkeypatch.setitem(definitions._RULES, key, rules)
        assert await ended(system, name, within_s=2 * PATIENCE_S) == {name: "completed"}
        assert await all_effects(system, name) == {name: DONE}


def replayer() -> Replayer:
    restrictions = SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH)
    return Replayer(workflows=[SagaWorkflow], workflow_runner=SandboxedWorkflowRunner(restrictions=restrictions))


@server
async def test_histories_of_today_are_replayed_and_can_be_recorded(site: Site, tmp_path: Path) -> None:
    names = completed, compensated = site.of("completed", "compensated")
    conduct = Conduct(now={f"Room {compensated}": lambda: True})
    async with site.at_work(trip_app(), conduct=conduct) as system:
        await book(system, *names)
        assert await trip_ends(system, *names) == ["completed", "compensated"]
    for name, end in ((completed, "completed"), (compensated, "compensated")):
        text = (await site.history(name, trips.SAGA)).to_json()
        (tmp_path / f"{end}.json").write_text(text)
        await replayer().replay_workflow(WorkflowHistory.from_json(f"Trip/{name}", text))
        if os.environ.get("RECORD"):
            HISTORIES.mkdir(exist_ok=True)
            (HISTORIES / f"{end}.json").write_text(json.dumps(nameless(json.loads(text)), indent=1) + "\n")


def nameless(content: Any) -> Any:
    """The same without the names of machines and of the test."""
    if isinstance(content, dict):
        return {
            name: "worker" if name == "identity" else nameless(value)
            for name, value in content.items()
            if name not in ("stickyAttributes", "workerDeploymentName")
        }
    if isinstance(content, list):
        return [nameless(one) for one in content]
    # The queue of a worker's own is called by its process and machine.
    return "queue" if isinstance(content, str) and "@" in content else content


@pytest.mark.parametrize("end", ["completed", "compensated"])
async def test_a_recorded_history_is_replayed_by_the_workflow_of_today(end: str) -> None:
    definitions.know(trip_app().sagas)
    text = (HISTORIES / f"{end}.json").read_text()
    await replayer().replay_workflow(WorkflowHistory.from_json("Trip/recorded", text))


@pytest.mark.parametrize("end", ["completed", "compensated"])
async def test_a_history_that_the_workflow_would_not_have_made_is_noticed(end: str) -> None:
    definitions.know(trip_app().sagas)
    content = json.loads((HISTORIES / f"{end}.json").read_text())
    asks = [
        one["activityTaskScheduledEventAttributes"]
        for one in content["events"]
        if "activityTaskScheduledEventAttributes" in one
    ]
    asks[1]["activityType"]["name"] = Name.REFUSE.value
    with pytest.raises(Exception, match=r"(?i)nondeterminism"):
        await replayer().replay_workflow(WorkflowHistory.from_json("Trip/recorded", json.dumps(content)))


# -- settings ----------------------------------------------------------------------------------------------------------


@server
async def test_a_namespace_that_is_not_there_is_said_at_the_start(temporal_url: str, tmp_path: Path) -> None:
    site = Site(temporal_url.rpartition("/")[0] + "/nowhere", tmp_path)
    with pytest.raises(ConfigurationError, match="temporal operator namespace create"):
        async with site.at_work(order_app()):
            pass


@asynccontextmanager
async def behind_tls(server: str, certificates: Mapping[str, Path]) -> AsyncIterator[int]:
    """A port at which the server speaks TLS, to those who show a certificate."""
    target = parse(server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["own"], certificates["own-key"])
    context.load_verify_locations(certificates["authority"])
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])

    writers: list[asyncio.StreamWriter] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(target.host, target.port)
        writers.extend((writer, inner_writer))
        await asyncio.gather(pass_on(reader, inner_writer), pass_on(inner_reader, writer))

    listening = await asyncio.start_server(between, "127.0.0.1", 0, ssl=context)
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        for writer in writers:
            writer.transport.abort()
        # A lost connection is told in the next round of the loop, and its tasks end in the one after.
        for _ in range(5):
            await asyncio.sleep(0)


@server
@pytest.mark.slow
async def test_it_speaks_tls_and_shows_its_certificate(
    temporal_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEMPORAL_API_KEY", "a-secret-key")
    certificates = make_certificates(tmp_path, "temporal")
    files = f"ca={certificates['authority']}&certificate={certificates['own']}&key={certificates['own-key']}"
    async with behind_tls(temporal_url, certificates) as port:
        site = Site(f"temporal://127.0.0.1:{port}/default", tmp_path / "data", options=files)
        (name,) = site.of("a")
        async with site.at_work(order_app()) as system:
            await place(system, name)
            assert await ended(system, name) == {name: "completed"}
            assert system.workers["orchestrator"]._engine._client.api_key == "a-secret-key"  # type: ignore[attr-defined]
            assert "a-secret-key" not in repr(vars(system.workers["orchestrator"]._engine))  # type: ignore[attr-defined]
    assert "a-secret-key" not in caplog.text
