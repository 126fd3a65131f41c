"""What comes from the broker: twice, late, in another order, poisoned, or as garbage. It is done once, or parked."""

import asyncio
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from minuet import MessageError, NotFound, NotYet, System
from minuet.adapters.system import SystemClock
from minuet.bootstrap import hear_again
from minuet.codec import BODY_BYTES_MAX, HOPS_MAX, attributes_of
from minuet.ports import Outgoing
from minuet.settings import Settings
from tests.failures.grounds import Site, Stranger
from tests.failures.shop import (
    ATTEMPTS,
    DONE,
    PAYMENT_DECLINED,
    Conduct,
    Place,
    Placed,
    all_effects,
    at_work,
    circle_app,
    effects,
    ended,
    fail,
    notes_app,
    order_app,
    place,
    tap,
    unpublished,
    until,
)

pytestmark = [pytest.mark.server, pytest.mark.timeout(150)]

ATTRIBUTES = {
    "specversion": "1.0",
    "source": "tests",
    "time": "2026-01-31T12:00:00Z",
    "datacontenttype": "application/json",
}


async def note(site: Site, number: int, *, about: str = "a", note_id: str = "", text: str = "", **more: str) -> None:
    """A stranger's event for `notes_app`."""
    attributes = {**ATTRIBUTES, "type": "Noted", "id": note_id or f"{about}/{number}", "partitionkey": about, **more}
    body = {"about": about, "number": number, "text": text}
    await site.stranger.put("notes", attributes, json.dumps(body).encode())


async def say_again(stranger: Stranger, message: Outgoing, **more: str) -> None:
    """The same message, by an independent client."""
    await stranger.put(message.channel, {**attributes_of(message.envelope), **more}, message.envelope.body)


async def parked(system: System) -> Sequence[tuple[str, str, str]]:
    """Service, kind and reason of everything that is parked."""
    return [(one.service, one.kind, one.reason) for one in await system.observer.parked(limit=10_000)]


async def heard(system: System, service: str, count: int) -> Sequence[tuple[str, str]]:
    """What the service has written down, once it is so much."""

    async def enough() -> Sequence[tuple[str, str]]:
        found = await effects(system, service)
        return found if len(found) >= count else []

    found = await until(enough, f"{service} has heard {count} messages")
    assert len(found) == count, found
    return list(found)


# 13, 14, 16


async def test_13_a_message_that_comes_ten_times_at_once_is_handled_once(site: Site, tmp_path: Path) -> None:
    async with at_work(order_app(), site.channels, tmp_path) as system:
        told = tap(system)
        await place(system, "o1")
        await ended(system, "o1")
        await system.drained()
        begin = next(one for one in told if one.envelope.type == "Placed")
        paid = next(one for one in told if one.envelope.type == "Paid")
        again = [say_again(site.stranger, one, **more) for one in (begin, paid) for more in ten_ids()]
        await asyncio.gather(*again)
        await place(system, "o2")  # what comes after them shows that they have been taken in
        await ended(system, "o2")
        await everything_is_taken_in(system, site)
        found = await all_effects(system, "o1", "o2")
        assert found == {"o1": DONE, "o2": DONE}


def ten_ids() -> list[dict[str, str]]:
    """Five times as it is, and five times as another message that says the same."""
    return [{}] * 5 + [{"id": f"another-{number}"} for number in range(5)]


async def everything_is_taken_in(system: System, site: Site) -> None:
    """One more message to each place that listens to these channels, in the same line as what was sent before."""
    for number in range(3):  # more than one partition, and each has its own line
        order_id = f"last-{number}-{system.ids.new()}"
        await place(system, order_id)
        await ended(system, order_id)


async def test_14_a_message_that_comes_again_after_eight_days_is_handled_once(site: Site, tmp_path: Path) -> None:
    """No broker knows it by then: what we did is in our own inbox, which forgets nothing."""
    async with at_work(order_app(), site.channels, tmp_path) as system:
        told = tap(system)
        await place(system, "o1")
        await ended(system, "o1")
        await system.drained()
    later = Later(8 * 24 * 3600)
    async with at_work(order_app(), site.channels, tmp_path, clock=later) as system:
        await asyncio.gather(*(say_again(site.stranger, one, time="2026-12-31T00:00:00Z") for one in told))
        await everything_is_taken_in(system, site)
        assert (await all_effects(system, "o1"))["o1"] == DONE


@dataclass
class Later:
    """The system's clock, put forward."""

    by_s: float

    def now(self) -> float:
        return SystemClock().now() + self.by_s


async def test_16_a_reply_that_comes_late_changes_nothing_that_was_taken_back(site: Site, tmp_path: Path) -> None:
    conduct = Conduct(now={"Pay": lambda: True})
    async with at_work(order_app(), site.channels, tmp_path, conduct=conduct) as system:
        told = tap(system)
        await place(system, "o1")
        assert await ended(system, "o1") == {"o1": "compensated"}
        await system.drained()
        conduct.now.clear()
        late = [one for one in told if one.envelope.type in ("Placed", "Reserved", "Declined")]
        assert len(late) == 3
        for number, message in enumerate(late * 2):
            await say_again(site.stranger, message, id=f"late-{number}")
        await everything_is_taken_in(system, site)
        assert (await all_effects(system, "o1"))["o1"] == PAYMENT_DECLINED
        assert await ended(system, "o1") == {"o1": "compensated"}


# 15


async def test_15_messages_in_any_order_lead_to_the_same_end(site: Site, tmp_path: Path) -> None:
    """The messages of a saga, recorded once, and told in every order to one service that hears them all."""
    conduct = Conduct(now={"Ship": lambda: True})
    async with at_work(order_app(), site.channels, tmp_path / "first", conduct=conduct) as system:
        told = tap(system)
        await place(system, "template")
        await ended(system, "template")
        await system.drained()
        wanted = [one for one in told if one.envelope.type in ("Placed", "Paid", "Reserved", "NoAddress")]
        assert len(wanted) == 4
    orders: dict[str, Sequence[Outgoing]] = {
        f"order-{number}": permutation for number, permutation in enumerate(itertools.permutations(wanted))
    }
    expected = {"stock": ["Release", "Reserve"], "shipping": ["Ship"]}
    async with at_work(order_app(), site.channels, tmp_path / "second", services=list(expected)) as system:

        async def tell(order_id: str, messages: Sequence[Outgoing]) -> None:
            for message in messages:
                attributes = {
                    name: value.replace("template", order_id) for name, value in attributes_of(message.envelope).items()
                }
                body = message.envelope.body.replace(b"template", order_id.encode())
                await site.stranger.put(message.channel, attributes, body)

        await asyncio.gather(*(tell(order_id, messages) for order_id, messages in orders.items()))

        async def all_of_it() -> Mapping[str, int]:
            found = {service: len(await effects(system, service)) for service in expected}
            return found if all(found[name] >= len(expected[name]) * len(orders) for name in expected) else {}

        await until(all_of_it, "every order has led to the same")
        found = await all_effects(system, *orders)
        everything = sorted(what for those in expected.values() for what in those)
        assert found == dict.fromkeys(orders, everything)


# 23, 24, 25


async def test_23_a_message_that_always_fails_is_parked_and_the_order_of_others_is_kept(
    site: Site, tmp_path: Path
) -> None:
    conduct = Conduct(now={"Noted poison": fail})
    keys, numbers = ("a", "poison", "b", "c"), range(8)
    async with at_work(notes_app(), site.channels, tmp_path, conduct=conduct) as system:
        for number in numbers:
            for key in keys:
                await note(site, number, about=key)
        good = [key for key in keys if key != "poison"]
        found = await heard(system, "listener", len(good) * len(numbers))
        for key in good:
            assert [number for about, number in found if about == key] == [str(number) for number in numbers]

        async def given_up() -> Sequence[tuple[str, str, str]]:
            those = [one for one in await parked(system) if one[0] == "listener"]
            return those if len(those) == len(numbers) else []

        those = await until(given_up, "the poisoned ones are parked")
        assert {kind for _, kind, _ in those} == {"reaction"}
        assert all("it cannot be done" in reason for _, _, reason in those)
        views = [one for one in await system.observer.parked() if one.service == "listener"]
        assert {one.attempts for one in views} == {ATTEMPTS}


async def test_24_garbage_is_parked_with_a_reason_and_holds_nobody_up(site: Site, tmp_path: Path) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    bodies = [
        b"not json", b"{", b"null", b"7", b'"text"', b"[]", b'{"about": NaN, "number": 1}', deep,
        b'{"about": "a"}', b'{"about": "a", "number": "many"}', b'{"about": "a", "number": 1e400}',
        b'\xef\xbb\xbf{"about": "a", "number": 1}', b"\x80\x81", b'{"about": "\\ud800", "number": 1}',
    ]  # fmt: skip
    odd_attributes: list[dict[str, str]] = [
        {"type": "Unheard"}, {"type": ""}, {"dataversion": "99"}, {"dataversion": "x"}, {"time": "yesterday"},
        {"hops": "many"}, {"hops": "-1"}, {"sagacoordination": "none"}, {"sagabegins": "{"}, {"sagabegins": "[[1]]"},
        {"specversion": "7"}, {"datacontenttype": "image/png"}, {"expirytime": "never"}, {"source": ""},
        {"traceparent": "x" * 2000}, {"id": "\u00fc\u4e2d\U0001f3bb"},
    ]  # fmt: skip
    async with at_work(notes_app(), site.channels, tmp_path) as system:
        for number, body in enumerate(bodies):
            await site.stranger.put("notes", {**ATTRIBUTES, "type": "Noted", "id": f"body-{number}"}, body)
        for number, odd in enumerate(odd_attributes):
            attributes = {**ATTRIBUTES, "type": "Noted", "id": f"odd-{number}", **odd}
            await site.stranger.put("notes", {name: value for name, value in attributes.items() if value}, b"{}")
        rubbish = await site.stranger.rubbish("notes")
        for number in range(9):
            await note(site, number, about=f"good-{number}")
        assert len(await heard(system, "listener", 9)) == 9
        sent = len(bodies) + len(odd_attributes) + rubbish

        async def all_parked() -> Sequence[tuple[str, str, str]]:
            those = await parked(system)
            counts = [sum(service == name for service, _, _ in those) for name in ("listener", "clerk")]
            return those if counts == [sent, sent] else []

        try:
            those = await until(all_parked, f"{sent} messages are parked at both", within_s=20)
        except AssertionError:
            views = [one for one in await system.observer.parked() if one.service == "listener"]
            raise AssertionError(sorted((one.attributes.get("id", ""), one.reason) for one in views)) from None
        assert all(kind == "message" and reason for _, kind, reason in those)


async def test_25_what_is_too_large_is_refused_where_it_is_written(site: Site, tmp_path: Path) -> None:
    async with at_work(order_app(), site.channels, tmp_path) as system:
        (transport,) = system.transports.values()
        most = transport.features.body_bytes_max
        frame = len(system.codec.encode(Placed(order_id="o1"), time=0.0)) + 20
        if most < BODY_BYTES_MAX:
            with pytest.raises(NotYet, match="operator"):
                await system.send(Place(order_id="too-large", note="x" * (most + 1)))
            ((service, kind, reason),) = await parked(system)
            assert (service, kind) == ("orders", "command")
            assert f"{most} at most" in reason
        else:  # then it is too large for any transport, and for a command, too
            with pytest.raises(MessageError, match="is the most"):
                await system.send(Place(order_id="too-large", note="x" * (most + 1)))
        assert await unpublished(system, "orders") == 0
        await place(system, "o1", note="x" * (most - frame))
        await place(system, "o2")
        assert await ended(system, "o1", "o2") == {"o1": "completed", "o2": "completed"}
        assert "too-large" not in [name for _, name in await effects(system, "orders")]


# 27, 31, 34, 35


async def test_27_a_slow_key_does_not_stop_others(site: Site, tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def wait() -> None:
        await go_on.wait()

    conduct = Conduct(meanwhile={"Noted slow": wait})
    async with at_work(notes_app(), site.channels, tmp_path, conduct=conduct):
        for number in range(5):
            await note(site, number, about="slow")
            await note(site, number, about="quick")

        async def copied(about: str) -> bool:
            return len([one for one in conduct.copied if one[0] == about]) == 5

        await until(lambda: copied("quick"), "the other key goes on")
        assert {about for about, _ in conduct.copied} == {"quick"}
        go_on.set()
        await until(lambda: copied("slow"), "the slow key goes on, too")


async def test_31_what_was_parked_and_is_tried_again_twice_is_handled_once(site: Site, tmp_path: Path) -> None:
    """By two operators at the same time, and once more by the program that had sent it."""
    settings = Settings(data=tmp_path, channels=dict(site.channels))
    count = 4
    async with at_work(notes_app(), site.channels, tmp_path) as system:
        mended = {f"mend-{number}": b'{"about": "a", "number": %d}' % number for number in range(count)}
        for note_id in mended:
            attributes = {**ATTRIBUTES, "type": "Noted", "id": note_id, "partitionkey": "a"}
            await site.stranger.put("notes", attributes, b'{"about": "a"}')

        async def all_parked() -> bool:
            return len(await parked(system)) == 2 * count

        await until(all_parked, "all are parked")
        views = [one for one in await system.observer.parked() if one.service == "listener"]

        async def try_again() -> int:
            came_late = 0
            for view in views:
                own_id, body = view.id.partition(":")[2], mended[view.attributes["id"]]
                try:
                    await hear_again(notes_app(), settings, "listener", own_id, view.channel, view.attributes, body)
                except NotFound:
                    came_late += 1
            return came_late

        assert sum(await asyncio.gather(try_again(), try_again())) == count, "one of them is told so, each time"
        for note_id, body in mended.items():
            attributes = {**ATTRIBUTES, "type": "Noted", "id": note_id, "partitionkey": "a"}
            await site.stranger.put("notes", attributes, body)
        await note(site, 99)
        found = await heard(system, "listener", count + 1)
        assert sorted(found) == sorted([*(("a", str(number)) for number in range(count)), ("a", "99")])
        assert [service for service, _, _ in await parked(system)] == ["clerk"] * count


async def test_34_the_same_id_from_two_sources_is_two_messages(site: Site, tmp_path: Path) -> None:
    async with at_work(notes_app(), site.channels, tmp_path) as system:
        for number, source in enumerate(("here", "there", "here", "there")):
            await note(site, number % 2, note_id="7", source=source)
        assert sorted(await heard(system, "listener", 2)) == [("a", "0"), ("a", "1")]
        await note(site, 2)
        assert len(await heard(system, "listener", 3)) == 3


async def test_35_services_that_react_to_each_other_for_ever_are_stopped(site: Site, tmp_path: Path) -> None:
    already = HOPS_MAX - 6
    async with at_work(circle_app(), site.channels, tmp_path) as system:
        attributes = {**ATTRIBUTES, "type": "Pinged", "id": "p1", "hops": str(already)}
        await site.stranger.put("pings", attributes, b'{"name": "p1"}')

        async def stopped() -> Sequence[tuple[str, str, str]]:
            return await parked(system)

        ((_, kind, reason),) = await until(stopped, "the circle is broken")
        assert kind == "message"
        assert "circle" in reason
        done = len(await effects(system, "ping")) + len(await effects(system, "pong"))
        assert done == HOPS_MAX - already + 1
