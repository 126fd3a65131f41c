"""Both coordinations do the same: the same steps, the same undos and the same end for every saga, whatever goes wrong.

What a participant decides here depends on the piece of business alone, and not on how often it was tried: then nothing
is left that could differ but the coordination.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from minuet import App, Command, Event, RetryPolicy, Service
from minuet.core.compile import UNDO_SUFFIX, Kind
from minuet.core.messages import name_of, refusals, successes
from minuet.core.saga import Saga
from minuet.testing.simulation import Faults, Report, Simulation, World
from tests.simulation.shop import shop_simulation
from tests.unit.core.sagas import Begun, Case, choose_case, expected, seeded, two_refusals_at_once

COORDINATIONS = ("choreography", "orchestration")
SHOP_SEEDS = range(4)
SAGA_SEEDS = range(20)
ANY_SEEDS = range(1000, 1020)
SAGAS_AT_ONCE = 5
EVERYTHING = ("red", "green", "blue", "white")

Outcomes = Mapping[tuple[str, str], Mapping[str, str]]

pytestmark = pytest.mark.slow


def differences(one: Outcomes, other: Outcomes) -> Iterator[str]:
    for saga in sorted({*one, *other}):
        if one.get(saga) != other.get(saga):
            yield f"{saga}: {one.get(saga)} and {other.get(saga)}"


# -- the shop ----------------------------------------------------------------------------------------------------------


def faults_of(seed: int) -> Faults:
    """A mix of its own for each seed. Without what makes a step give up: that it does is a matter of time."""
    return Faults.swarm(random.Random(seed))


@pytest.mark.parametrize("seed", SHOP_SEEDS)
def test_the_shop_does_the_same_in_both(seed: int) -> None:
    reports = [
        shop_simulation(8, rare=False, coordination=how, faults=faults_of(seed), reliable=True).run(seed)
        for how in COORDINATIONS
    ]
    assert not list(differences(*(report.outcomes for report in reports)))
    assert reports[0].sagas == reports[1].sagas
    assert reports[0].sagas.total() == 8


# -- generated sagas ---------------------------------------------------------------------------------------------------


PATIENT = RetryPolicy(attempts_max=50, delay_max_s=5.0)


class Begin(Command, service="beginner", answers=(Begun,), key="thing_id"):
    thing_id: str


def app_of(case: Case, retry: RetryPolicy = PATIENT) -> App:
    """Services that perform a generated saga; each command decides as the case says, on whichever attempt."""
    services: dict[str, Service] = {"beginner": Service("beginner")}
    for name in EVERYTHING:
        services[name] = Service(name)

    @services["beginner"].handles(Begin)
    def begin(command: Begin) -> Begun:
        return Begun(thing_id=command.thing_id, origin="somewhere", latest="begun")

    by_command: dict[type[Command], list[str]] = {}
    for rule in case.saga.rules.every:
        if rule.watch is not None:
            continue
        by_command.setdefault(rule.command, []).append(rule.id)
    for command, rules in by_command.items():
        handle(services[command.__contract__.service], command, rules, case, retry)
    return App("generated", services=list(services.values()), sagas=[case.saga])


def handle(service: Service, command: type[Command], rules: list[str], case: Case, retry: RetryPolicy) -> None:
    kinds = {rule.kind for rule in case.saga.rules.every if rule.id in rules}
    refuses = kinds == {Kind.DO} and any(rule in case.refusing for rule in rules)
    is_async = int(hashlib.sha256(name_of(command).encode()).hexdigest(), 16) % 3 == 0

    def decide(command: Command) -> Event:
        declared = refusals(type(command))
        if refuses and declared:
            return declared[0](latest="no")  # type: ignore[call-arg]
        if refuses:
            raise RuntimeError("it never succeeds, and cannot say no")
        done: tuple[Any, ...] = successes(type(command))
        return done[0](latest=f"done by {name_of(command)}")

    async def slowly(command: Command) -> Event:
        await asyncio.sleep(0.3)
        return decide(command)

    handler: Callable[..., Any] = slowly if is_async else decide
    handler.__annotations__ = {"command": command, "return": _any_of(command)}
    handler.__name__ = f"do_{name_of(command).lower()}"
    service.handles(command, retry=retry)(handler)


def _any_of(command: type[Command]) -> Any:
    answers = command.__contract__.answers
    found: Any = answers[0]
    for answer in answers[1:]:
        found = found | answer
    return found


def is_decided_by_business_alone(case: Case) -> bool:
    """Steps that share a command must agree, and no step is refused by its deadline, which is a matter of time.

    Nor may two commands have one name, as they sometimes do there.
    """
    if not has_names_of_its_own(case):
        return False
    commands: dict[type[Command], set[bool]] = {}
    for step in case.saga.steps:
        commands.setdefault(step.command, set()).add(step.name in case.refusing)
        if step.deadline is not None or (step.name in case.refusing and not refusals(step.command)):
            return False
    return all(len(decisions) == 1 for decisions in commands.values())


def has_names_of_its_own(case: Case) -> bool:
    every = {rule.command for rule in case.saga.rules.every if rule.watch is None}
    return len({name_of(command) for command in every}) == len(every)


def simulation_of(app: App, **settings: Any) -> Simulation:
    """Begins some sagas, and says what they wait for: before, in time, or late, but always."""
    simulation = Simulation(app, **settings)
    awaited = [wait.event for saga in app.sagas for wait in saga.waits]

    async def say(world: World, thing_id: str) -> None:
        for event in awaited:
            await world.sleep(world.random.uniform(0.0, 10.0))
            world.tell(event(latest=f"heard of {thing_id}"), key=thing_id)  # type: ignore[call-arg]

    @simulation.drive
    async def begin(world: World) -> None:
        saying = []
        for number in range(SAGAS_AT_ONCE):
            saying.append(asyncio.create_task(say(world, f"t{number}")))
            await world.send(Begin(thing_id=f"t{number}"))
            await world.sleep(world.random.uniform(0.0, 2.0))
        await asyncio.gather(*saying)

    return simulation


def done_in(report: Report, saga: Saga) -> Iterator[tuple[frozenset[str], frozenset[str]]]:
    """Of each saga which steps were decided, and which undone."""
    for decided in report.outcomes.values():
        names = {step.name for step in saga.steps}
        yield (
            frozenset(names & decided.keys()),
            frozenset(rule.removesuffix(UNDO_SUFFIX) for rule in decided if rule.endswith(UNDO_SUFFIX)),
        )


def generated() -> Iterator[tuple[int, Case]]:
    seeds = iter(range(10_000))
    for _ in SAGA_SEEDS:
        yield next((seed, case) for seed in seeds if is_decided_by_business_alone(case := choose_case(seeded(seed))))


CASES = dict(generated())


@pytest.mark.parametrize("seed", CASES)
def test_generated_sagas_do_the_same_in_both(seed: int) -> None:
    case, wanted = CASES[seed], expected(CASES[seed])
    faults = faults_of(seed)
    reports = [simulation_of(app_of(case), coordination=how, faults=faults).run(seed) for how in COORDINATIONS]
    assert not list(differences(*(report.outcomes for report in reports)))
    for report in reports:
        assert report.sagas == Counter({"completed" if wanted.complete else "compensated": SAGAS_AT_ONCE})
        for decided, undone in done_in(report, case.saga):
            assert decided == wanted.succeeded | wanted.refused, case
            assert undone == wanted.undone, case


@pytest.mark.parametrize("seed", ANY_SEEDS)
def test_any_generated_saga_keeps_every_promise(seed: int) -> None:
    """Also with deadlines, with steps that never succeed, and with an operator for what cannot be refused any more.

    Half of the sagas wait for events from outside, and have steps that may be abandoned.
    """
    case = choose_case(seeded(seed), waits=seed % 2 == 1)
    if not has_names_of_its_own(case):
        case = two_refusals_at_once()
    report = simulation_of(app_of(case, RetryPolicy(attempts_max=6, delay_max_s=5.0))).run(seed)
    assert report.sagas.total() == SAGAS_AT_ONCE
    assert set(report.sagas) <= {"completed", "compensated", "needs operator"}


def test_the_generated_sagas_are_worth_running() -> None:
    """Guards the guard: some complete, some are undone over several steps, some have parallel branches."""
    found = [expected(case) for case in CASES.values()]
    assert sum(one.complete for one in found) >= 5
    assert sum(len(one.undone) >= 2 for one in found) >= 2
    assert sum("parallel" in repr(case) for case in CASES.values()) >= 5
