"""What is waited for: in time, too late, refused, before anybody waits for it, and never. In both coordinations."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from minuet import NotYet, StepAbandoned, StepAccepted, StepRefused
from minuet.testing import Given, World, participant
from tests.scenarios.waiting import (
    DELAY_S,
    WITHIN_S,
    Approve,
    Approved,
    Closed,
    Declined,
    Disapproved,
    Dropped,
    Order,
    Pay,
    Release,
    Repay,
    Reserve,
    Send,
    Sent,
    app_of,
)

Begin = Callable[..., Given]
O1 = "o1"
stock, money, van, desk = (participant(name) for name in ("stock", "money", "van", "desk"))


def deeds(world: World) -> list[str]:
    rows = (world.rows(name, "SELECT what FROM deeds ORDER BY rowid") for name in ("stock", "money", "van"))
    return [row["what"] for found in rows for row in found]


def is_clean(world: World) -> None:
    """Nothing remains of what was done."""
    done = deeds(world)
    assert done.count("reserved") == done.count("released") <= 1, done
    assert done.count("paid") == done.count("repaid") <= 1, done
    assert "sent" not in done


def is_whole_or_clean(world: World) -> None:
    """Everything is done, or nothing remains."""
    done = deeds(world)
    if "sent" in done:
        assert sorted(done) == ["paid", "reserved", "sent"]
    else:
        is_clean(world)


# -- within ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_sync", [True, False])
def test_what_comes_in_time_is_accepted(given: Begin, is_sync: bool) -> None:
    (
        given(app_of(is_sync=is_sync))
        .when(Order(order_id=O1))
        .after(seconds=10)
        .when(Approved(order_id=O1))
        .then_done(Reserve, Pay, Send)
        .then(StepAccepted, step="pay")
        .then(StepAccepted, step="approval")
        .then_never(StepAbandoned)
        .then(Sent, approved_by="ada")
        .then_ends("completed")
    )


def test_what_does_not_come_in_time_is_abandoned_and_undone_when_it_succeeds_late(given: Begin) -> None:
    (
        given(app_of())
        .when(Order(order_id=O1))
        .and_when(money.takes(Pay, seconds=WITHIN_S + 30))
        .then(StepAbandoned, step="pay", reason="time is up")
        .then_done(Reserve, Release, Pay, Repay)
        .then(Dropped, why="time is up")
        .then_ends("compensated")
        .then_holds(is_clean)
    )


def test_what_was_not_begun_when_it_is_abandoned_is_refused(given: Begin) -> None:
    (
        given(app_of(is_sync=True))
        .when(Order(order_id=O1))
        .and_when(money.fails(Pay, times=12, error=NotYet("the till is locked", retry_after_s=5.0)))
        .then(StepAbandoned, step="pay")
        .then(StepRefused, service="money", reason="cancelled")
        .then_never(Repay)
        .then_ends("compensated")
        .then_holds(is_clean)
    )


def test_who_hears_of_it_after_it_was_abandoned_undoes_it_or_does_not_begin(given: Begin) -> None:
    (
        given(app_of(is_sync=True))
        .when(Order(order_id=O1))
        .and_when(money.is_down_for(seconds=WITHIN_S + 30))
        .then(StepAbandoned, step="pay")
        .then_ends("compensated")
        .then_holds(is_clean)
    )


def test_a_refusal_in_time_leaves_nothing_to_decide(given: Begin) -> None:
    (
        given(app_of())
        .when(Order(order_id=O1))
        .and_when(money.refuses(Pay, Declined(order_id=O1)))
        .then_never(StepAbandoned)
        .then_never(StepAccepted)
        .then(Dropped, why="Declined")
        .then_ends("compensated")
        .then_holds(is_clean)
    )


@pytest.mark.parametrize("late_s", [-2.0, -0.5, -0.05, 0.0, 0.05, 0.5])
def test_whoever_comes_first_decides(given: Begin, late_s: float) -> None:
    (
        given(app_of(), seed=int(late_s * 100) + 500)
        .when(Order(order_id=O1), money.takes(Pay, seconds=WITHIN_S + late_s))
        .and_when(Approved(order_id=O1))
        .then_holds(
            lambda world: deeds(world).count("paid") - deeds(world).count("repaid") == deeds(world).count("sent")
        )
    )


@pytest.mark.parametrize("who", ["van", "desk", "money", "stock"])
def test_everybody_may_be_away_for_a_while(given: Begin, who: str) -> None:
    (
        given(app_of())
        .when(Order(order_id=O1), Approved(order_id=O1))
        .after(seconds=1)
        .when(participant(who).is_down_for(seconds=WITHIN_S * 4))
        .then_holds(
            lambda world: deeds(world).count("paid") - deeds(world).count("repaid") == deeds(world).count("sent")
        )
    )


# -- an event from outside ---------------------------------------------------------------------------------------------


def test_it_may_come_before_the_saga_gets_there(given: Begin) -> None:
    (
        given(app_of())
        .when(Approved(order_id=O1, by="bea"))
        .after(seconds=5)
        .when(Order(order_id=O1))
        .then(Sent, approved_by="bea")
        .then_ends("completed")
    )


def test_it_may_come_from_a_service_of_our_own(given: Begin) -> None:
    (
        given(app_of())
        .when(Order(order_id=O1))
        .after(seconds=5)
        .when(Approve(order_id=O1))
        .then(Sent, approved_by="our own office")
        .then_ends("completed")
    )


def test_what_comes_too_late_changes_nothing(given: Begin) -> None:
    (
        given(app_of())
        .when(Order(order_id=O1))
        .after(minutes=3)
        .when(Approved(order_id=O1))
        .then(StepAbandoned, step="approval", reason="time is up")
        .then_undone(Pay, Reserve)
        .then_ends("compensated")
        .then_holds(is_clean)
    )


def test_somebody_outside_may_say_no(given: Begin) -> None:
    (
        given(app_of(within=False))
        .when(Order(order_id=O1))
        .after(minutes=3)
        .when(Disapproved(order_id=O1))
        .then(StepAbandoned, step="approval", reason="refused by Disapproved")
        .then_undone(Pay, Reserve)
        .then_ends("compensated")
        .then_holds(is_clean)
    )


def test_said_twice_it_is_said_once(given: Begin) -> None:
    (
        given(app_of())
        .when(Order(order_id=O1))
        .after(seconds=5)
        .when(Approved(order_id=O1, by="ada"), Approved(order_id=O1, by="ada"))
        .after(seconds=5)
        .when(Disapproved(order_id=O1))
        .then_ends("completed")
        .then_holds(lambda world: deeds(world).count("sent") == 1)
    )


def test_a_branch_that_is_refused_ends_the_waiting_beside_it(given: Begin) -> None:
    (
        given(app_of(within=False, is_parallel=True))
        .when(Order(order_id=O1))
        .and_when(money.takes(Pay, seconds=WITHIN_S + 20))
        .then(StepAbandoned, step="approval", reason="another branch was refused")
        .then_ends("compensated")
        .then_holds(is_clean)
    )


def test_branches_that_are_accepted_both_let_it_go_on(given: Begin) -> None:
    (
        given(app_of(is_parallel=True))
        .when(Order(order_id=O1))
        .after(seconds=10)
        .when(Approved(order_id=O1))
        .then_ends("completed")
    )


@pytest.mark.parametrize("who", ["desk", "stock", "money", "van"])
@pytest.mark.parametrize("coordination", ["choreography", "orchestration"])
def test_waiting_survives_a_restart(given: Begin, who: str, coordination: str) -> None:
    (
        given(app_of(within=False), coordination=coordination)
        .when(Order(order_id=O1))
        .after(minutes=5)
        .when(participant(who if coordination == "choreography" else "orchestrator").is_down_for(seconds=5))
        .after(minutes=5)
        .when(Approved(order_id=O1))
        .then_ends("completed")
    )


# -- delay, and the deadline of a saga ---------------------------------------------------------------------------------


def test_a_delayed_step_is_done_later(given: Begin) -> None:
    def is_late(world: World) -> None:
        """The parcel goes so much later."""
        times = {one.what.split(" ")[0]: one.at_s for one in world.happened.moments if one.kind == "says"}
        assert times["Sent"] - times["Paid"] >= DELAY_S  # what made it due; that it was accepted is told later

    given(app_of()).when(Order(order_id=O1), Approved(order_id=O1)).then_holds(is_late).then_ends("completed")


def test_after_the_deadline_of_the_saga_nothing_is_waited_for(given: Begin) -> None:
    (
        given(app_of(within=False, deadline=timedelta(seconds=50)))
        .when(Order(order_id=O1))
        .then(StepAbandoned, step="approval", reason="the saga's deadline passed")
        .then_undone(Pay, Reserve)
        .then_ends("compensated")
    )


@pytest.mark.parametrize("is_sync", [True, False])
def test_after_the_deadline_of_the_saga_everybody_refuses(given: Begin, is_sync: bool) -> None:
    (
        given(app_of(is_sync=is_sync, deadline=timedelta(seconds=20)))
        .when(Order(order_id=O1))
        .and_when(stock.is_down_for(seconds=40))
        .then(StepRefused, service="stock", reason="the saga's deadline passed")
        .then_never(Pay)
        .then_ends("compensated")
    )


def test_past_the_last_step_that_may_be_refused_a_deadline_has_no_effect(given: Begin) -> None:
    (
        given(app_of(deadline=timedelta(seconds=20)))
        .when(Order(order_id=O1), Approved(order_id=O1))
        .and_when(van.is_down_for(seconds=100))
        .then_holds(
            lambda world: deeds(world).count("paid") - deeds(world).count("repaid") == deeds(world).count("sent")
        )
    )


def test_it_is_completed_after_its_deadline_if_only_what_cannot_be_refused_is_late(given: Begin) -> None:
    (
        given(app_of(deadline=timedelta(seconds=15)))
        .when(Order(order_id=O1), Approved(order_id=O1))
        .then(Closed)
        .then_ends("completed")
    )
