"""What the adapter of Temporal decides by itself: where it connects, what is due in a workflow, what an error means."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from minuet.adapters.temporal import definitions
from minuet.adapters.temporal.activities import NOT_YET, Activities, Late
from minuet.adapters.temporal.address import Address, parse
from minuet.adapters.temporal.engine import Secrets
from minuet.adapters.temporal.progress import Progress
from minuet.adapters.temporal.values import Begun, Due, Problem, Told
from minuet.bootstrap import running
from minuet.core.coordinator import Status, due
from minuet.core.errors import ConfigurationError, Conflict, DefinitionError, MessageError, NotFound, NotYet, Rejected
from minuet.core.saga import Saga
from minuet.settings import Orchestration, Settings
from tests.contract.temporal_app import trip_app
from tests.failures.shop import order_app

# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "target", "namespace"),
    [
        ("temporal://127.0.0.1:7233/default", "127.0.0.1:7233", "default"),
        ("temporal://engine", "engine:7233", "default"),
        ("temporal://engine/shop.a1b2c", "engine:7233", "shop.a1b2c"),
        ("temporal://[::1]:1234/x", "[::1]:1234", "x"),
    ],
)
def test_an_address_says_where_and_which_namespace(url: str, target: str, namespace: str) -> None:
    address = parse(url)
    assert (address.target, address.namespace, address.is_tls) == (target, namespace, False)


@pytest.mark.parametrize(
    "option", ["tls=true", "ca=/ca.pem", "certificate=/c&key=/k", "server_name=a", "api_key_file=/k"]
)
def test_what_only_tls_understands_means_tls(option: str) -> None:
    assert parse(f"temporal://engine/default?{option}").is_tls


def test_options_are_read() -> None:
    address = parse("temporal://engine/default?task_queue=q&activities_max=7")
    assert (address.task_queue, address.activities_max) == ("q", 7)
    assert parse("temporal://engine") == Address("engine")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("temporl://engine/default", "neither embedded nor the address of a Temporal server"),
        ("http://engine/default", "write temporal://HOST:7233/NAMESPACE"),
        ("temporal:engine", "neither embedded"),
        ("temporal:///default", "neither embedded"),
        ("temporal://engine:port/default", "is not a URL"),
        ("temporal://engine/a/b", "cannot be a namespace"),
        ("temporal://engine/default?queue=q", "there is no option 'queue'; there are task_queue"),
        ("temporal://engine/default?tls=yes", "tls is true or false"),
        ("temporal://engine/default?tls=false&ca=/ca.pem", "only TLS understands"),
        ("temporal://engine/default?key=/k", "certificate and key belong together"),
        ("temporal://engine/default?task_queue=", "once, and with a value"),
        ("temporal://engine/default?tls=true&tls=true", "once, and with a value"),
        ("temporal://engine/default?activities_max=0", "from 1 on"),
        ("temporal://engine/default?task_queue=a%20b", "cannot be a task queue"),
        ("temporal://me:secret@engine/default", "TEMPORAL_API_KEY"),
        ("temporal://engine/default?api_key=secret", "TEMPORAL_API_KEY"),
    ],
)
async def test_nonsense_is_refused_without_telling_secrets(url: str, said: str) -> None:
    settings = Settings(orchestration=Orchestration(engine=url))
    with pytest.raises(ConfigurationError, match=r"\[orchestration\] engine") as raised:
        async with running(order_app(), settings):
            pass
    assert said in str(raised.value)
    assert "secret" not in str(raised.value) + repr(settings)


def test_an_api_key_is_not_shown() -> None:
    assert "secret" not in repr(Secrets("secret"))


# -- what is due -------------------------------------------------------------------------------------------------------


def told(literal: str) -> Told:
    return Told(literal, "{}", "{}")


def saga_of(app: Callable[[], Any]) -> Saga:
    (saga,) = app().sagas
    assert isinstance(saga, Saga)
    return saga


ORDER, TRIP = saga_of(order_app), saga_of(trip_app)


def learnt(progress: Progress, *literals: str) -> list[list[str]]:
    return [[rule.id for rule in progress.learn(told(one))] for one in literals]


def test_a_saga_goes_its_way() -> None:
    progress = Progress(TRIP.rules)
    said = learnt(progress, "begin:succeeded", "seat:succeeded", "charge:succeeded", "room:succeeded")
    assert said == [["seat"], ["charge"], ["room"], ["completed"]]
    assert not progress.is_over
    assert learnt(progress, "completed:succeeded") == [[]]
    assert (progress.is_over, progress.status) == (True, Status.COMPLETED)


def test_a_refusal_is_undone_backwards() -> None:
    progress = Progress(TRIP.rules)
    learnt(progress, "begin:succeeded", "seat:succeeded", "charge:succeeded")
    said = learnt(progress, "room:refused", "charge:undone", "seat:undone", "compensated:succeeded")
    assert said == [["charge/undo"], ["seat/undo"], ["compensated"], []]
    assert (progress.is_over, progress.status) == (True, Status.COMPENSATED)


def test_what_is_heard_twice_says_nothing_new() -> None:
    progress = Progress(ORDER.rules)
    assert learnt(progress, "begin:succeeded", "begin:succeeded") == [["reserve", "pay"], []]


def test_a_message_before_the_beginning_is_kept() -> None:
    progress = Progress(ORDER.rules)
    said = learnt(progress, "reserve:succeeded", "begin:succeeded", "pay:succeeded")
    assert said == [[], ["reserve", "pay"], ["ship"]]


def test_a_saga_is_not_over_while_somebody_owes_an_answer() -> None:
    progress = Progress(ORDER.rules)
    learnt(progress, "begin:succeeded", "reserve:refused")
    assert [rule.id for rule in progress.waiting] == ["pay"]
    assert not progress.is_over


def test_a_command_gets_what_it_is_built_from_and_no_more() -> None:
    progress = Progress(TRIP.rules)
    learnt(progress, "begin:succeeded", "seat:succeeded", "charge:succeeded")
    assert [one.literal for one in progress.needed_by(progress.begun["charge"])] == ["seat:succeeded"]


def test_people_are_told_what_is_waited_for() -> None:
    progress = Progress(TRIP.rules)
    learnt(progress, "begin:succeeded")
    assert progress.described({}) == {
        "status": "running",
        "known": ["begin:succeeded"],
        "waiting": [{"step": "seat", "service": "trains", "command": "Seat", "why": "is asked"}],
    }
    said = progress.described({"seat": "no such door"})
    assert said["status"] == "needs operator"
    assert "no such door" in json.dumps(said)


@given(st.sampled_from([ORDER, TRIP]), st.data())
def test_whatever_the_order_each_command_is_due_once_and_by_the_coordinator(saga: Saga, data: st.DataObject) -> None:
    literals = data.draw(st.lists(st.sampled_from(sorted(map(str, saga.rules.events))), max_size=20))
    progress = Progress(saga.rules)
    begun = [rule for literal in literals for rule in progress.learn(told(literal))]
    assert len({rule.id for rule in begun}) == len(begun)
    assert {rule.id for rule in begun} == {rule.id for rule in due(saga.rules.every, progress.known)}


def test_an_unknown_definition_says_what_to_do() -> None:
    definitions.know([ORDER])
    assert definitions.rules_of(ORDER.name, ORDER.fingerprint) is not None
    with pytest.raises(
        definitions.UnknownDefinition, match=rf"under definition beef.*{ORDER.fingerprint}.*run a worker"
    ):
        definitions.rules_of(ORDER.name, "beef")


# -- what errors mean --------------------------------------------------------------------------------------------------


class Troubled:
    """Raises what it is told to."""

    def __init__(self, *, building: Exception | None = None, asking: Exception | None = None) -> None:
        self.building = building
        self.asking = asking
        self.bodies: list[str] = []

    async def build(self, due: Due) -> str:
        if self.building:
            raise self.building
        return "{}"

    async def ask(self, due: Due) -> Told:
        self.bodies.append(due.body)
        if self.asking:
            raise self.asking
        return told("seat:succeeded")

    async def refuse(self, refusing: Any) -> Told:
        raise NotImplementedError

    async def decide(self, deciding: Any) -> Told:
        raise NotImplementedError

    async def park(self, stuck: Any) -> None:
        raise NotImplementedError

    async def unpark(self, stuck: Any) -> None:
        raise NotImplementedError


def a_due(body: str = "") -> Due:
    return Due(Begun("Trip", "1", "f"), "seat", 0.0, "{}", [], body)


async def failure(troubled: Troubled) -> ApplicationError:
    with pytest.raises(ApplicationError) as raised:
        await ActivityEnvironment().run(Activities(troubled).ask, a_due())
    return raised.value


@pytest.mark.parametrize(
    ("building", "problem"),
    [
        (Late("deadline passed"), Problem.LATE),
        (Conflict("other content"), Problem.NEEDS_OPERATOR),
        (DefinitionError("wrong"), Problem.NEEDS_OPERATOR),
        (NotFound("no fare"), Problem.HOPELESS),
        (MessageError("unreadable"), Problem.HOPELESS),
        (ZeroDivisionError("a mistake"), Problem.FAILED),
    ],
)
async def test_what_cannot_be_built_is_the_workflows_to_decide(building: Exception, problem: Problem) -> None:
    error = await failure(Troubled(building=building))
    assert (error.type, error.non_retryable) == (problem.value, True)
    assert str(building) in error.message


@pytest.mark.parametrize("asking", [Conflict("other content"), Rejected("no such door"), MessageError("unreadable")])
async def test_what_will_never_be_answered_needs_an_operator(asking: Exception) -> None:
    error = await failure(Troubled(asking=asking))
    assert (error.type, error.non_retryable) == (Problem.NEEDS_OPERATOR.value, True)


@pytest.mark.parametrize("where", ["building", "asking"])
async def test_what_is_not_answered_yet_is_asked_again_when_the_participant_says(where: str) -> None:
    error = await failure(Troubled(**{where: NotYet("busy", retry_after_s=7.0)}))
    assert (error.type, error.non_retryable) == (NOT_YET, False)
    assert error.next_retry_delay is not None
    assert error.next_retry_delay.total_seconds() == 7.0


async def test_a_participant_that_fails_has_not_answered() -> None:
    error = await failure(Troubled(asking=OSError("connection reset")))
    assert (error.type, error.non_retryable) == (NOT_YET, False)


async def test_what_is_built_already_is_not_built_again() -> None:
    troubled = Troubled(building=AssertionError("again"))
    await ActivityEnvironment().run(Activities(troubled).ask, a_due('{"tripId":"1"}'))
    assert troubled.bodies == ['{"tripId":"1"}']
