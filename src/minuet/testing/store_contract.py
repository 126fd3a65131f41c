"""What every store must keep of its promises (`minuet.ports`), as a suite for pytest.

    class TestMyStore(StoreContract):
        @pytest.fixture
        def open_store(self, tmp_path):
            return lambda: MyStore(tmp_path / "service.db", ids=RandomIds())

``open_store`` makes one more instance on the same database; the suite starts and closes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import ClassVar, TypeVar

import pytest

from minuet.core.envelope import Envelope, SagaRef
from minuet.core.errors import ConfigurationError
from minuet.core.formula import Literal, Outcome
from minuet.core.operating import Scope, Verb
from minuet.core.projection import Coordination
from minuet.ports import Act, Entry, EntryState, Instruction, LooksAt, Outgoing, ParkedMessage, ReadAhead, Store, Tx

T = TypeVar("T")

OpenStore = Callable[[], Store]
Start = Callable[[], Awaitable[Store]]

RESERVED = Literal("reserve", Outcome.SUCCEEDED)
CHARGED = Literal("charge", Outcome.SUCCEEDED)
REFUSED = Literal("charge", Outcome.REFUSED)
FAR_AWAY = 4e9
"""A time after that of all envelopes, in seconds since 1970."""


STRANGE_TEXTS = [
    "a\0b",
    "\0",
    "a\u2400b",
    "a\u24000b",
    "a\\x00b",
    "'; --",
    "\u00e9\u4e2d\U0001f3bb",
    " a\n\tb ",
    "%s $1 ?",
]


class Broken(Exception):
    """Raised on purpose."""


def saga_ref(saga_id: str = "o-1", name: str = "Orders") -> SagaRef:
    return SagaRef(name, saga_id, "f1", Coordination.CHOREOGRAPHY, "reserve")


def said(scope: Scope, verb: Verb, at: float, *, who: str = "ada", why: str = "") -> Instruction:
    return Instruction(scope=scope, verb=verb, at=at, who=who, why=why)


def an_envelope(message_id: str = "m-1", *, saga: SagaRef | None = None) -> Envelope:
    return Envelope(id=message_id, type="Reserve", source="orders", time=1_700_000_000.25, body=b'{"a":1}', saga=saga)


def full_envelope() -> Envelope:
    """With everything that an envelope can hold."""
    return Envelope(
        id="m-\u00e9\u4e2d\U0001f3bb",
        type="Reserve",
        source="orders",
        time=1_700_000_000.123456,
        body='{"name":"\u00e9\u4e2d\U0001f3bb"}'.encode(),
        key="k-\u00e9'\";--",
        version=3,
        saga=saga_ref("o-\u00fc"),
        begins=(SagaRef("Other", "x", "f2", Coordination.ORCHESTRATION, "begin"),),
        correlation="corr",
        causation="cause",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        expires=1_700_000_060.5,
        saga_expires=1_700_000_090.25,
        may_refuse=False,
        hops=7,
    )


def an_entry(key: str = "e-1", *, state: EntryState = EntryState.DUE, waits_for: str | None = None) -> Entry:
    return Entry(key=key, handler="reserve", envelope=an_envelope(key), state=state, waits_for=waits_for)


def adding(*keys: str) -> Callable[[Tx], list[bool]]:
    return lambda tx: [tx.inbox.add(an_entry(key)) for key in keys]


def finding(key: str) -> Callable[[Tx], Entry | None]:
    return lambda tx: tx.inbox.find(key)


async def found(store: Store, key: str) -> Entry:
    entry = await store.transact(finding(key), reads_only=True)
    assert entry is not None, f"{key} is not there"
    return entry


def sending(*ids: str) -> Callable[[Tx], None]:
    def work(tx: Tx) -> None:
        for one in ids:
            tx.outbox.add("orders", an_envelope(one))

    return work


def then_breaking(work: Callable[[Tx], object]) -> Callable[[Tx], None]:
    def broken(tx: Tx) -> None:
        work(tx)
        raise Broken

    return broken


async def pages(store: Store, verb: str, before: float, *, limit: int) -> int:
    """Go through all pages; how many there were."""
    at: int | None = 0
    for count in range(100):
        if at is None:
            return count
        at = await store.transact(lambda tx, at=at: getattr(tx.retention, verb)(before, at, limit))  # type: ignore[misc]
    raise AssertionError("it goes round in circles")


def ids_of(outgoing: Sequence[Outgoing]) -> list[str]:
    return [one.envelope.id for one in outgoing]


class StoreContract:
    """Subclass it and give it ``open_store``."""

    shares_commits: ClassVar[bool] = True
    survives_restart: ClassVar[bool] = True

    @pytest.fixture
    def open_store(self) -> OpenStore:
        raise NotImplementedError("give the suite a fixture open_store")

    @pytest.fixture
    async def start(self, open_store: OpenStore) -> AsyncIterator[Start]:
        """Opens one more instance on the same database; closed at the end of the test."""
        async with AsyncExitStack() as stack:

            async def one() -> Store:
                store = open_store()
                await store.start()
                stack.push_async_callback(store.close)
                return store

            yield one

    @pytest.fixture
    async def store(self, start: Start) -> Store:
        return await start()

    # Transactions

    async def test_a_work_returns_its_result(self, store: Store) -> None:
        assert await store.transact(lambda _: 42) == 42

    async def test_what_is_written_together_is_kept_together(self, store: Store) -> None:
        def work(tx: Tx) -> None:
            tx.inbox.add(an_entry())
            tx.known.learn("Orders", "o-1", RESERVED, an_envelope())
            tx.outbox.add("orders", an_envelope())
            tx.read_models.put("GetOrder", "o-1", b"{}", 1.0)

        await store.transact(work)
        await found(store, "e-1")
        assert RESERVED in await store.transact(lambda tx: tx.known.of("Orders", "o-1"))
        assert len(await store.transact(lambda tx: tx.outbox.mine(10, 0))) == 1
        assert await store.transact(lambda tx: tx.read_models.get("GetOrder", "o-1")) == b"{}"

    async def test_of_a_work_that_raises_nothing_remains(self, store: Store) -> None:
        def work(tx: Tx) -> None:
            tx.inbox.add(an_entry())
            tx.known.learn("Orders", "o-1", RESERVED, an_envelope())
            tx.outbox.add("orders", an_envelope())
            tx.parked.add(a_parked_message())
            tx.read_models.put("GetOrder", "o-1", b"{}", 1.0)
            raise Broken

        with pytest.raises(Broken):
            await store.transact(work)
        assert await store.transact(finding("e-1")) is None
        assert not await store.transact(lambda tx: tx.known.of("Orders", "o-1"))
        assert not await store.transact(lambda tx: tx.known.recent(10))
        assert not await store.transact(lambda tx: tx.outbox.mine(10, 0))
        assert not await store.transact(lambda tx: tx.parked.all(10))
        assert await store.transact(lambda tx: tx.read_models.get("GetOrder", "o-1")) is None

    async def test_a_work_that_raises_harms_none_of_its_neighbours(self, store: Store) -> None:
        works = [adding("a"), then_breaking(adding("b")), adding("c"), then_breaking(adding("d")), adding("e")]
        ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
        assert [isinstance(end, Broken) for end in ends] == [False, True, False, True, False]
        kept = [await store.transact(finding(key)) for key in "abcde"]
        assert [entry.key if entry else None for entry in kept] == ["a", None, "c", None, "e"]

    async def test_works_run_one_at_a_time_in_the_order_given(self, store: Store) -> None:
        ran: list[int] = []
        await asyncio.gather(*(store.transact(lambda _, number=number: ran.append(number)) for number in range(500)))  # type: ignore[misc]
        assert ran == list(range(500))

    async def test_a_later_work_sees_what_an_earlier_one_wrote(self, store: Store) -> None:
        _, entry = await asyncio.gather(store.transact(adding("a")), store.transact(finding("a")))
        assert entry is not None

    async def test_works_at_the_same_time_share_commits(self, store: Store) -> None:
        before = store.commits
        await asyncio.gather(*(store.transact(adding(f"e-{number}")) for number in range(200)))
        made = store.commits - before
        assert 1 <= made <= 100 if self.shares_commits else made == 200

    async def test_works_that_only_read_do_not_commit(self, store: Store) -> None:
        await store.transact(adding("a"))
        before = store.commits
        for _ in range(3):
            assert await store.transact(finding("a"), reads_only=True)
        assert store.commits == before

    async def test_what_nobody_waits_for_is_done_all_the_same(self, store: Store) -> None:
        await asyncio.wait_for(store.transact(adding("a"), lazily=True), 5)
        await found(store, "a")

    async def test_what_nobody_waits_for_rides_on_the_next_transaction(self, store: Store) -> None:
        before = store.commits
        lazy = asyncio.ensure_future(store.transact(adding("a"), lazily=True))
        await asyncio.sleep(0)
        await asyncio.gather(store.transact(adding("b")), lazy)
        await found(store, "a")
        if self.shares_commits:
            assert store.commits - before == 1

    async def test_a_savepoint_is_undone_alone(self, store: Store) -> None:
        def work(tx: Tx) -> None:
            tx.inbox.add(an_entry("before"))
            tx.outbox.add("orders", an_envelope("before"))
            with suppress(Broken), tx.savepoint():
                tx.inbox.add(an_entry("inside"))
                tx.outbox.add("orders", an_envelope("inside"))
                raise Broken
            tx.inbox.add(an_entry("after"))
            tx.outbox.add("orders", an_envelope("after"))

        await store.transact(work)
        kept = [await store.transact(finding(key)) for key in ("before", "inside", "after")]
        assert [entry is not None for entry in kept] == [True, False, True]
        assert ids_of(await store.transact(lambda tx: tx.outbox.mine(10, 0))) == ["before", "after"]

    async def test_whoever_catches_everything_undoes_it_all_the_same(self, store: Store) -> None:
        def work(tx: Tx) -> None:
            try:
                with tx.savepoint():
                    tx.inbox.add(an_entry())
                    raise Broken
            except BaseException:  # it catches more than is its own
                return

        await store.transact(work)
        assert await store.transact(finding("e-1")) is None

    async def test_an_entry_whose_adding_was_undone_is_not_there(self, store: Store) -> None:
        """And is not new either: whoever does it over makes another one."""
        entry = an_entry()
        with pytest.raises(Broken):
            await store.transact(then_breaking(lambda tx: tx.inbox.add(entry)))
        assert not await store.transact(lambda tx: tx.inbox.save(entry))
        assert await store.transact(lambda tx: tx.inbox.save(an_entry()))
        assert (await found(store, "e-1")).state is EntryState.DUE

    async def test_a_digest_is_saved_without_a_new_envelope(self, store: Store) -> None:
        entry = an_entry()
        await store.transact(lambda tx: tx.inbox.add(entry))
        entry.digest = "d"
        assert await store.transact(lambda tx: tx.inbox.save(entry))
        assert (await found(store, "e-1")).digest == "d"

    async def test_savepoints_nest(self, store: Store) -> None:
        def work(tx: Tx) -> None:
            with tx.savepoint():
                tx.inbox.add(an_entry("kept"))
                with suppress(Broken), tx.savepoint():
                    tx.inbox.add(an_entry("lost"))
                    with tx.savepoint():
                        tx.inbox.add(an_entry("lost too"))
                    raise Broken
                tx.inbox.add(an_entry("kept too"))

        await store.transact(work)
        kept = [await store.transact(finding(key)) for key in ("kept", "lost", "lost too", "kept too")]
        assert [entry is not None for entry in kept] == [True, False, False, True]

    async def test_an_unknown_handle_is_refused_with_a_remedy(self, store: Store) -> None:
        with pytest.raises(ConfigurationError, match=r"builtins\.int"):
            await store.transact(lambda tx: tx.handle(int))

    async def test_it_survives_being_closed_and_opened(self, open_store: OpenStore) -> None:
        if not self.survives_restart:
            pytest.skip("nothing survives")
        first = open_store()
        await first.start()
        await first.transact(adding("a"))
        await first.transact(sending("m-1"))
        await first.close()
        second = open_store()
        await second.start()
        assert second.instance != first.instance
        await found(second, "a")
        assert ids_of(await second.transact(lambda tx: tx.outbox.take(10))) == ["m-1"]
        await second.close()

    async def test_closing_finishes_what_was_begun(self, open_store: OpenStore) -> None:
        store = open_store()
        await store.start()
        works = [asyncio.ensure_future(store.transact(adding(str(n)), lazily=n % 2 == 0)) for n in range(20)]
        await asyncio.sleep(0)
        await store.close()
        assert await asyncio.gather(*works) == [[True]] * 20

    async def test_closing_twice_is_closing_once(self, open_store: OpenStore) -> None:
        store = open_store()
        await store.start()
        await store.close()
        await store.close()

    async def test_a_caller_who_gives_up_harms_nobody(self, store: Store) -> None:
        works = [asyncio.ensure_future(store.transact(adding(str(n)))) for n in range(20)]
        await asyncio.sleep(0)
        for work in works[::2]:
            work.cancel()
        ends = await asyncio.gather(*works, return_exceptions=True)
        assert ends[1::2] == [[True]] * 10
        assert await store.transact(adding("after")) == [True]

    async def test_many_works_of_which_some_fail_leave_what_they_say(self, start: Start) -> None:
        stores = [await start(), await start()]

        def work(number: int) -> Callable[[Tx], None]:
            def run(tx: Tx) -> None:
                adding(f"{number:03}")(tx)
                sending(f"{number:03}")(tx)
                with suppress(Broken), tx.savepoint():
                    then_breaking(adding(f"{number:03} lost"))(tx)
                if number % 5 == 3:
                    raise Broken

            return run

        heard: list[Outgoing] = []
        for store in stores:
            store.committed = heard.extend
        ends = await asyncio.gather(
            *(stores[number % 2].transact(work(number)) for number in range(120)), return_exceptions=True
        )
        assert [isinstance(end, Broken) for end in ends] == [number % 5 == 3 for number in range(120)]
        good = [f"{number:03}" for number in range(120) if number % 5 != 3]
        kept = [await stores[0].transact(finding(f"{number:03}")) for number in range(120)]
        assert [entry.key for entry in kept if entry] == good
        assert [await stores[0].transact(finding(f"{number:03} lost")) for number in range(120)] == [None] * 120
        assert sorted(ids_of(heard)) == good

    async def test_what_is_said_beforehand_is_seen_as_it_is(self, store: Store) -> None:
        """A work says what it will look at; by then others of its transaction may have changed it."""
        await store.transact(adding("old"))
        await store.transact(lambda tx: tx.known.learn("Orders", "old", RESERVED, an_envelope("m-1")))
        everything = LooksAt(
            ["old", "new", "none", "lost", *STRANGE_TEXTS, "\ud800"],
            [(name, saga) for name in ("Orders", "\0", "\ud800") for saga in ("old", "new", "lost", *STRANGE_TEXTS)],
            [("Orders", "old"), ("Orders", "new"), ("\0", "\ud800")],
        )

        def looking(work: Callable[[Tx], T]) -> ReadAhead[T]:
            return ReadAhead(work, lambda: everything)

        def changing(tx: Tx) -> bool:
            entry = tx.inbox.find("old")
            assert entry is not None
            entry.state = EntryState.DONE
            new = Entry(key="new", handler="h", envelope=an_envelope("new", saga=saga_ref("new")))
            return tx.inbox.save(entry) and tx.inbox.add(new) and not tx.inbox.add(an_entry("old"))

        def learning(tx: Tx) -> list[int]:
            refs = [("old", CHARGED), ("new", RESERVED), ("new", CHARGED), ("new", CHARGED)]
            return [len(tx.known.learn("Orders", saga, one, an_envelope("m-2")) or ()) for saga, one in refs]

        def losing(tx: Tx) -> None:
            tx.inbox.add(an_entry("lost"))
            tx.known.learn("Orders", "lost", RESERVED, an_envelope("lost"))
            tx.known.learn("Orders", "old", REFUSED, an_envelope("lost"))
            raise Broken

        def seeing(tx: Tx) -> tuple[object, ...]:
            found = [tx.inbox.find(key) for key in ("old", "new", "none", "lost", "\0")]
            states = [entry.state.value if entry else None for entry in found]
            known = [sorted(map(str, tx.known.of("Orders", saga))) for saga in ("old", "new", "lost")]
            return states, known, [[one.key for one in tx.records.entries_of("Orders", "new")]]

        works = [looking(work) for work in (changing, learning, losing, seeing)]
        ends = await asyncio.gather(*map(store.transact, works), return_exceptions=True)
        assert ends[:2] == [True, [2, 1, 2, 0]]
        assert isinstance(ends[2], Broken)
        both = sorted(map(str, (RESERVED, CHARGED)))
        seen = (["done", "due", None, None, None], [both, both, []], [["new"]])
        assert ends[3] == seen
        assert await store.transact(looking(seeing), reads_only=True) == seen
        assert await store.transact(seeing, reads_only=True) == seen

    # Inbox

    async def test_an_entry_comes_back_as_it_was(self, store: Store) -> None:
        entry = Entry(
            key="k-\u00e9'\";--",
            handler="reserve",
            envelope=full_envelope(),
            digest="d",
            attempts=3,
            due_at=253_402_300_799.0,  # as late as anything waits
            waits_for="GetOrder/o-1",
            answer=full_envelope(),
            error="out of \u00e9",
            changed_at=13.25,
        )
        assert await store.transact(lambda tx: tx.inbox.add(entry))
        assert await found(store, entry.key) == entry
        assert entry.owner == store.instance

    @pytest.mark.parametrize("text", STRANGE_TEXTS)
    async def test_any_text_comes_back(self, store: Store, text: str) -> None:
        saga = SagaRef("Orders", text, "f1", Coordination.CHOREOGRAPHY, "reserve")
        entry = Entry(
            key=text, handler="h", envelope=an_envelope("m", saga=saga), waits_for=text, error=text, digest="d"
        )
        message = ParkedMessage(id=text, channel=text, attributes={"type": text}, body=b"", reason=text, parked_at=1.0)

        def work(tx: Tx) -> None:
            tx.inbox.add(entry)
            tx.known.learn("Orders", text, RESERVED, an_envelope())
            tx.outbox.add(text, an_envelope(text))
            tx.parked.add(message)
            tx.read_models.put("GetOrder", text, b"1", 1.0)

        await store.transact(work)
        assert await store.transact(finding(text)) == entry
        assert [one.key for one in await store.transact(lambda tx: tx.inbox.waiting_for(text))] == [text]
        assert [one.key for one in await store.transact(lambda tx: tx.records.entries_of("Orders", text))] == [text]
        assert RESERVED in await store.transact(lambda tx: tx.known.of("Orders", text))
        ((_, *recent),) = await store.transact(lambda tx: tx.known.recent(10))
        assert recent == ["Orders", text]
        (outgoing,) = await store.transact(lambda tx: tx.outbox.mine(10, 0))
        assert (outgoing.channel, outgoing.envelope.id) == (text, text)
        assert await store.transact(lambda tx: tx.parked.get(text)) == message
        assert await store.transact(lambda tx: tx.read_models.get("GetOrder", text)) == b"1"

    async def test_a_large_body_comes_back(self, store: Store) -> None:
        body = bytes(range(256)) * 4096
        envelope = Envelope(id="m-1", type="T", source="s", time=1.0, body=body)
        await store.transact(lambda tx: tx.inbox.add(Entry(key="a", handler="h", envelope=envelope)))
        await store.transact(lambda tx: tx.outbox.add("orders", envelope))
        assert (await found(store, "a")).envelope.body == body
        (outgoing,) = await store.transact(lambda tx: tx.outbox.mine(10, 0))
        assert outgoing.envelope.body == body

    async def test_a_second_entry_with_a_key_changes_nothing(self, store: Store) -> None:
        await store.transact(adding("a"))
        other = Entry(key="a", handler="other", envelope=full_envelope())
        assert not await store.transact(lambda tx: tx.inbox.add(other))
        assert (await found(store, "a")).handler == "reserve"

    async def test_what_is_added_as_done_belongs_to_nobody(self, store: Store) -> None:
        await store.transact(lambda tx: tx.inbox.add(an_entry(state=EntryState.DONE)))
        assert (await found(store, "e-1")).owner is None
        assert not await store.transact(lambda tx: tx.inbox.take(10))

    async def test_what_is_saved_comes_back(self, store: Store) -> None:
        await store.transact(adding("a"))
        entry = await found(store, "a")
        entry.envelope, entry.answer, entry.digest, entry.error = full_envelope(), an_envelope("answer"), "d", "why"
        entry.attempts, entry.due_at, entry.changed_at, entry.waits_for = 2, 5.5, 6.5, "GetOrder/o-1"
        assert await store.transact(lambda tx: tx.inbox.save(entry))
        assert await found(store, "a") == entry
        entry.state = EntryState.DONE
        assert await store.transact(lambda tx: tx.inbox.save(entry))
        assert await found(store, "a") == entry
        assert entry.owner is None

    async def test_nothing_changes_an_entry_that_is_done(self, store: Store) -> None:
        await store.transact(adding("a"))
        entry = await found(store, "a")
        entry.state = EntryState.DONE
        assert await store.transact(lambda tx: tx.inbox.save(entry))
        entry.state, entry.error = EntryState.DUE, "again"
        assert not await store.transact(lambda tx: tx.inbox.save(entry))
        assert (await found(store, "a")).state is EntryState.DONE

    async def test_saving_what_is_new_adds_it(self, store: Store) -> None:
        entry = an_entry()
        assert await store.transact(lambda tx: tx.inbox.save(entry))
        assert await found(store, "e-1") == entry
        assert entry.owner == store.instance

    async def test_an_entry_can_get_another_key(self, store: Store) -> None:
        await store.transact(adding("a", "b", "c"))
        entry = await found(store, "b")
        assert await store.transact(lambda tx: tx.inbox.rename(entry, "z"))
        assert await store.transact(finding("b")) is None
        entry.key, entry.error = "z", "renamed"
        assert await store.transact(lambda tx: tx.inbox.save(entry))
        assert await found(store, "z") == entry
        await store.transact(lambda tx: tx.inbox.release())
        assert [one.key for one in await store.transact(lambda tx: tx.inbox.take(10))] == ["a", "z", "c"]

    async def test_only_an_own_due_entry_can_get_another_key(self, start: Start) -> None:
        first, second = await start(), await start()
        await first.transact(adding("a"))
        entry = await found(first, "a")
        assert not await second.transact(lambda tx: tx.inbox.rename(entry, "z"))
        entry.state = EntryState.DONE
        await first.transact(lambda tx: tx.inbox.save(entry))
        assert not await first.transact(lambda tx: tx.inbox.rename(entry, "z"))
        assert not await first.transact(lambda tx: tx.inbox.rename(an_entry("nowhere"), "z"))

    async def test_an_instance_that_lost_an_entry_cannot_write_it(self, start: Start) -> None:
        zombie, successor = await start(), await start()
        await zombie.transact(adding("a"))
        stale = await found(zombie, "a")
        await zombie.transact(lambda tx: tx.inbox.release())
        (taken,) = await successor.transact(lambda tx: tx.inbox.take(10))
        assert taken.owner == successor.instance
        stale.state = EntryState.DONE
        assert not await zombie.transact(lambda tx: tx.inbox.save(stale))
        assert (await found(successor, "a")).state is EntryState.DUE

    async def test_the_entries_of_the_living_are_not_taken(self, start: Start) -> None:
        first, second = await start(), await start()
        await first.transact(adding("a"))
        assert not await second.transact(lambda tx: tx.inbox.take(10))

    async def test_the_entries_of_the_gone_are_taken_oldest_first(self, open_store: OpenStore, start: Start) -> None:
        gone, successor = open_store(), await start()
        await gone.start()
        await gone.transact(adding(*"fedcba"))
        await gone.close()
        assert [entry.key for entry in await successor.transact(lambda tx: tx.inbox.take(4))] == list("fedc")
        assert [entry.key for entry in await successor.transact(lambda tx: tx.inbox.take(4))] == list("ba")
        assert not await successor.transact(lambda tx: tx.inbox.take(4))

    async def test_released_entries_are_for_everybody(self, start: Start) -> None:
        first, second = await start(), await start()
        await first.transact(adding("a", "b"))
        await first.transact(lambda tx: tx.inbox.release())
        assert (await found(first, "a")).owner is None
        assert len(await second.transact(lambda tx: tx.inbox.take(1))) == 1
        assert len(await first.transact(lambda tx: tx.inbox.take(10))) == 1

    async def test_what_was_released_can_be_taken_apart_from_what_the_gone_have_left(
        self, open_store: OpenStore, start: Start
    ) -> None:
        gone, living, successor = open_store(), await start(), await start()
        await gone.start()
        await gone.transact(adding("left"))
        await gone.close()
        await living.transact(adding("released"))
        assert not await successor.transact(lambda tx: tx.inbox.take(10, released=True))
        await living.transact(lambda tx: tx.inbox.release())
        (released,) = await successor.transact(lambda tx: tx.inbox.take(10, released=True))
        assert (released.key, released.owner) == ("released", successor.instance)
        (left,) = await successor.transact(lambda tx: tx.inbox.take(10))
        assert left.key == "left"

    async def test_instances_that_take_at_the_same_time_take_each_entry_once(self, start: Start) -> None:
        first, second = await start(), await start()
        keys = [f"{number:03}" for number in range(60)]
        await first.transact(adding(*keys))
        await first.transact(lambda tx: tx.inbox.release())
        taken = await asyncio.gather(
            *(store.transact(lambda tx: tx.inbox.take(7)) for _ in range(10) for store in (first, second))
        )
        assert sorted(entry.key for one in taken for entry in one) == keys
        for store in (first, second):
            for entry in (entry for one in taken for entry in one if entry.owner == store.instance):
                assert (await found(store, entry.key)).owner == store.instance

    async def test_waiting_entries_are_found_by_what_they_wait_for(self, store: Store) -> None:
        await store.transact(lambda tx: tx.inbox.add(an_entry("a", waits_for="GetOrder/1")))
        await store.transact(lambda tx: tx.inbox.add(an_entry("b", waits_for="GetOrder/2")))
        await store.transact(lambda tx: tx.inbox.add(an_entry("c", waits_for="GetOrder/1")))
        assert [entry.key for entry in await store.transact(lambda tx: tx.inbox.waiting_for("GetOrder/1"))] == [
            "a",
            "c",
        ]
        await store.transact(lambda tx: tx.inbox.release())
        assert not await store.transact(lambda tx: tx.inbox.waiting_for("GetOrder/1"))

    async def test_a_parked_entry_can_be_opened_again(self, store: Store) -> None:
        await store.transact(adding("a"))
        entry = await found(store, "a")
        entry.state, entry.attempts, entry.error = EntryState.PARKED, 5, "broken"
        await store.transact(lambda tx: tx.inbox.save(entry))
        assert [one.key for one in await store.transact(lambda tx: tx.parked.entries(10))] == ["a"]
        assert not await store.transact(lambda tx: tx.inbox.take(10))
        assert await store.transact(lambda tx: tx.inbox.reopen("a"))
        assert not await store.transact(lambda tx: tx.parked.entries(10))
        (again,) = await store.transact(lambda tx: tx.inbox.take(10))
        assert (again.state, again.attempts, again.owner) == (EntryState.DUE, 0, store.instance)

    async def test_only_parked_entries_can_be_opened_again(self, store: Store) -> None:
        await store.transact(adding("a"))
        assert not await store.transact(lambda tx: tx.inbox.reopen("a"))
        assert not await store.transact(lambda tx: tx.inbox.reopen("nowhere"))

    async def test_what_belongs_to_a_saga_is_found_in_the_order_in_which_it_came(self, store: Store) -> None:
        def work(tx: Tx) -> None:
            for key, saga in (("z", "o-1"), ("y", "o-2"), ("x", "o-1")):
                tx.inbox.add(Entry(key=key, handler="h", envelope=an_envelope(key, saga=saga_ref(saga))))
            tx.inbox.add(Entry(key="w", handler="h", envelope=an_envelope("w", saga=saga_ref("o-1", "Others"))))
            tx.inbox.add(an_entry("no saga"))

        await store.transact(work)
        entries = await store.transact(lambda tx: tx.records.entries_of("Orders", "o-1"), reads_only=True)
        assert [entry.key for entry in entries] == ["z", "x"]

    async def test_what_its_successor_has_renamed_is_not_brought_back(
        self, open_store: OpenStore, start: Start
    ) -> None:
        """By an instance that was taken for dead, and has the entry still in hand under its former name."""
        zombie = open_store()
        await zombie.start()
        await zombie.transact(adding("step"))
        in_hand = await found(zombie, "step")
        await zombie.close()
        successor = await start()
        (taken,) = await successor.transact(lambda tx: tx.inbox.take(10))
        assert await successor.transact(lambda tx: tx.inbox.rename(taken, "business"))
        again = await start()
        in_hand.error = "it failed"
        for owner in (in_hand.owner, again.instance):
            in_hand.owner, in_hand.state = owner, EntryState.DUE
            assert not await again.transact(lambda tx: tx.inbox.save(in_hand))
            in_hand.owner, in_hand.envelope = owner, full_envelope()
            assert not await again.transact(lambda tx: tx.inbox.save(in_hand))
        assert await again.transact(finding("step")) is None
        assert (await found(again, "business")).error == ""

    async def test_what_is_decided_elsewhere_is_written_whoever_owns_it(self, start: Start) -> None:
        owner, other = await start(), await start()
        await owner.transact(adding("a", "b"))
        taken = await found(owner, "a")
        for key, state in (("a", EntryState.DUE), ("b", EntryState.PARKED)):
            entry = await found(owner, key)
            entry.state, entry.error = state, "so far"
            await owner.transact(lambda tx, entry=entry: tx.inbox.save(entry))  # type: ignore[misc]
            entry = await found(other, key)
            entry.state, entry.answer, entry.error = EntryState.DONE, full_envelope(), ""
            assert await other.transact(lambda tx, entry=entry: tx.inbox.settle(entry))  # type: ignore[misc]
            assert not await other.transact(lambda tx, entry=entry: tx.inbox.settle(entry))  # type: ignore[misc]
            done = await found(owner, key)
            assert (done.state, done.answer, done.owner) == (EntryState.DONE, full_envelope(), None)
        taken.state = EntryState.PARKED
        assert not await owner.transact(lambda tx: tx.inbox.save(taken)), "it has lost it"
        nowhere = an_entry("nowhere", state=EntryState.DONE)
        assert not await owner.transact(lambda tx: tx.inbox.settle(nowhere))
        assert await owner.transact(finding("nowhere")) is None

    # Audit

    async def test_what_operators_did_is_kept_in_its_order(self, store: Store) -> None:
        acts = [Act(at=float(n), who=f"who {n}", verb="retry", what=f"orders:{n}", why="because" * n) for n in range(5)]

        def work(tx: Tx) -> None:
            for act in acts:
                tx.audit.add(act)

        await store.transact(work)
        assert list(await store.transact(lambda tx: tx.audit.recent(3), reads_only=True)) == acts[:1:-1]
        with pytest.raises(Broken):
            await store.transact(then_breaking(work))
        assert len(await store.transact(lambda tx: tx.audit.recent(100), reads_only=True)) == 5

    # Instructions

    async def test_of_two_instructions_about_the_same_the_later_one_counts(self, store: Store) -> None:
        one, every = Scope(saga="Orders", saga_id="o-1"), Scope(saga="Orders")
        paused, later = said(one, Verb.PAUSE, 5.0), said(one, Verb.PAUSE, 7.5)
        assert await store.transact(lambda tx: tx.instructions.last(one, Verb.PAUSE)) is None
        assert await store.transact(lambda tx: tx.instructions.keep(paused))
        assert not await store.transact(lambda tx: tx.instructions.keep(paused)), "heard twice"
        assert not await store.transact(lambda tx: tx.instructions.keep(said(one, Verb.RESUME, 4.0)))
        assert not await store.transact(lambda tx: tx.instructions.keep(said(one, Verb.PAUSE, 5.0, who="bob")))
        assert await store.transact(lambda tx: tx.instructions.last(one, Verb.RESUME)) == paused
        assert await store.transact(lambda tx: tx.instructions.keep(said(one, Verb.RESUME, 5.0))), "it wins a tie"
        assert not await store.transact(lambda tx: tx.instructions.keep(paused)), "an older one that comes late"
        assert await store.transact(lambda tx: tx.instructions.in_force(0.0), reads_only=True) == []
        assert await store.transact(lambda tx: tx.instructions.keep(later))
        assert await store.transact(lambda tx: tx.instructions.keep(said(every, Verb.PAUSE, 6.0)))
        found = await store.transact(lambda tx: tx.instructions.in_force(0.0), reads_only=True)
        assert list(found) == [said(every, Verb.PAUSE, 6.0), later], "one saga is not all of them"

    async def test_to_try_again_is_another_topic_than_to_pause(self, store: Store) -> None:
        payment = Scope(service="payment")
        both = [said(payment, Verb.PAUSE, 3.0), said(payment, Verb.RETRY, 4.0)]
        for one in both:
            assert await store.transact(lambda tx, one=one: tx.instructions.keep(one))  # type: ignore[misc]
        assert not await store.transact(lambda tx: tx.instructions.keep(both[1]))
        assert list(await store.transact(lambda tx: tx.instructions.in_force(3.5), reads_only=True)) == both
        assert list(await store.transact(lambda tx: tx.instructions.in_force(4.0), reads_only=True)) == both[:1]
        assert await store.transact(lambda tx: tx.instructions.last(payment, Verb.RETRY)) == both[1]

    async def test_an_instruction_is_kept_with_its_transaction_only_and_outlives_the_store(
        self, store: Store, start: Start
    ) -> None:
        def work(tx: Tx) -> None:
            for number, text in enumerate(STRANGE_TEXTS):
                tx.instructions.keep(
                    said(Scope(saga=text, saga_id=text), Verb.PAUSE, float(number), who=text, why=text)
                )

        with pytest.raises(Broken):
            await store.transact(then_breaking(work))
        assert await store.transact(lambda tx: tx.instructions.in_force(0.0), reads_only=True) == []
        await store.transact(work)
        other = await start()
        found = await other.transact(lambda tx: tx.instructions.in_force(0.0), reads_only=True)
        assert [(one.scope.saga_id, one.who, one.why) for one in found] == [(text,) * 3 for text in STRANGE_TEXTS]

    # Retention

    async def test_what_was_done_long_ago_is_forgotten(self, store: Store) -> None:
        def work(tx: Tx) -> None:
            for key, saga, state, changed_at in (
                ("old", None, EntryState.DONE, 10.0),
                ("young", None, EntryState.DONE, 30.0),
                ("due", None, EntryState.DUE, 10.0),
                ("over/1", "over", EntryState.DONE, 5.0),
                ("over/2", "over", EntryState.DONE, 10.0),
                ("parked/1", "parked", EntryState.DONE, 10.0),
                ("parked/2", "parked", EntryState.PARKED, 10.0),
                ("living/1", "living", EntryState.DONE, 10.0),
                ("living/2", "living", EntryState.DONE, 30.0),
            ):
                envelope = an_envelope(key, saga=saga_ref(saga) if saga else None)
                tx.inbox.add(Entry(key=key, handler="h", envelope=envelope, state=state, changed_at=changed_at))

        await store.transact(work)
        assert await pages(store, "forget_entries", 20.0, limit=2) >= 1
        all_of_them = [
            "old",
            "young",
            "due",
            *(f"{saga}/{one}" for saga in ("over", "parked", "living") for one in (1, 2)),
        ]
        there = await store.transact(lambda tx: [key for key in all_of_them if tx.inbox.find(key)], reads_only=True)
        assert there == ["young", "due", "parked/1", "parked/2", "living/1", "living/2"]
        assert await pages(store, "forget_entries", 20.0, limit=2) >= 1, "again, with nothing to forget"

    async def test_what_was_known_long_ago_is_forgotten_with_its_entries(self, store: Store) -> None:
        def work(tx: Tx) -> None:
            for saga, first, second in (("over", 5.0, 10.0), ("living", 5.0, 30.0), ("here", 5.0, 10.0)):
                tx.known.learn("Orders", saga, RESERVED, replace(an_envelope("m-1"), time=first))
                tx.known.learn("Orders", saga, CHARGED, replace(an_envelope("m-2"), time=second))
            envelope = an_envelope("here", saga=saga_ref("here"))
            tx.inbox.add(Entry(key="here", handler="h", envelope=envelope, state=EntryState.DONE, changed_at=10.0))

        def known(tx: Tx) -> list[str]:
            return [saga for saga in ("over", "living", "here") if tx.known.of("Orders", saga)]

        await store.transact(work)
        await pages(store, "forget_known", 20.0, limit=1)
        assert await store.transact(known, reads_only=True) == ["living", "here"]
        await pages(store, "forget_entries", 20.0, limit=1)
        await pages(store, "forget_known", 20.0, limit=1)
        assert await store.transact(known, reads_only=True) == ["living"]
        again = await store.transact(lambda tx: tx.known.learn("Orders", "over", RESERVED, an_envelope("m-3")))
        assert again == {RESERVED: an_envelope("m-3")}, "nothing of it is left at hand"

    async def test_forgetting_that_is_undone_has_forgotten_nothing(self, store: Store) -> None:
        await store.transact(lambda tx: tx.known.learn("Orders", "o-1", RESERVED, an_envelope("m-1")))

        def work(tx: Tx) -> None:
            tx.retention.forget_known(FAR_AWAY, 0, 10)
            assert not tx.known.of("Orders", "o-1")
            raise Broken

        with pytest.raises(Broken):
            await store.transact(work)
        assert await store.transact(lambda tx: tx.known.of("Orders", "o-1")) == {RESERVED: an_envelope("m-1")}

    # Known messages

    async def test_learning_tells_all_that_is_known(self, store: Store) -> None:
        first, second = an_envelope("m-1"), full_envelope()
        assert await store.transact(lambda tx: tx.known.learn("Orders", "o-1", RESERVED, first)) == {RESERVED: first}
        known = await store.transact(lambda tx: tx.known.learn("Orders", "o-1", CHARGED, second))
        assert known == {RESERVED: first, CHARGED: second}
        assert await store.transact(lambda tx: tx.known.of("Orders", "o-1")) == known

    async def test_what_is_known_is_not_learnt_again(self, store: Store) -> None:
        first = an_envelope("m-1")
        await store.transact(lambda tx: tx.known.learn("Orders", "o-1", RESERVED, first))
        assert await store.transact(lambda tx: tx.known.learn("Orders", "o-1", RESERVED, an_envelope("m-2"))) is None
        assert await store.transact(lambda tx: tx.known.of("Orders", "o-1")) == {RESERVED: first}

    async def test_sagas_are_known_apart(self, store: Store) -> None:
        await store.transact(lambda tx: tx.known.learn("Orders", "o-1", RESERVED, an_envelope()))
        assert not await store.transact(lambda tx: tx.known.of("Orders", "o-2"))
        assert not await store.transact(lambda tx: tx.known.of("Others", "o-1"))

    @pytest.mark.parametrize("says_so", [False, True])
    async def test_of_two_that_learn_for_one_saga_the_later_sees_what_the_earlier_learnt(
        self, start: Start, says_so: bool
    ) -> None:
        first, second = await start(), await start()

        def learning(literal: Literal) -> Callable[[Tx], int]:
            def work(tx: Tx) -> int:
                return len(tx.known.learn("Orders", "o-1", literal, an_envelope()) or ())

            looks_at = LooksAt(sagas=[("Orders", "o-1")])
            return ReadAhead(work, lambda: looks_at) if says_so else work

        literals = [Literal(f"s{n}", Outcome.SUCCEEDED) for n in range(20)]
        stores = [first, second] * 10
        seen = await asyncio.gather(
            *(store.transact(learning(one)) for store, one in zip(stores, literals, strict=True))
        )
        assert sorted(seen) == list(range(1, 21))

    async def test_the_most_recent_sagas_come_first_and_in_pages(self, store: Store) -> None:
        def work(tx: Tx) -> None:
            for saga, literal in (("a", RESERVED), ("b", RESERVED), ("c", RESERVED), ("a", CHARGED), ("d", RESERVED)):
                tx.known.learn("Orders", saga, literal, an_envelope())

        await store.transact(work)
        page = await store.transact(lambda tx: tx.known.recent(2))
        rest = await store.transact(lambda tx: tx.known.recent(10, before=page[-1][0]))
        assert [saga for _, _, saga in (*page, *rest)] == ["d", "c", "b", "a"]

    # Outbox

    async def test_what_was_committed_is_handed_to_the_listener_in_order(self, store: Store) -> None:
        heard: list[Outgoing] = []
        store.committed = heard.extend
        await asyncio.gather(*(store.transact(sending(f"{n}a", f"{n}b")) for n in range(50)))
        assert ids_of(heard) == [f"{n}{letter}" for n in range(50) for letter in "ab"]
        assert [one.position for one in heard] == sorted({one.position for one in heard})
        assert await store.transact(lambda tx: tx.outbox.mine(1000, 0)) == heard

    async def test_the_listener_hears_of_a_commit_before_its_caller(self, store: Store) -> None:
        heard: list[Outgoing] = []
        store.committed = heard.extend
        await store.transact(sending("m-1"))
        assert ids_of(heard) == ["m-1"]

    async def test_the_outbox_forgets_what_a_failed_work_added(self, store: Store) -> None:
        heard: list[Outgoing] = []
        store.committed = heard.extend
        works = [sending("a"), then_breaking(sending("b")), sending("c")]
        await asyncio.gather(*map(store.transact, works), return_exceptions=True)
        with pytest.raises(Broken):
            await store.transact(then_breaking(sending("d")))
        assert ids_of(heard) == ["a", "c"]
        assert ids_of(await store.transact(lambda tx: tx.outbox.mine(10, 0))) == ["a", "c"]

    async def test_what_was_added_can_be_looked_at_at_once(self, store: Store) -> None:
        heard: list[Outgoing] = []
        store.committed = heard.extend

        def work(tx: Tx) -> list[str]:
            tx.outbox.add("orders", an_envelope("a"))
            with suppress(Broken), tx.savepoint():
                tx.outbox.add("orders", an_envelope("b"))
                assert len(tx.outbox.mine(10, 0)) == 2
                raise Broken
            tx.outbox.add("orders", an_envelope("c"))
            return ids_of(tx.outbox.mine(10, 0))

        assert await store.transact(work) == ["a", "c"]
        assert ids_of(heard) == ["a", "c"]

    async def test_what_is_removed_is_gone(self, store: Store) -> None:
        heard: list[Outgoing] = []
        store.committed = heard.extend
        await store.transact(sending("a", "b", "c"))
        await store.transact(lambda tx: tx.outbox.remove([heard[0].position, heard[2].position]))
        assert ids_of(await store.transact(lambda tx: tx.outbox.mine(10, 0))) == ["b"]

    async def test_a_position_is_never_used_again(self, store: Store) -> None:
        heard: list[Outgoing] = []
        store.committed = heard.extend
        for _ in range(3):
            await store.transact(sending("a"))
            await store.transact(lambda tx: tx.outbox.remove([one.position for one in heard]))
        assert len({one.position for one in heard}) == 3

    async def test_own_messages_are_read_in_pages(self, store: Store) -> None:
        await store.transact(sending(*"abcde"))
        page = await store.transact(lambda tx: tx.outbox.mine(2, 0))
        rest = await store.transact(lambda tx: tx.outbox.mine(10, page[-1].position))
        assert (ids_of(page), ids_of(rest)) == (["a", "b"], ["c", "d", "e"])

    async def test_the_messages_of_the_gone_are_taken_in_order(self, open_store: OpenStore, start: Start) -> None:
        gone, successor = open_store(), await start()
        await gone.start()
        await gone.transact(sending(*"abc"))
        assert not await successor.transact(lambda tx: tx.outbox.take(10))
        await gone.close()
        assert ids_of(await successor.transact(lambda tx: tx.outbox.take(2))) == ["a", "b"]
        assert ids_of(await successor.transact(lambda tx: tx.outbox.take(2))) == ["c"]
        assert ids_of(await successor.transact(lambda tx: tx.outbox.mine(10, 0))) == ["a", "b", "c"]

    async def test_a_message_keeps_all_its_attributes(self, store: Store) -> None:
        await store.transact(lambda tx: tx.outbox.add("orders", full_envelope()))
        (outgoing,) = await store.transact(lambda tx: tx.outbox.mine(10, 0))
        assert (outgoing.channel, outgoing.envelope) == ("orders", full_envelope())

    # Parked messages and read models

    async def test_a_parked_message_comes_back_as_it_was(self, store: Store) -> None:
        message = a_parked_message()
        await store.transact(lambda tx: tx.parked.add(message))
        assert await store.transact(lambda tx: tx.parked.get("p-1")) == message
        assert await store.transact(lambda tx: tx.parked.all(10)) == [message]

    async def test_parking_again_replaces(self, store: Store) -> None:
        await store.transact(lambda tx: tx.parked.add(a_parked_message()))
        await store.transact(lambda tx: tx.parked.add(a_parked_message(reason="other")))
        (message,) = await store.transact(lambda tx: tx.parked.all(10))
        assert message.reason == "other"

    async def test_a_parked_message_can_be_removed_once(self, store: Store) -> None:
        await store.transact(lambda tx: tx.parked.add(a_parked_message()))
        assert await store.transact(lambda tx: tx.parked.remove("p-1"))
        assert not await store.transact(lambda tx: tx.parked.remove("p-1"))
        assert await store.transact(lambda tx: tx.parked.get("p-1")) is None

    async def test_a_read_model_keeps_the_last_view(self, store: Store) -> None:
        await store.transact(lambda tx: tx.read_models.put("GetOrder", "o-1", b"1", 1.0))
        await store.transact(lambda tx: tx.read_models.put("GetOrder", "o-1", b"2", 2.0))
        await store.transact(lambda tx: tx.read_models.put("GetOrder", "o-1", b"an old one again", 1.5))
        await store.transact(lambda tx: tx.read_models.put("GetOrder", "o-1", b"\x00\xff", 2.0))
        assert await store.transact(lambda tx: tx.read_models.get("GetOrder", "o-1")) == b"\x00\xff"
        assert await store.transact(lambda tx: tx.read_models.get("GetOrder", "o-2")) is None

    # Several instances

    async def test_instances_have_names_of_their_own(self, start: Start) -> None:
        assert (await start()).instance != (await start()).instance

    async def test_instances_see_each_others_commits(self, start: Start) -> None:
        first, second = await start(), await start()
        await first.transact(adding("a"))
        await found(second, "a")
        assert await second.transact(adding("a")) == [False]

    async def test_an_instance_hears_that_another_changed_the_database(self, start: Start) -> None:
        first, second = await start(), await start()
        heard = asyncio.Event()
        second.disturbed = heard.set
        await first.transact(adding("a"))
        await asyncio.wait_for(heard.wait(), 5)


def a_parked_message(*, reason: str = "not JSON") -> ParkedMessage:
    attributes = {"type": "Strange", "note": "\u00e9\u4e2d"}
    return ParkedMessage(
        id="p-1", channel="orders", attributes=attributes, body=b"\xff{", reason=reason, parked_at=1_700_000_000.5
    )
