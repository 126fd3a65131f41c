"""Works, savepoints, shared commits, closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from minuet.core.errors import ConfigurationError
from minuet.ports import Entry, EntryState, LooksAt, Outgoing, ReadAhead, Store, Tx
from minuet.testing.store_contract.examples import (
    CHARGED,
    REFUSED,
    RESERVED,
    STRANGE_TEXTS,
    Broken,
    OpenStore,
    Start,
    T,
    a_parked_message,
    adding,
    an_entry,
    an_envelope,
    finding,
    found,
    ids_of,
    saga_ref,
    sending,
    then_breaking,
)
from minuet.testing.store_contract.suite import Suite


class TransactionsContract(Suite):
    """Works, savepoints, shared commits, closing."""

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
