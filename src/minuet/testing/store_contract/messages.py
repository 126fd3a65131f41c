"""What is known of sagas, what goes out, what is parked, read models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from minuet.core.formula import Literal, Outcome
from minuet.ports import LooksAt, Outgoing, ReadAhead, Store, Tx
from minuet.testing.store_contract.examples import (
    CHARGED,
    RESERVED,
    Broken,
    OpenStore,
    Start,
    a_parked_message,
    an_envelope,
    full_envelope,
    ids_of,
    sending,
    then_breaking,
)
from minuet.testing.store_contract.suite import Suite


class MessagesContract(Suite):
    """What is known of sagas, what goes out, what is parked, read models."""

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
