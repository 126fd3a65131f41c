"""Which channel a message is heard on, what is left out, and what a broker is asked to make."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from minuet.adapters.broker.port import Queue
from minuet.adapters.broker.topology import Topology, coordinations_of
from minuet.core.projection import Coordination
from minuet.ports import Subscription

UNDERSTOOD = frozenset({"Created", "Shipped", "Paid"})


def wanting(group: str, wanted: Mapping[str, Mapping[str, Coordination | None]]) -> Subscription:
    return Subscription(group=group, wanted=wanted, understood=UNDERSTOOD)


@pytest.fixture
def topology() -> Topology:
    """Two channels share a topic."""
    found = Topology({"orders": "shop", "shipping": "shop", "payments": "money"})
    found.remember(
        [wanting("stock", {"orders": {"Created": None}, "shipping": {"Shipped": Coordination.ORCHESTRATION}})],
        only_new=False,
    )
    return found


def test_a_queue_says_what_is_wanted_of_each_destination(topology: Topology) -> None:
    elsewhere = wanting("other", {"unknown": {"Created": None}})
    mixed = wanting("books", {"payments": {"Paid": None}, "orders": {"Created": None}, "unknown": {"Shipped": None}})
    assert topology.queues([*topology.subscriptions, elsewhere, mixed]) == [
        Queue("stock", ("shop",), {"shop": frozenset({"Created", "Shipped"})}, {"shop": frozenset({"Paid"})}),
        Queue(
            "books",
            ("money", "shop"),
            {"money": frozenset({"Paid"}), "shop": frozenset({"Created"})},
            {"money": frozenset({"Created", "Shipped"}), "shop": frozenset({"Shipped", "Paid"})},
        ),
    ]
    assert topology.destinations == ["money", "shop"]


@pytest.mark.parametrize(
    ("attributes", "channel"),
    [
        ({"type": "Created"}, "orders"),
        ({"type": "Shipped"}, "shipping"),
        ({"type": "Shipped", "sagacoordination": "orchestration"}, "shipping"),
        ({"type": "Shipped", "sagacoordination": "choreography"}, None),
        ({"type": "Shipped", "sagabegins": json.dumps([["S", "1", "f", "choreography"]])}, None),
        ({"type": "Shipped", "sagabegins": json.dumps([["S", "1", "f", "orchestration"]])}, "shipping"),
        ({"type": "Paid"}, None),
        ({"type": "Strange"}, "orders"),
        ({}, "orders"),
        ({"type": ""}, "orders"),
        ({"type": "Paid", "sagacoordination": "nonsense"}, "orders"),
        ({"type": "Paid", "sagabegins": "not json"}, "orders"),
        ({"type": "Paid", "sagabegins": "[1]"}, "orders"),
        ({"type": "Paid", "sagabegins": "7"}, "orders"),
    ],
)
def test_the_channel_is_the_one_where_it_is_wanted(
    topology: Topology, attributes: Mapping[str, str], channel: str | None
) -> None:
    assert topology.channel_for("stock", "shop", attributes) == channel


def test_a_destination_of_channels_that_the_group_does_not_hear_is_left_out(topology: Topology) -> None:
    assert topology.channel_for("stock", "money", {"type": "Paid"}) is None
    assert topology.channel_for("stock", "money", {}) is None


def test_what_comes_from_nowhere_is_delivered_so_that_somebody_sees_it(topology: Topology) -> None:
    assert topology.channel_for("stock", "forgotten", {"type": "Created"}) == "forgotten"


def test_who_hears_what(topology: Topology) -> None:
    assert topology.has_something_for("stock")
    assert not topology.has_something_for("nobody")
    assert topology.is_heard("orders")
    assert not topology.is_heard("payments")
    topology.remember([wanting("books", {"payments": {"Paid": None}})], only_new=True)
    assert topology.is_heard("payments")


def test_only_new_groups_are_remembered_when_told_so(topology: Topology) -> None:
    changed = wanting("stock", {"payments": {"Paid": None}})
    topology.remember([changed], only_new=True)
    assert topology.channel_for("stock", "money", {"type": "Paid"}) is None
    topology.remember([changed], only_new=False)
    assert topology.channel_for("stock", "money", {"type": "Paid"}) == "payments"


def test_a_group_of_channels_that_lie_elsewhere_has_nothing_here(topology: Topology) -> None:
    topology.remember([wanting("other", {"unknown": {"Created": None}})], only_new=True)
    assert not topology.has_something_for("other")


def test_coordinations_of_a_message_of_two_sagas() -> None:
    told = {"sagacoordination": "choreography", "sagabegins": json.dumps([["S", "1", "f", "orchestration"]])}
    assert coordinations_of(told) == [Coordination.CHOREOGRAPHY, Coordination.ORCHESTRATION]
