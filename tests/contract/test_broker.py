"""`BrokerTransport` keeps the promises, on a broker in memory that keeps its own."""

from typing import ClassVar

import pytest

from minuet.adapters.broker import BrokerTransport
from minuet.adapters.broker.port import Sending
from minuet.adapters.system import SystemIds
from minuet.ports import Features, Transport
from minuet.testing.transport_contract import CHANNELS, OpenTransport, TransportContract
from tests.unit.adapters.fake_broker import FakeBroker, FakeServer, destinations


class TestBrokerTransport(TransportContract):
    hold_s: ClassVar[float | None] = None
    tears: ClassVar[bool] = False

    @pytest.fixture
    def open_transport(self) -> OpenTransport:
        self.server = FakeServer(
            features=self.features, hold_s=self.hold_s, filters=self.leaves_out_unwanted, tears=self.tears
        )
        return lambda: BrokerTransport(FakeBroker(self.server), destinations(*CHANNELS), ids=SystemIds())

    @pytest.fixture
    def open_unprovisioned(self, open_transport: OpenTransport) -> OpenTransport:
        channels = destinations(*CHANNELS)
        return lambda: BrokerTransport(FakeBroker(self.server), channels, ids=SystemIds(), provision=False)

    async def restart(self) -> None:
        await self.server.stop()
        await self.server.start()

    async def unroute(self, transport: Transport) -> None:
        self.server.queues.clear()

    async def send_bare(self, channel: str, body: bytes) -> None:
        stranger = FakeBroker(self.server)
        await stranger.connect()
        sending = Sending(f"topic/{channel}", key="", attributes={}, body=body, must_arrive=True)
        assert await stranger.send([sending]) == [None]


class TestBrokerThatKeepsEverything(TestBrokerTransport):
    """The member leaves out what its group does not want."""

    leaves_out_unwanted = False


class TestBrokerThatTearsEverythingApart(TestBrokerTransport):
    """What was published at once comes one by one, as it may from every broker that has much to do: no test of the
    suite may count on more."""

    tears = True


class TestBrokerThatPromisesLess(TestBrokerTransport):
    features = Features(ordered_across_members=False, shares_lanes=True, counts_deliveries=False)
    hold_s = 0.05


@pytest.mark.parametrize(
    ("suite", "lacks"),
    [
        (TestBrokerTransport, set[str]()),
        (
            TestBrokerThatPromisesLess,
            {
                "test_a_member_that_stands_still_leaves_the_work_to_others",
                "test_messages_of_a_key_come_in_order_to_several_members",
                "test_nothing_overtakes_a_message_of_its_key_in_somebodys_hands",
            },
        ),
    ],
)
def test_only_what_was_never_promised_is_left_out(suite: type[TransportContract], lacks: set[str]) -> None:
    every = {name for name in vars(TransportContract) if name.startswith("test_")}
    assert {name for name in every if getattr(suite, name) is None} == lacks


def test_a_suite_without_hooks_has_no_tests_that_need_them() -> None:
    class Bare(TransportContract):
        pass

    left_out = {name for name in vars(TransportContract) if name.startswith("test_") and getattr(Bare, name) is None}
    assert left_out == {
        "test_the_broker_may_be_killed_in_the_middle",
        "test_what_was_confirmed_is_there_after_the_broker_was_killed",
        "test_a_strangers_bare_message_arrives",
        "test_a_strangers_garbage_arrives_and_holds_nobody_up",
        "test_what_nobody_can_get_any_more_is_not_published",
        "test_who_may_make_nothing_says_what_is_missing",
    }
