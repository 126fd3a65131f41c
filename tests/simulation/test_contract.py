"""The store and the broker of a simulated world keep what all stores and transports promise, if nothing goes wrong."""

from __future__ import annotations

import asyncio
from typing import ClassVar, cast

import pytest

from minuet import App
from minuet.ports import Features
from minuet.settings import Settings
from minuet.testing.simulation import Faults, World
from minuet.testing.simulation.broker import SimulatedTransport
from minuet.testing.simulation.database import SimulatedStore
from minuet.testing.simulation.dice import Dice
from minuet.testing.simulation.invariants import Broken
from minuet.testing.simulation.loop import SimulatedLoop
from minuet.testing.simulation.machine import Machine, Process
from minuet.testing.store_contract import OpenStore, StoreContract
from minuet.testing.transport_contract import OpenTransport, TransportContract


class Unwatched(World):
    """On an ordinary loop; and what the suites do keeps none of the runtime's promises."""

    def breaks(self, broken: Broken) -> None: ...


def world_of_now(*, ordered: bool = True) -> World:
    return Unwatched(
        App("nothing", services=[]),
        seed=0,
        settings=Settings(),
        machines={},
        faults=Faults(),
        ordered=ordered,
        loop=cast(SimulatedLoop, asyncio.get_running_loop()),
        dice=Dice(0),
    )


def process_of(world: World) -> Process:
    return Process(Machine(world, "one", []), 1)


class TestSimulatedStore(StoreContract):
    @pytest.fixture
    async def open_store(self) -> OpenStore:
        world = world_of_now()
        return lambda: SimulatedStore(world, process_of(world), world.database("orders"), "")


class TestSimulatedTransport(TransportContract):
    @pytest.fixture
    async def open_transport(self) -> OpenTransport:
        world = world_of_now()
        return lambda: SimulatedTransport(world.broker, process_of(world))


class TestSimulatedTransportWithoutOrder(TransportContract):
    features: ClassVar[Features] = Features(ordered_per_key=False, ordered_across_members=False)

    @pytest.fixture
    async def open_transport(self) -> OpenTransport:
        world = world_of_now(ordered=False)
        return lambda: SimulatedTransport(world.broker, process_of(world))
