"""Each promise, broken by hand: the checks see it, and see nothing wrong in a saga that goes as it should."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from minuet import Coordination
from minuet.core.envelope import Envelope, SagaRef
from minuet.ports import Entry, EntryState, Outgoing
from minuet.testing.simulation import invariants
from minuet.testing.simulation.database import Commit, Database
from minuet.testing.simulation.invariants import Promises
from tests.simulation.shop import order_processing, shop

RESERVE, CHARGE, SHIP = (step.name for step in order_processing.steps)
SERVICES = {RESERVE: "inventory", CHARGE: "payment", SHIP: "shipping"}
DONE = {RESERVE: "InventoryReserved", CHARGE: "PaymentProcessed", SHIP: "OrderShipped"}


class Story:
    """Commits told one after the other, and what they break."""

    def __init__(self) -> None:
        self.promises = Promises(shop)
        self.databases: dict[str, Database] = {}
        self.broken: list[str] = []
        self.entries: dict[tuple[str, str], Entry] = {}
        self.position = 0

    def database(self, service: str) -> Database:
        return self.databases.setdefault(service, Database(service))

    def close(self) -> None:
        for database in self.databases.values():
            database.close()

    def commit(self, service: str, *, instance: str = "i1", outgoing: Sequence[Outgoing] = (), **entry: Any) -> None:
        changes: list[tuple[Entry | None, Entry]] = []
        if entry:
            now = Entry(**entry)
            changes.append((self.entries.get((service, now.key)), now))
            self.entries[service, now.key] = now
        commit = Commit(service=service, instance=instance, entries=changes, outgoing=outgoing)
        self.broken += [promise for promise, _ in self.promises.after(commit, self.database(service))]

    def step(self, rule: str, answer: str = "", *, at: str = "", body: bytes = b"{}", **more: Any) -> None:
        """The rule's command is in somebody's inbox; with an answer, it is decided."""
        service = at or SERVICES.get(rule.removesuffix("/undo"), "orders")
        ref = SagaRef("OrderProcessing", "o1", order_processing.fingerprint, Coordination.CHOREOGRAPHY, rule)
        envelope = Envelope(id=rule, type="Command", source=service, time=0.0, body=b"{}", saga=ref, key="o1")
        state = EntryState.DONE if answer else EntryState.DUE
        decided = replace(envelope, type=answer, body=body) if answer else None
        self.commit(
            service,
            **({"key": rule, "handler": "Command", "envelope": envelope, "state": state, "answer": decided} | more),
        )

    def done(self, *rules: str) -> None:
        for rule in rules:
            self.step(rule)
            self.step(rule, DONE.get(rule, "Undone"))

    def outgoing(self, envelope_id: str = "m1", *, key: str = "o1") -> Outgoing:
        self.position += 1
        return Outgoing(
            self.position, "orders", Envelope(id=envelope_id, type="T", source="orders", time=0.0, body=b"{}", key=key)
        )

    def publish(self, message: Outgoing) -> None:
        self.broken += [promise for promise, _ in self.promises.published(message, ordered=True)]

    def end(self, parked: bool = False) -> None:
        parked_sagas = {("OrderProcessing", "o1"): "why"} if parked else {}
        self.broken += [promise for promise, _ in self.promises.at_the_end(parked_sagas)]


@pytest.fixture
def story() -> Iterator[Story]:
    story = Story()
    yield story
    story.close()


def test_a_saga_that_goes_well_breaks_nothing(story: Story) -> None:
    story.done(RESERVE, CHARGE, SHIP, "completed")
    story.end()
    assert not story.broken


def test_a_saga_that_is_undone_in_order_breaks_nothing(story: Story) -> None:
    story.done(RESERVE, CHARGE)
    story.step(SHIP, "AddressRefused")
    story.done(CHARGE + "/undo", RESERVE + "/undo", "compensated")
    story.end()
    assert not story.broken


def test_the_same_again_breaks_nothing(story: Story) -> None:
    story.done(RESERVE)
    story.step(RESERVE, "InventoryReserved", at="orchestrator")
    assert not story.broken


def test_a_step_that_is_decided_twice(story: Story) -> None:
    story.done(RESERVE)
    story.step(RESERVE, "OutOfStock", at="orchestrator")
    assert invariants.DECIDED_ONCE in story.broken


def test_a_step_that_is_decided_alike_with_other_content(story: Story) -> None:
    story.done(RESERVE)
    story.step(RESERVE, "InventoryReserved", at="orchestrator", body=b'{"items":[]}')
    assert story.broken == [invariants.DECIDED_ONCE]


def test_an_entry_that_changes_when_it_is_done(story: Story) -> None:
    story.done(RESERVE)
    story.step(RESERVE)
    assert invariants.ENTRY_STAYS in story.broken


def test_a_step_that_begins_too_early(story: Story) -> None:
    story.done(RESERVE)
    story.step(SHIP)
    assert story.broken == [invariants.STEPS_IN_ORDER]


def test_an_undo_of_what_was_not_done(story: Story) -> None:
    story.step(RESERVE, "OutOfStock")
    story.step(RESERVE + "/undo")
    assert story.broken == [invariants.UNDONE_FOR_A_REASON]


def test_an_undo_though_nobody_refused(story: Story) -> None:
    story.done(RESERVE)
    story.step(RESERVE + "/undo")
    assert story.broken == [invariants.UNDONE_FOR_A_REASON]


def test_an_undo_before_what_was_built_on_it_is_undone(story: Story) -> None:
    story.done(RESERVE, CHARGE)
    story.step(SHIP, "AddressRefused")
    story.step(RESERVE + "/undo")
    assert story.broken == [invariants.UNDOS_IN_ORDER]


def test_completed_though_a_step_is_not_done(story: Story) -> None:
    story.done(RESERVE, CHARGE)
    story.step("completed", "OrderStatusUpdated")
    assert story.broken == [invariants.EFFECTS_AGREE]


def test_compensated_though_something_remains(story: Story) -> None:
    story.done(RESERVE)
    story.step(CHARGE, "PaymentDeclined")
    story.step("compensated", "OrderStatusUpdated")
    assert story.broken == [invariants.EFFECTS_AGREE]


def test_compensated_though_an_undo_is_under_way(story: Story) -> None:
    story.done(RESERVE)
    story.step(CHARGE, "PaymentDeclined")
    story.step(RESERVE + "/undo")
    story.step("compensated", "OrderStatusUpdated")
    assert story.broken == [invariants.EFFECTS_AGREE]


def test_an_end_after_the_other(story: Story) -> None:
    story.done(RESERVE, CHARGE, SHIP, "completed")
    story.step("compensated", "OrderStatusUpdated")
    assert invariants.FINAL_STAYS in story.broken


def test_somebody_writes_to_what_belongs_to_a_living_one(story: Story) -> None:
    database = story.database("inventory")
    database.openings["i1"] = database.openings["i2"] = None  # type: ignore[assignment]
    story.step(RESERVE, owner="i1")
    story.step(RESERVE, "InventoryReserved", instance="i2")
    assert story.broken == [invariants.FENCED]


def test_somebody_takes_over_from_one_who_is_gone(story: Story) -> None:
    story.step(RESERVE, owner="i1")
    story.step(RESERVE, "InventoryReserved", instance="i2")
    assert not story.broken


def test_what_is_parked_without_a_word(story: Story) -> None:
    story.step(RESERVE, state=EntryState.PARKED)
    assert story.broken == [invariants.PARKED_WITH_REASON]


def test_a_message_without_its_commit(story: Story) -> None:
    story.publish(story.outgoing())
    assert story.broken == [invariants.NO_GHOSTS]


def test_another_message_in_its_place(story: Story) -> None:
    message = story.outgoing("m1")
    story.commit("orders", outgoing=[message])
    story.publish(replace(message, envelope=replace(message.envelope, id="m2")))
    assert story.broken == [invariants.NO_GHOSTS]


def test_a_committed_message_that_never_goes_out(story: Story) -> None:
    story.commit("orders", outgoing=[story.outgoing()])
    story.end()
    assert story.broken == [invariants.NONE_LOST]


def test_messages_of_a_key_that_overtake_each_other(story: Story) -> None:
    first, second, other = story.outgoing("m1"), story.outgoing("m2"), story.outgoing("m3", key="o2")
    story.commit("orders", outgoing=[first, second, other])
    for message in (other, second):
        story.publish(message)
    assert not story.broken
    story.publish(first)
    assert story.broken == [invariants.KEY_ORDER]


def test_a_message_that_is_published_again_overtakes_nobody(story: Story) -> None:
    first, second = story.outgoing("m1"), story.outgoing("m2")
    story.commit("orders", outgoing=[first, second])
    for message in (first, second, first):
        story.publish(message)
    story.end()
    assert not story.broken


def test_a_saga_that_does_not_end(story: Story) -> None:
    story.done(RESERVE, CHARGE)
    story.end()
    assert story.broken == [invariants.ALL_END]


def test_a_saga_that_waits_for_an_operator_need_not_end(story: Story) -> None:
    story.done(RESERVE, CHARGE)
    story.end(parked=True)
    assert not story.broken
