"""Every kind of fault does happen, does what it says, and is survived on its own; the mixes are what they should be."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from minuet.testing.simulation import At, Faults, Nth, Report, World
from minuet.testing.simulation.faults import KINDS, PER_MINUTE
from tests.simulation.shop import shop_simulation

ONLY_UNORDERED = "message_reordered"
STRONG = 10.0


def only(kind: str) -> Faults:
    """Nothing but this fault, and much of it."""
    everything = Faults.all(STRONG)
    others = [other for other in KINDS if other != kind]
    return everything.without(*others)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "operator"])
def test_each_kind_alone_happens_and_is_survived(kind: str) -> None:
    fired: Counter[str] = Counter()
    for how, machines in (("choreography", "apart"), ("orchestration", "twins")):
        simulation = shop_simulation(
            6, coordination=how, machines=machines, faults=only(kind), ordered=kind != ONLY_UNORDERED
        )
        report = simulation.run(len(how))
        assert set(report.sagas) <= {"completed", "compensated"}
        fired += report.fired
    assert fired[kind] >= 2
    assert set(fired) <= {kind}


def runs_until(kind: str, **settings: object) -> Report:
    """The first run in which it happened."""
    simulation = shop_simulation(10, **settings)  # type: ignore[arg-type]
    return next(report for seed in range(40) if (report := simulation.run(seed)).fired[kind])


@pytest.mark.slow
def test_an_operator_tries_again_what_is_parked() -> None:
    faults = only("operator").without("clock_skew")
    report = runs_until("operator", faults=faults, coordination="choreography")
    assert set(report.sagas) <= {"completed", "compensated"}


def test_without_faults_none_happens() -> None:
    report = shop_simulation(4, faults=Faults()).run(0)
    assert not report.fired
    assert report.sagas.total() == 4


def moments(report: Report, kind: str) -> list[float]:
    return [one.at_s for one in report.trace.moments if one.kind == "fault" and one.what == kind.replace("_", " ")]


@pytest.mark.parametrize("kind", ["kill", "restart", "pause", "zombie", "clock_jump", "broker_down"])
def test_a_scheduled_fault_happens_at_its_time(kind: str) -> None:
    machine = "" if kind == "broker_down" else "payment"
    planned = (At(3.0, kind, machine, for_s=5.0), At(12.0, kind, machine, for_s=1.0))
    report = shop_simulation(4, machines="apart", faults=Faults(schedule=planned)).run(0)
    assert moments(report, kind) == [pytest.approx(3.0, abs=1e-9), pytest.approx(12.0, abs=1e-9)]
    assert report.fired == Counter({kind: 2})


def test_no_fault_happens_after_its_time() -> None:
    report = shop_simulation(6, faults=Faults.all(3.0)).run(0)
    late = [one for one in report.trace.moments if one.kind == "fault" and one.at_s > 20.0]
    assert report.fired.total() > 50
    assert not late


def test_a_paused_machine_does_nothing_and_then_goes_on() -> None:
    faults = Faults(schedule=(At(2.0, "pause", "payment", for_s=16.0),))
    report = shop_simulation(8, machines="apart", faults=faults).run(1)
    does = [one.at_s for one in report.trace.moments if one.kind == "commits" and one.who == "payment"]
    assert not [at_s for at_s in does if 2.0 < at_s < 18.0]
    assert [at_s for at_s in does if at_s >= 18.0]


def test_a_zombie_is_survived_by_its_twin() -> None:
    faults = Faults(schedule=(At(2.0, "zombie", "one", for_s=30.0),))
    report = shop_simulation(8, machines="twins", faults=faults).run(1)
    assert [one for one in report.trace.moments if 2.0 < one.at_s < 30.0 and one.kind == "commits"]


def test_an_unknown_machine_or_kind_of_fault_is_a_mistake() -> None:
    for planned in (At(1.0, "kill", "nobody"), At(1.0, "flood", "payment")):
        simulation = shop_simulation(1, machines="apart", faults=Faults(schedule=(planned,)))
        with pytest.raises(ValueError, match="there is no"):
            simulation.run(0)


def test_a_killed_machine_is_started_again_and_forgets_nothing() -> None:
    simulation = shop_simulation(0, machines="apart", faults=Faults())
    seen: list[object] = []

    @simulation.drive
    async def kill_all(world: World) -> None:
        for machine in world.machines.values():
            before = machine.process
            machine.kill()
            await world.sleep(5.0)
            seen.append(machine.process is not before and machine.is_up)

    simulation._eventually.clear()
    simulation.run(0)
    assert seen == [True] * 6


# -- mixes -------------------------------------------------------------------------------------------------------------


def test_a_swarm_leaves_some_out_and_makes_others_strong() -> None:
    mixes = [Faults.swarm(random.Random(seed)) for seed in range(200)]
    usual = Faults.all()
    for name in usual.__dataclass_fields__:
        rates = [getattr(mix, name) for mix in mixes]
        if name in ("schedule", "exactly", "until_s"):
            continue
        assert 60 <= rates.count(0.0) <= 140, name
        assert min(filter(None, rates)) < getattr(usual, name) < max(rates)


def test_a_mix_is_told_as_it_would_be_written() -> None:
    mix = Faults(store_busy=0.25, schedule=(At(1.0, "kill", "payment"),), exactly=(Nth("disk_full", 3),))
    assert eval(str(mix)) == mix
    assert str(Faults()) == "Faults()"


def test_every_kind_has_a_rate() -> None:
    rates = {name.removesuffix(PER_MINUTE).removesuffix("_s") for name in Faults.__dataclass_fields__}
    assert set(KINDS) == rates - {"schedule", "exactly", "until"}
