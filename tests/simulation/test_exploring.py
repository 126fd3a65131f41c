"""Exploring goes through every way in which a small saga can go, and finds what only one of them shows."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest

from minuet import App, Command, Database, Event, Refusal, Saga, Service, step
from minuet.testing.simulation import Bounds, Explored, Faults, Simulation, SimulationFailed, World
from minuet.testing.simulation.exploring import CRASHES
from minuet_shop.contracts import PlaceOrder
from tests.simulation.shop import books_balance, customers_hear_once, ends_are_true, outside, shelves_agree, shop
from tests.simulation.test_mutations import settles_before_it_commits

BOTH = ("choreography", "orchestration")

# -- two steps, one undo, three places ---------------------------------------------------------------------------------


class Booked(Event, channel="trips"):
    trip_id: str


class SeatHeld(Event, channel="seats"):
    trip_id: str


class SeatFreed(Event, channel="seats"):
    trip_id: str


class Paid(Event, channel="payments"):
    trip_id: str


class NoMoney(Refusal, channel="payments"):
    trip_id: str


class Book(Command, service="trips", answers=(Booked,), key="trip_id"):
    trip_id: str


class HoldSeat(Command, service="seats", answers=(SeatHeld,), key="trip_id"):
    trip_id: str


class FreeSeat(Command, service="seats", answers=(SeatFreed,), key="trip_id"):
    trip_id: str


class Pay(Command, service="payments", answers=(Paid, NoMoney), key="trip_id"):
    trip_id: str


NOTES = """
CREATE TABLE IF NOT EXISTS heard (position INTEGER PRIMARY KEY, what TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS board (trip_id TEXT PRIMARY KEY, line TEXT NOT NULL);
"""
LINES = {Booked: "booked", SeatHeld: "seat held", SeatFreed: "seat freed", Paid: "paid", NoMoney: "not paid"}
ANY_LINE = "INSERT INTO board VALUES (:trip_id, :line) ON CONFLICT (trip_id) DO UPDATE SET line = excluded.line"
NOT_AFTER_THE_LAST = f"{ANY_LINE} WHERE board.line NOT IN ('paid', 'not paid')"


def trips_app(*, pays: bool = True, shows: str = NOT_AFTER_THE_LAST) -> App:
    """A trip is booked: a seat is held, then it is paid. A board at the counter shows how far it is."""
    trips, seats, payments = Service("trips", schema=NOTES), Service("seats"), Service("payments")

    @trips.handles(Book)
    def book(command: Book) -> Booked:
        return Booked(trip_id=command.trip_id)

    @seats.handles(HoldSeat)
    def hold(command: HoldSeat) -> SeatHeld:
        return SeatHeld(trip_id=command.trip_id)

    @seats.handles(FreeSeat)
    def free(command: FreeSeat) -> SeatFreed:
        return SeatFreed(trip_id=command.trip_id)

    @payments.handles(Pay)
    def pay(command: Pay) -> Paid | NoMoney:
        return Paid(trip_id=command.trip_id) if pays else NoMoney(trip_id=command.trip_id)

    def listen(event: type[Event]) -> None:
        def show(event: Any, db: Database) -> None:
            db.execute("INSERT INTO heard (what) VALUES (:what)", what=type(event).__name__)
            db.execute(shows, trip_id=event.trip_id, line=LINES[type(event)])

        show.__annotations__ = {"event": event, "db": Database, "return": None}
        show.__name__ = f"show_{event.__name__.lower()}"
        trips.on(event)(show)

    for event in (SeatHeld, Paid, NoMoney):
        listen(event)
    saga = Saga("Trips", begins_with=Booked, key="trip_id", steps=[step(HoldSeat, undo=FreeSeat), step(Pay)])
    return App("travel", services=[trips, seats, payments], sagas=[saga])


def one_trip(coordination: str = "any", **options: Any) -> Simulation:
    simulation = Simulation(trips_app(**options), coordination=coordination, machines="apart")

    @simulation.drive
    async def book(world: World) -> None:
        await world.send(Book(trip_id="t1"))

    @simulation.eventually
    def the_board_shows_the_end(world: World) -> None:
        """The board shows how it ended."""
        (row,) = world.rows("trips", "SELECT line FROM board")
        assert row["line"] in ("paid", "not paid"), row

    return simulation


def heard_orders(simulation: Simulation) -> Counter[tuple[str, ...]]:
    """In which orders the board heard of things, and in how many runs."""
    orders: Counter[tuple[str, ...]] = Counter()

    @simulation.eventually
    def note(world: World) -> None:
        orders[tuple(row["what"] for row in world.rows("trips", "SELECT what FROM heard ORDER BY position"))] += 1

    return orders


EVERYTHING = Bounds(reorders_with_fault_max=None)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("pays", "end", "bounds", "runs_min"), [(True, "completed", EVERYTHING, 300), (False, "compensated", Bounds(), 250)]
)
def test_a_saga_of_two_steps_and_one_undo_ends_alike_in_every_way_it_can_go(
    pays: bool, end: str, bounds: Bounds, runs_min: int
) -> None:
    """All orders, every single crash and every single duplicate; where nothing is undone, in every combination."""
    explored = one_trip(pays=pays).explore(bounds)
    print(explored)
    assert explored.is_complete
    assert set(explored.sagas) == {end}
    assert len(explored.outcomes) == 1
    assert set(explored.faults) == {*CRASHES, "message_doubled"}
    assert explored.runs >= runs_min


@pytest.mark.parametrize(("pays", "orders"), [(True, 3), (False, 8)])
def test_there_are_as_many_orders_as_one_can_count(pays: bool, orders: int) -> None:
    """What the counter hears of the seat comes anywhere among the rest, which is one chain, or ends in two at once."""
    explored = one_trip("choreography", pays=pays).explore(Bounds(faults=()))
    assert explored.runs == explored.without_faults == orders


def test_every_order_in_which_a_place_can_hear_comes_up() -> None:
    simulation = one_trip("choreography")
    orders = heard_orders(simulation)
    simulation.explore(Bounds(faults=()))
    assert orders == {("SeatHeld", "Paid"): 2, ("Paid", "SeatHeld"): 1}


def test_what_only_one_order_shows_is_found_and_can_be_seen_again() -> None:
    """The board simply shows what it heard last."""
    simulation = one_trip("choreography", shows=ANY_LINE)
    for seed in range(5):
        simulation.run(seed, faults=Faults())  # where nothing goes wrong nothing is seen of it
    with pytest.raises(SimulationFailed) as found:
        simulation.explore(Bounds(faults=()))
    failed = found.value
    assert failed.promise == "The board shows how it ended."
    assert failed.choices
    called = str(failed).rpartition("To see it again: ")[2]
    with pytest.raises(SimulationFailed) as again:
        eval(called, {"simulation": simulation})
    assert str(again.value.trace) == str(failed.trace)


def test_a_single_crash_shows_who_settles_before_he_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = one_trip("choreography")
    simulation.patience_s = 60.0
    simulation.explore(Bounds(reorders_max=0, faults=("crash_before_commit",)))
    settles_before_it_commits(monkeypatch)
    with pytest.raises(SimulationFailed) as found:
        simulation.explore(Bounds(reorders_max=0, faults=("crash_before_commit",)))
    assert found.value.faults.count == 1


def test_a_message_that_comes_early_is_one_more_choice() -> None:
    usual, with_early = (
        one_trip("choreography").explore(Bounds(faults=(), reorders_max=0, preemptions_max=early)) for early in (0, 1)
    )
    assert usual.runs == 1
    assert with_early.runs > 5
    assert with_early.outcomes.keys() == usual.outcomes.keys()


def test_a_bound_on_the_runs_is_not_taken_for_everything() -> None:
    explored = one_trip("choreography").explore(Bounds(runs_max=7))
    assert explored.runs == 7
    assert not explored.is_complete
    assert "NOT all" in str(explored)


def test_twice_the_same() -> None:
    def explore() -> tuple[Explored, list[str]]:
        simulation, digests = one_trip("choreography"), []

        @simulation.eventually
        def remember(world: World) -> None:
            digests.append(world.happened.digest())

        return simulation.explore(Bounds(faults=("message_doubled",))), digests

    one, other = explore(), explore()
    assert one == other
    assert len(set(one[1])) == one[0].runs  # no two runs are the same


def test_choices_of_another_simulation_are_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"there are \d options"):
        one_trip().run(choices="0:9")
    with pytest.raises(ValueError, match="written as in 17:1"):
        one_trip().run(choices="zero")
    with pytest.raises(ValueError, match="there is no fault 'kill' to choose"):
        Bounds(faults=("kill",))


# -- the shop: one order, one fault, everywhere ------------------------------------------------------------------------

LEAST = 70
"""So many opportunities there are at least: with fewer, something is not looked at any more."""


def one_order(coordination: str, customer: str) -> Simulation:
    simulation = Simulation(shop, coordination=coordination, provided=partial(outside, is_reliable=True))

    @simulation.drive
    async def order(world: World) -> None:
        await world.send(PlaceOrder(order_id="o1", customer_id=customer, items=["ITEM001"]))

    for service, check in (("inventory", shelves_agree), ("orders", ends_are_true)):
        simulation.always(of=service)(check)
    simulation.eventually(books_balance)
    simulation.eventually(customers_hear_once)
    return simulation


@pytest.mark.slow
@pytest.mark.parametrize(("customer", "end"), [("c1", "completed"), ("NOADDRESS1", "compensated")])
@pytest.mark.parametrize("coordination", BOTH)
def test_no_single_fault_changes_how_an_order_ends(coordination: str, customer: str, end: str) -> None:
    kinds = (*CRASHES, "disk_full", "message_doubled", "reply_lost")
    explored = one_order(coordination, customer).explore(
        Bounds(faults=kinds, reorders_max=0, reorders_with_fault_max=0)
    )
    print(f"{coordination}, {end}: {explored}")
    assert explored.is_complete
    assert len(explored.outcomes) == 1
    assert set(explored.sagas) == {end}
    assert set(explored.faults) == set(kinds)
    assert explored.runs >= LEAST


@pytest.mark.slow
@pytest.mark.parametrize("coordination", BOTH)
def test_no_order_of_deliveries_changes_how_an_order_ends(coordination: str) -> None:
    explored = one_order(coordination, "c1").explore(Bounds(faults=()))
    print(f"{coordination}: {explored}")
    assert explored.is_complete
    assert len(explored.outcomes) == 1
    assert set(explored.sagas) == {"completed"}
