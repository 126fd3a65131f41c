"""Entries: added once, owned by one instance, taken over, parked and opened again."""

from __future__ import annotations

import asyncio

import pytest

from minuet.core.envelope import Envelope, SagaRef
from minuet.core.projection import Coordination
from minuet.ports import Entry, EntryState, ParkedMessage, Store, Tx
from minuet.testing.store_contract.examples import (
    RESERVED,
    STRANGE_TEXTS,
    OpenStore,
    Start,
    adding,
    an_entry,
    an_envelope,
    finding,
    found,
    full_envelope,
    saga_ref,
)
from minuet.testing.store_contract.suite import Suite


class InboxContract(Suite):
    """Entries: added once, owned by one instance, taken over, parked and opened again."""

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
