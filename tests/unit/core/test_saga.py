"""How a saga is written, and everything that is wrong with one before it runs."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from minuet.core.errors import DefinitionError
from minuet.core.lint import check_sagas
from minuet.core.messages import Command, Event
from minuet.core.retry import RetryPolicy
from minuet.core.saga import Nothing, ParallelOf, Part, Saga, SequenceOf, parallel, sequence, step
from tests.unit.core.shop import (
    CreateShipment,
    InventoryReserved,
    OrderCreated,
    OrderShipped,
    OutOfStock,
    PaymentDeclined,
    ProcessPayment,
    RefundPayment,
    ReleaseInventory,
    ReserveInventory,
    UpdateOrder,
    charge,
    order_processing,
)


class Pack(Command, service="shipping", answers=(OrderShipped,)):
    order_id: str


class MayPack(Command, service="shipping", answers=(OrderShipped, OutOfStock)):
    order_id: str


class CannotPack(Command, service="shipping", answers=(OutOfStock,)):
    order_id: str


class PackOnce(Command, service="shipping", answers=(OrderShipped,), key="order_id"):
    order_id: str


class Unpack(Command, service="shipping", answers=(OrderShipped,)):
    order_id: str


class MayUnpack(Command, service="shipping", answers=(OrderShipped, OutOfStock)):
    order_id: str


class CreateOrder(Command, service="orders", answers=(OrderCreated,)):
    order_id: str


def pack(order: OrderCreated) -> PackOnce:
    return PackOnce(order_id=order.order_id)


def saga(*steps: Part, **more: Any) -> Saga:
    return Saga(**{"name": "Shop", "begins_with": OrderCreated, "key": "order_id", "steps": steps, **more})


# -- how it is written -----------------------------------------------------------------------------------------------


def test_the_shops_saga_reads_as_it_is_written() -> None:
    shop = order_processing()
    assert [each.name for each in shop.steps] == ["reserve_inventory", "process_payment", "create_shipment"]
    assert [each.command for each in shop.steps] == [ReserveInventory, ProcessPayment, CreateShipment]
    assert [each.undo_command for each in shop.steps] == [ReleaseInventory, RefundPayment, None]


def test_lists_are_sequences_and_bare_commands_are_steps() -> None:
    shop = saga(parallel([step(Pack, name="a"), CreateShipment], step(Pack, name="b")), Pack)
    assert shop.root == sequence(
        parallel(sequence(step(Pack, name="a"), step(CreateShipment)), step(Pack, name="b")), step(Pack)
    )
    assert isinstance(shop.root, SequenceOf)
    assert isinstance(shop.root.parts[0], ParallelOf)
    assert [each.name for each in shop.steps] == ["a", "create_shipment", "b", "pack"]


@pytest.mark.parametrize(
    ("name", "snake"), [("Pack", "pack"), ("CreateShipment", "create_shipment"), ("SendSMSNow2U", "send_sms_now2_u")]
)
def test_a_step_is_named_for_its_command(name: str, snake: str) -> None:
    class Any(Command, service="shipping", answers=(OrderShipped,)):
        pass

    Any.__name__ = name
    assert step(Any).name == snake


def test_a_step_is_refusable_when_its_command_says_so_or_a_deadline_can_be_missed() -> None:
    assert step(MayPack).is_refusable
    assert step(Pack, deadline=timedelta(seconds=1)).is_refusable
    assert not step(Pack).is_refusable


def test_a_saga_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        order_processing().name = "Other"  # type: ignore[misc]


# -- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["begin", "completed", "compensated", "cancelled", "Pack", "pack/undo", "pack it", "1st", "_pack"]
)
def test_a_step_must_have_a_snake_case_name_that_is_not_taken(name: str) -> None:
    with pytest.raises(
        DefinitionError, match=f"step name '{name}' must be snake_case and none of begin, cancelled, compensated, "
    ):
        step(Pack, name=name)


@pytest.mark.parametrize("deadline", [timedelta(0), timedelta(seconds=-1)])
def test_a_deadline_lies_in_the_future(deadline: timedelta) -> None:
    with pytest.raises(DefinitionError, match="step pack: a deadline lies in the future"):
        step(Pack, deadline=deadline)


@pytest.mark.parametrize("why", ["", "  "])
def test_doing_nothing_needs_a_reason(why: str) -> None:
    with pytest.raises(DefinitionError, match=r'Nothing needs a reason: undo=Nothing\("why'):
        Nothing(why)


def test_an_undo_cannot_be_refused() -> None:
    with pytest.raises(
        DefinitionError, match=r"step pack: its undo MayUnpack may answer OutOfStock.*drop that answer, minuet retries"
    ):
        step(Pack, undo=MayUnpack)


@pytest.mark.parametrize("action", ["Pack", OrderCreated, 7, None])
def test_a_step_is_a_command_or_a_function_that_returns_one(action: Any) -> None:
    with pytest.raises(DefinitionError, match=r"step: .* is neither a Command class nor a function that returns one"):
        step(action)


def test_an_undo_is_a_command_or_a_function_that_returns_one() -> None:
    with pytest.raises(DefinitionError, match=r"undo of step pack: .* is neither a Command class nor a function"):
        step(Pack, undo=OrderCreated)  # type: ignore[arg-type]


def test_an_empty_sequence_and_a_lonely_branch_are_errors() -> None:
    with pytest.raises(DefinitionError, match="an empty sequence does nothing; leave it out"):
        saga(Pack, [])
    with pytest.raises(DefinitionError, match="parallel needs at least two branches; a single one is just a step"):
        parallel(Pack)


# -- the saga as a whole ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "order processing", "Order-Processing", "1st", "Order\n"])
def test_a_sagas_name_is_one_word(name: str) -> None:
    with pytest.raises(DefinitionError, match=r"saga name .* must be one word, as in OrderProcessing"):
        saga(Pack, name=name)


def test_a_saga_without_steps_is_an_error() -> None:
    with pytest.raises(DefinitionError, match="saga Shop has no steps"):
        saga()


@pytest.mark.parametrize("begins_with", [Pack, OutOfStock, "OrderCreated", None])
def test_a_saga_begins_with_an_event(begins_with: Any) -> None:
    with pytest.raises(DefinitionError, match="saga Shop must begin with an Event class, not "):
        saga(Pack, begins_with=begins_with)


def test_a_sagas_key_is_a_field_of_what_begins_it() -> None:
    with pytest.raises(
        DefinitionError, match="saga Shop: key 'id' is not a field of OrderCreated; it has order_id, items"
    ):
        saga(Pack, key="id")


@pytest.mark.parametrize(
    "steps",
    [[Pack, Pack], [Pack, parallel(CreateShipment, [step(CreateShipment, name="pack")])]],
    ids=["row", "nested"],
)
def test_two_steps_cannot_have_the_same_name(steps: Sequence[Part]) -> None:
    with pytest.raises(
        DefinitionError, match=r"saga Shop has 2 steps named pack; tell them apart with step\(\.\.\., name=\.\.\.\)"
    ):
        saga(*steps)


def test_a_saga_cannot_begin_with_what_it_causes_itself() -> None:
    cause = "saga Shop is a cycle: it begins with OrderCreated, which one of its own commands answers; begin it with"
    with pytest.raises(DefinitionError, match=cause):
        saga(CreateOrder)
    with pytest.raises(DefinitionError, match=cause):
        saga(step(Pack, undo=CreateOrder))
    with pytest.raises(DefinitionError, match=cause):
        saga(Pack, completed=CreateOrder)


# -- refusals that come too late -------------------------------------------------------------------------------------

REFUSES = step(MayPack, name="refuses")
REMAINS = step(Pack, name="remains")


@pytest.mark.parametrize(
    "steps",
    [
        [REMAINS, REFUSES],
        [REMAINS, CreateShipment, REFUSES],
        [parallel(REMAINS, CreateShipment), REFUSES],
        [parallel(REMAINS, REFUSES)],
        [parallel(REFUSES, REMAINS)],
        [parallel([CreateShipment, [REMAINS]], [REFUSES])],
        [REMAINS, parallel(CreateShipment, [step(Pack), REFUSES])],
    ],
    ids=["after", "long after", "after a branch", "beside", "beside, reversed", "in another branch", "inside a branch"],
)
def test_a_step_may_not_refuse_when_something_would_remain_that_cannot_be_undone(steps: Sequence[Part]) -> None:
    with pytest.raises(
        DefinitionError,
        match=r"saga Shop: step refuses may be refused \(OutOfStock\) when step \w+ is done, which has no undo. "
        r'Give \w+ one, say undo=Nothing\("why"\), or move refuses before it',
    ):
        saga(*steps)


def test_a_deadline_is_a_refusal_too() -> None:
    with pytest.raises(
        DefinitionError, match=r"step late may be refused \(a missed deadline\) when step remains is done"
    ):
        saga(REMAINS, step(Pack, name="late", deadline=timedelta(seconds=1)))


@pytest.mark.parametrize(
    "steps",
    [
        [REFUSES, REMAINS],
        [step(Pack, undo=Unpack), REFUSES],
        [step(Pack, undo=Nothing("an empty box stays")), REFUSES],
        [REFUSES, parallel(REMAINS, CreateShipment)],
        [parallel(REFUSES, step(Pack, undo=Unpack)), REMAINS],
    ],
    ids=["before", "after an undo", "after Nothing", "before branches", "beside an undo"],
)
def test_a_step_may_refuse_when_all_that_is_done_can_be_undone(steps: Sequence[Part]) -> None:
    assert any(each.is_refusable for each in saga(*steps).steps)


@pytest.mark.parametrize("undo", [None, Unpack, Nothing("nothing is packed")], ids=["none", "command", "nothing"])
def test_a_step_must_be_able_to_succeed(undo: Any) -> None:
    with pytest.raises(
        DefinitionError,
        match="saga Shop: CannotPack of step cannot_pack can only be refused; name the event",
    ):
        saga(step(CannotPack, undo=undo))


@pytest.mark.parametrize("end", ["completed", "compensated"])
def test_an_end_cannot_be_refused(end: str) -> None:
    with pytest.raises(
        DefinitionError,
        match=f"saga Shop: MayPack, its {end} end, may answer OutOfStock, but an end cannot be refused; make it a step",
    ):
        saga(Pack, **{end: MayPack})


@pytest.mark.parametrize("end", ["completed", "compensated"])
def test_an_end_is_a_command_or_a_function_that_returns_one(end: str) -> None:
    with pytest.raises(DefinitionError, match=f"saga Shop, {end}: .* is neither a Command class nor a function"):
        saga(Pack, **{end: "ship"})


def test_a_command_with_a_key_is_sent_once_by_a_saga() -> None:
    with pytest.raises(
        DefinitionError,
        match="saga Shop sends PackOnce in 2 steps, but its key order_id makes them one and the same; extend the key",
    ):
        saga(step(PackOnce, name="a"), step(PackOnce, name="b"))


def test_a_command_with_a_key_may_be_built_differently_by_functions() -> None:
    assert len(saga(step(PackOnce, name="a"), step(pack, name="b")).steps) == 2


# -- between sagas ---------------------------------------------------------------------------------------------------


class Opened(Event, channel="circle"):
    order_id: str


class Closed(Event, channel="circle"):
    order_id: str


class Open(Command, service="door", answers=(Opened,)):
    order_id: str


class Close(Command, service="door", answers=(Closed,)):
    order_id: str


def named(name: str, begins_with: type[Event], *steps: Part, **more: Any) -> Saga:
    return Saga(name, begins_with=begins_with, key="order_id", steps=steps, **more)


def test_sagas_may_begin_one_another_in_a_row() -> None:
    check_sagas([named("First", OrderCreated, Open), named("Second", Opened, Close), named("Third", Closed, Pack)])


@pytest.mark.parametrize(
    "closing",
    [
        lambda: named("Closing", Opened, Close),
        lambda: named("Closing", Opened, step(Pack, undo=Close)),
        lambda: named("Closing", Opened, Pack, completed=Close),
        lambda: named("Closing", Opened, Pack, compensated=Close),
    ],
    ids=["step", "undo", "completed", "compensated"],
)
def test_sagas_may_not_begin_each_other_without_end(closing: Callable[[], Saga]) -> None:
    with pytest.raises(
        DefinitionError,
        match=r"sagas begin each other without end: .*Opening -> Closing.*; let one of them begin with another event",
    ):
        check_sagas([named("Entry", OrderCreated, Open), named("Opening", Closed, Open), closing()])


# -- what a step keeps -----------------------------------------------------------------------------------------------


def test_a_steps_retry_is_its_own_or_left_to_the_handler() -> None:
    assert step(Pack).retry is None
    assert step(Pack, retry=RetryPolicy(attempts_max=2)).retry == RetryPolicy(attempts_max=2)


def test_a_function_stands_for_the_command_it_returns() -> None:
    made = step(charge)
    assert (made.name, made.command, made.is_refusable) == ("process_payment", ProcessPayment, True)
    assert PaymentDeclined in made.command.__contract__.answers
    assert InventoryReserved not in made.command.__contract__.answers
    assert step(charge, undo=RefundPayment).undo_command is RefundPayment
    assert step(UpdateOrder).undo_command is None
