"""Participants that answer late, twice, never, slowly, with garbage, 500s or 409: asked over HTTP and by messages.

They know nothing of minuet: over HTTP it is a socket, on the embedded broker its tables, on NATS the client of NATS.
The same list for each way, and the same ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from abc import abstractmethod
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nats
import pytest
import pytest_asyncio

from minuet import Settings, running
from minuet.adapters import http_participants
from minuet.adapters.sqlite import SqliteTransport
from minuet.adapters.system import SystemClock, SystemIds
from minuet.bootstrap.system import System
from minuet.core.envelope import Envelope
from minuet.core.projection import Coordination
from minuet.observer import NEEDS_OPERATOR, ParkedView
from minuet.ports import Delivery, Done, EntryState, Outgoing, Subscription
from tests.failures.misbehaviour import MISBEHAVIOURS, TIMEOUT_S, Asked, Behaviour, Misbehaviour, refuses, well
from tests.failures.shop import until
from tests.servers import server_url
from tests.unit.doors.test_unreliable_participants import (
    AGAIN_S,
    APP,
    JSON,
    PROBLEM,
    Ask,
    Hall,
    HangUp,
    Impatient,
    Request,
    answer_to,
    hall_at_work,
    response,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

SAGA = "Booking"
PATIENCE_S = 30.0
TROUBLES = 2
"""So often it misbehaves, if it does not always."""
COMMANDS = {"hall": ("Book", "Cancel"), "bank": ("Invoice",)}
SERVICE = {command: service for service, commands in COMMANDS.items() for command in commands}
CHANNEL = {"Invoiced": "bank", "Declined": "bank", "StepRefused": "hall.refused"}
"""Of events that the hall does not say on its own."""
NEXT = {"completed": {"Book", "Invoice"}, "compensated": {"Book"}}


class Question(NamedTuple):
    command: str
    key: str
    body: str


class Participant:
    """Decides what becomes of each question.

    Attributes:
        plans: by booking, how to misbehave. asked: by booking, what was asked.
    """

    def __init__(self) -> None:
        self.plans: dict[str, Misbehaviour] = {}
        self.asked: defaultdict[str, list[Question]] = defaultdict(list)

    async def meet(self, asked: Asked, key: str, body: str) -> None:
        self.asked[asked.booking].append(Question(asked.command, key, body))
        await self._behaviour(asked)(asked)

    def _behaviour(self, asked: Asked) -> Behaviour:
        plan = self.plans.get(asked.booking)
        if plan is None:
            return well
        if asked.command == plan.on:
            return plan.behaves if plan.lasts or self.times(asked.booking, plan.on) <= TROUBLES else well
        return refuses("Declined") if (asked.command, plan.on) == ("Invoice", "Cancel") else well

    def times(self, booking: str, command: str) -> int:
        return sum(one.command == command for one in self.asked[booking])


# -- over HTTP ---------------------------------------------------------------------------------------------------------


class OverHttp(Asked):
    def __init__(self, request: Request) -> None:
        self._request = request
        self.command = "Book" if request.is_booking else "Cancel" if request.method == "DELETE" else "Invoice"
        self.booking = request.booking

    async def say(self, event: str, content: Mapping[str, Any]) -> None:
        body = json.dumps({"eventType": event, **content}).encode()
        await self._request.send(response("200 OK", body, JSON))

    async def refuse(self, refusal: str, content: Mapping[str, Any]) -> None:
        body = json.dumps({"type": f"https://hall.example/problems#{refusal}", "title": refusal, **content}).encode()
        await self._request.send(response("409 Conflict", body, PROBLEM))

    async def raw(self, body: bytes) -> None:
        await self._request.send(response("200 OK", body, JSON))

    async def fail(self) -> None:
        await self._request.send(response("500 Oh", b"Traceback (most recent call last)"))

    async def hang(self) -> None:
        await asyncio.Event().wait()

    async def vanish(self) -> None:
        raise HangUp

    async def drip(self) -> None:
        for byte in answer_to(self._request):
            await self._request.send(bytes([byte]))
            await asyncio.sleep(TIMEOUT_S / 10)


class HttpHall(Hall):
    """A server that asks its `Participant` what to do."""

    def __init__(self, participant: Participant) -> None:
        super().__init__()
        self.participant = participant

    async def _serve(self, request: Request) -> None:
        asked = OverHttp(request)
        await self.participant.meet(asked, request.headers["idempotency-key"], json.dumps(request.body))


# -- by messages -------------------------------------------------------------------------------------------------------


class Post:
    """A broker, as seen by a program that has its client and has read docs/participants.md."""

    @abstractmethod
    async def put(self, channel: str, attributes: Mapping[str, str], body: bytes) -> None: ...

    @abstractmethod
    async def vanish(self) -> None:
        """Lose the connection, with all that was not acknowledged."""


class ByMessages(Asked):
    """The wire contract by hand: attributes and a body."""

    def __init__(self, post: Post, participant: Participant, attributes: Mapping[str, str], body: bytes) -> None:
        self._post = post
        self._participant = participant
        self._attributes = attributes
        self.command = attributes["type"]
        self.booking = str(json.loads(body)["booking"])

    @property
    def key(self) -> str:
        return "/".join(self._attributes[name] for name in ("saga", "sagaid", "sagastep"))

    async def _put(self, channel: str, event: str, body: bytes) -> None:
        asked = self._attributes
        repeated = {name: value for name, value in asked.items() if name.startswith("saga") or name == "correlationid"}
        # The same answer has the same id, another one has another.
        attributes = {
            "specversion": "1.0", "id": uuid.uuid5(uuid.NAMESPACE_URL, f"{self.key} {event} {body.hex()}").hex,
            "type": event, "source": SERVICE[self.command], "time": "2026-01-31T12:00:00Z",
            "datacontenttype": "application/json", "causationid": asked["id"], **repeated,
        }  # fmt: skip
        await self._post.put(channel, attributes, body)

    async def say(self, event: str, content: Mapping[str, Any]) -> None:
        channel = CHANNEL.get(event, SERVICE[self.command])
        await self._put(channel, event, json.dumps({"eventType": event, **content}).encode())

    async def refuse(self, refusal: str, content: Mapping[str, Any]) -> None:
        await self.say(refusal, content)

    async def raw(self, body: bytes) -> None:
        await self._put("hall", "Booked", body)

    async def fail(self) -> None:
        """Nothing says so."""

    async def hang(self) -> None:
        """Nor that."""

    async def vanish(self) -> None:
        await self._post.vanish()

    async def drip(self) -> None:
        while self._participant.times(self.booking, self.command) <= TROUBLES:
            await asyncio.sleep(TIMEOUT_S / 10)
        await self.done()


class EmbeddedPost(Post):
    """The tables of the embedded broker."""

    def __init__(self, file: Path, participant: Participant) -> None:
        self._file = file
        self._participant = participant
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        await self._connect()
        try:
            yield
        finally:
            await self._disconnect()
            for task in self._tasks:
                task.cancel()

    async def _connect(self) -> None:
        self._transport = SqliteTransport(self._file, clock=SystemClock(), ids=SystemIds())
        await self._transport.start()
        groups = [
            Subscription(group=service, wanted={f"{service}.commands": dict.fromkeys(commands)})
            for service, commands in COMMANDS.items()
        ]
        await self._transport.declare(groups)
        self._hearing = [asyncio.create_task(self._hear(service)) for service in COMMANDS]

    async def _disconnect(self) -> None:
        for task in self._hearing:
            task.cancel()
        await asyncio.gather(*self._hearing, return_exceptions=True)
        await self._transport.close()

    async def _hear(self, service: str) -> None:
        while True:
            for one in await self._transport.receive(service, 10):
                self._begin(self._meet(one))

    def _begin(self, doing: Any) -> None:
        task = asyncio.get_running_loop().create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _meet(self, delivery: Delivery) -> None:
        asked = ByMessages(self, self._participant, dict(delivery.attributes), delivery.body)
        plan = self._participant.plans.get(asked.booking)
        if plan is None or plan.behaves is not MISBEHAVIOURS["dies meanwhile"].behaves:
            await self._transport.settle([(delivery, Done())])
            await self._participant.meet(asked, asked.key, delivery.body.decode())
            return
        transport = self._transport
        await self._participant.meet(asked, asked.key, delivery.body.decode())
        if transport is self._transport:  # it has lived on
            await transport.settle([(delivery, Done())])

    async def put(self, channel: str, attributes: Mapping[str, str], body: bytes) -> None:
        # `publish` writes good attributes only.
        envelope = Envelope(id="", type=attributes["type"], source="", time=0.0, body=body, key=attributes["sagaid"])
        queues, text = self._transport._queues, json.dumps(dict(attributes))
        await self._transport._told(
            self._transport._database.submit(lambda: queues.keep([(Outgoing(0, channel, envelope), text)], {}))
        )

    async def vanish(self) -> None:
        await self._disconnect()
        await self._connect()


class NatsPost(Post):
    """The client of NATS."""

    def __init__(self, url: str, stream: str, participant: Participant) -> None:
        self._url = url
        self._stream = stream
        self._participant = participant
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        async with await nats.connect(self._url) as client:
            self._stream_of = client.jetstream()
            hearing = [asyncio.create_task(self._hear(service)) for service in COMMANDS]
            try:
                yield
            finally:
                for task in (*hearing, *self._tasks):
                    task.cancel()
                await asyncio.gather(*hearing, *self._tasks, return_exceptions=True)
                await self._stream_of.delete_stream(self._stream)

    async def _hear(self, service: str) -> None:
        subject = f"{self._stream}.{service}.commands"
        pulled = await self._stream_of.pull_subscribe(subject, durable=f"by-hand-{service}", stream=self._stream)
        while True:
            with contextlib.suppress(nats.errors.TimeoutError):
                for one in await pulled.fetch(10, timeout=5):
                    task = asyncio.create_task(self._meet(one))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def _meet(self, message: Any) -> None:
        attributes = {name.removeprefix("ce-"): value for name, value in message.headers.items()}
        asked = ByMessages(self, self._participant, attributes, message.data)
        try:
            await self._participant.meet(asked, asked.key, message.data.decode())
        except HangUp:
            await message.nak()  # so the server gives it to somebody at once, and not after its 30 seconds
        else:
            await message.ack()

    async def put(self, channel: str, attributes: Mapping[str, str], body: bytes) -> None:
        headers = {f"ce-{name}": value for name, value in attributes.items()}
        await self._stream_of.publish(f"{self._stream}.{channel}", body, headers=headers)

    async def vanish(self) -> None:
        raise HangUp


# -- the orchestrator that asks it -------------------------------------------------------------------------------------


class Stage:
    def __init__(self, system: System, participant: Participant, way: str) -> None:
        self.system = system
        self.participant = participant
        self.way = way

    async def ended(self, booking: str) -> str:
        async with asyncio.timeout(PATIENCE_S):
            return (await self.system.ended(SAGA, booking)).value

    async def parked(self, booking: str, reason: str) -> ParkedView:
        async def found() -> ParkedView | None:
            for one in await self.system.observer.parked():
                if reason in one.reason and one.attributes.get("sagaid") == booking:
                    return one
            return None

        view: ParkedView = await until(found, f"{reason!r} is parked", within_s=PATIENCE_S, every_s=0.01)
        return view

    async def nothing_is_asked_any_more(self, booking: str) -> None:
        store = self.system.stores["orchestrator"]

        async def all_done() -> bool:
            entries = await store.transact(lambda tx: tx.records.entries_of(SAGA, booking), reads_only=True)
            return {one.state for one in entries} == {EntryState.DONE}

        await until(all_done, "everything that was asked for is answered", within_s=PATIENCE_S)


@asynccontextmanager
async def over_http(folder: Path) -> AsyncIterator[Stage]:
    participant = Participant()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_participants, "RETRY_S", AGAIN_S)
        async with hall_at_work(HttpHall(participant)) as hall:
            settings = settings_on(folder, "memory:", {"hall": hall.url, "bank": hall.url})
            async with running(APP, settings, parts=Impatient) as system:
                yield Stage(system, participant, "http")


@asynccontextmanager
async def on_embedded(folder: Path) -> AsyncIterator[Stage]:
    participant = Participant()
    post = EmbeddedPost(folder / "broker.db", participant)
    async with running(APP, settings_on(folder, "embedded:", BY_MESSAGES)) as system, post.at_work():
        yield Stage(system, participant, "messages")


@asynccontextmanager
async def on_nats(folder: Path) -> AsyncIterator[Stage]:
    participant = Participant()
    url, stream = server_url("nats"), f"hall-{uuid.uuid4().hex[:10]}"
    post = NatsPost(url, stream, participant)
    async with running(APP, settings_on(folder, f"{url}/{stream}", BY_MESSAGES)) as system, post.at_work():
        yield Stage(system, participant, "messages")


BY_MESSAGES = {"hall": "commands", "bank": "commands"}


def settings_on(folder: Path, channels: str, participants: dict[str, str]) -> Settings:
    return Settings(
        data=folder,
        stores={"default": "memory:"},
        channels={"*": channels},
        coordination={SAGA: Coordination.ORCHESTRATION},
        orchestration={"ask_again_s": TIMEOUT_S / 2},  # type: ignore[arg-type]
        participants=participants,
    )


WAYS = [
    pytest.param(over_http, id="http"),
    pytest.param(on_embedded, id="messages"),
    pytest.param(on_nats, id="messages-on-nats", marks=pytest.mark.server),
]


@pytest_asyncio.fixture(params=WAYS, scope="module", loop_scope="module")
async def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with request.param(tmp_path_factory.mktemp("hall")) as made:
        yield made


@pytest.mark.parametrize("what", MISBEHAVIOURS)
async def test_24_however_it_misbehaves_the_saga_ends_as_it_should(stage: Stage, what: str) -> None:
    case, booking, participant = MISBEHAVIOURS[what], what.replace(" ", "-").replace("'", ""), stage.participant
    participant.plans[booking] = case
    await stage.system.send(Ask(booking=booking))

    noticed = case.over_http if stage.way == "http" else case.by_messages
    if noticed and not case.lasts:
        parked = await stage.parked(booking, noticed)
        if stage.way == "http":
            assert (await stage.system.observer.saga(booking, SAGA)).status == NEEDS_OPERATOR
            participant.plans[booking] = Misbehaviour(behaves=well, on=case.on, lasts=True)
            assert await stage.system.observer.reopen(parked.id)
        # By messages it is asked again in any case; what was said instead of an answer stays to be looked at.
    assert await stage.ended(booking) == case.end
    await stage.nothing_is_asked_any_more(booking)
    if noticed and case.lasts:
        await stage.parked(booking, noticed)

    asked = participant.asked[booking]
    assert {one.command for one in asked} == ({*SERVICE} if case.on == "Cancel" else NEXT[case.end])
    assert len({(one.command, one.key, one.body) for one in asked}) == len({one.command for one in asked}), asked
    view = await stage.system.observer.saga(booking, SAGA)
    answers = [one.type for one in view.messages if one.type not in ("Asked",)]
    assert len(answers) == len(set(answers)), "each was told once"
    for one in view.messages:
        if one.type == "Booked":
            assert json.loads(one.body)["seat"] == f"seat of {booking}", "the answer is the good one, and its own"


async def test_24_an_answer_that_names_no_saga_is_known_by_what_it_says(stage: Stage) -> None:
    """A program that does not know what a saga is tells what it did, and about what."""
    if stage.way == "http":
        await stage.system.send(Ask(booking="plain"))
        assert await stage.ended("plain") == "completed"
        return

    async def plainly(asked: Asked) -> None:
        assert isinstance(asked, ByMessages)
        asked._attributes = {name: value for name, value in asked._attributes.items() if not name.startswith("saga")}
        asked._attributes |= {"saga": "", "sagaid": "plain", "sagastep": ""}
        await asked.done()

    stage.participant.plans["plain"] = Misbehaviour(behaves=plainly, lasts=True)
    await stage.system.send(Ask(booking="plain"))
    assert await stage.ended("plain") == "completed"
    await stage.nothing_is_asked_any_more("plain")
