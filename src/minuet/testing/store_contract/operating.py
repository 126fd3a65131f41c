"""What operators did and said, and what is forgotten at last."""

from __future__ import annotations

from dataclasses import replace

import pytest

from minuet.core.operating import Scope, Verb
from minuet.ports import Act, Entry, EntryState, Store, Tx
from minuet.testing.store_contract.examples import (
    CHARGED,
    FAR_AWAY,
    RESERVED,
    STRANGE_TEXTS,
    Broken,
    Start,
    an_envelope,
    pages,
    saga_ref,
    said,
    then_breaking,
)
from minuet.testing.store_contract.suite import Suite


class OperatingContract(Suite):
    """What operators did and said, and what is forgotten at last."""

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
