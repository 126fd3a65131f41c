"""Where a command's content comes from."""

from collections.abc import Sequence
from typing import Any, Union

import pytest

from minuet.core.compile import BEGUN
from minuet.core.errors import DefinitionError
from minuet.core.formula import Literal, Outcome
from minuet.core.messages import Command, Event, Query, Refusal, StepRefused, View
from minuet.core.recipe import Recipe, Source, command_of, recipe_for
from minuet.core.saga import Part, Saga, parallel, step
from tests.unit.core.shop import (
    CreateShipment,
    GetOrder,
    InventoryReserved,
    OrderCreated,
    OrderView,
    OutOfStock,
    PaymentProcessed,
    ProcessPayment,
    ReleaseInventory,
    ReserveInventory,
    UpdateOrder,
    cancel_order,
    charge,
)

RESERVED = Literal("reserve_inventory", Outcome.SUCCEEDED)
PAID = Literal("process_payment", Outcome.SUCCEEDED)
BEGIN: Source = (BEGUN, (OrderCreated,))
AFTER_RESERVING: tuple[Source, ...] = ((RESERVED, (InventoryReserved,)), BEGIN)

ORDER = OrderCreated(order_id="o-1", items=["book"])
STOCK = InventoryReserved(order_id="o-1", reserved_items=["book"])


class PaidByCard(Event, channel="payments"):
    order_id: str
    amount: float


class PaidLater(Event, channel="payments"):
    order_id: str


class Weigh(Command, service="shipping", answers=(PaymentProcessed,)):
    order_id: str
    amount: int = 1


class CountedOrder(Command, service="shipping", answers=(PaymentProcessed,)):
    order_id: int


class Folded(Event, channel="shipping"):
    paper: str


class Fold(Command, service="shipping", answers=(Folded,)):
    order_id: str


class Wrap(Command, service="shipping", answers=(PaymentProcessed,)):
    paper: str


class Bare(View):
    pass


class Shared(View):
    pass


class GetShared(Query, service="orders", answer=Shared):
    order_id: str


class FindShared(Query, service="orders", answer=Shared):
    order_id: str


class PriceView(View):
    amount: float


class GetPrice(Query, service="prices", answer=PriceView):
    item: str


def plan(action: Any, *sources: Source, refusals: tuple[Source, ...] = ()) -> Recipe:
    return recipe_for(action, where="saga Shop, pay", sources=sources, refusals=refusals)


# -- by field names --------------------------------------------------------------------------------------------------


def test_fields_come_from_what_is_known_by_name_the_nearest_first() -> None:
    recipe = plan(ReleaseInventory, *AFTER_RESERVING)
    assert recipe.needs == {RESERVED}
    known: dict[Literal, Event] = {RESERVED: STOCK, BEGUN: ORDER}
    assert recipe.build(known, {}) == ReleaseInventory(order_id="o-1", reserved_items=["book"])


def test_only_what_fills_a_field_is_needed() -> None:
    assert plan(ReserveInventory, BEGIN).needs == {BEGUN}
    assert plan(ReserveInventory, *AFTER_RESERVING).needs == {BEGUN, RESERVED}


def test_a_field_with_a_default_needs_nobody() -> None:
    recipe = plan(Weigh, BEGIN)
    assert recipe.build({BEGUN: ORDER}, {}) == Weigh(order_id="o-1", amount=1)


def test_a_source_with_two_events_must_provide_the_field_in_both() -> None:
    either: Source = (PAID, (PaidByCard, PaidLater))
    recipe = plan(UpdateOrder, either, BEGIN)
    assert recipe.needs == {PAID}
    with pytest.raises(DefinitionError, match="nobody provides field 'amount'"):
        plan(ProcessPayment, either, BEGIN)


def test_a_field_that_nobody_provides_is_an_error_that_says_what_is_known_and_what_to_do() -> None:
    with pytest.raises(
        DefinitionError,
        match=r"saga Shop, pay: nobody provides field 'amount' \(float\) of ProcessPayment; known there: "
        r"InventoryReserved, OrderCreated. Add the field to one of them, give it a default, "
        r"or write a function .* returns ProcessPayment",
    ):
        plan(ProcessPayment, *AFTER_RESERVING)


def test_a_field_of_another_type_does_not_provide_it() -> None:
    with pytest.raises(DefinitionError, match=r"nobody provides field 'order_id' \(int\) of CountedOrder"):
        plan(CountedOrder, BEGIN)


@pytest.mark.parametrize(
    "steps",
    [[Wrap, Fold], [parallel(Fold, Wrap)], [parallel([Fold, CreateShipment], Wrap)]],
    ids=["later", "beside", "branch"],
)
def test_a_field_is_not_provided_by_what_comes_later_or_runs_beside(steps: Sequence[Part]) -> None:
    with pytest.raises(
        DefinitionError,
        match=r"saga Shop, wrap: nobody provides field 'paper' \(str\) of Wrap; known there: OrderCreated\.",
    ):
        Saga("Shop", begins_with=OrderCreated, key="order_id", steps=steps)


def test_a_field_is_provided_by_any_branch_that_is_complete() -> None:
    steps: list[Part] = [parallel(CreateShipment, Fold), Wrap]
    saga = Saga("Shop", begins_with=OrderCreated, key="order_id", steps=steps)
    rule = saga.rules.rule("wrap")
    assert rule is not None
    assert rule.recipe.needs == {Literal("fold", Outcome.SUCCEEDED)}


# -- by a function ---------------------------------------------------------------------------------------------------


def test_a_function_gets_the_events_it_asks_for_by_type() -> None:
    def pay(order: OrderCreated, stock: InventoryReserved) -> ProcessPayment:
        return ProcessPayment(order_id=order.order_id, amount=len(stock.reserved_items))

    recipe = plan(pay, *AFTER_RESERVING)
    assert recipe.command is ProcessPayment
    assert recipe.needs == {BEGUN, RESERVED}
    assert recipe.queries == {}
    assert recipe.build({BEGUN: ORDER, RESERVED: STOCK}, {}) == ProcessPayment(order_id="o-1", amount=1)


def test_a_function_gets_the_nearest_of_several_events_of_a_type() -> None:
    def pay(paid: PaymentProcessed) -> UpdateOrder:
        return UpdateOrder(order_id=paid.order_id)

    again = Literal("again", Outcome.SUCCEEDED)
    assert plan(pay, (again, (PaymentProcessed,)), (PAID, (PaymentProcessed,))).needs == {again}


def test_a_function_that_takes_either_event_is_content_with_a_step_that_answers_one_of_them() -> None:
    def new(paid: PaidByCard | PaidLater) -> UpdateOrder:
        return UpdateOrder(order_id=paid.order_id)

    def old(paid: Union[PaidByCard, PaidLater]) -> UpdateOrder:  # noqa: UP007
        return UpdateOrder(order_id=paid.order_id)

    for function in (new, old):
        assert plan(function, (PAID, (PaidByCard, PaidLater))).needs == {PAID}
        assert plan(function, (PAID, (PaidLater,))).needs == {PAID}


def test_a_function_that_takes_one_of_two_events_cannot_count_on_it() -> None:
    def pay(paid: PaidByCard) -> UpdateOrder:
        return UpdateOrder(order_id=paid.order_id)

    with pytest.raises(
        DefinitionError,
        match="parameter 'paid' of pay: PaidByCard is not certain to be known there; known there: PaidByCard, Paid",
    ):
        plan(pay, (PAID, (PaidByCard, PaidLater)))


def test_a_refusal_by_its_type_is_never_certain() -> None:
    def pay(no: OutOfStock) -> UpdateOrder:
        return UpdateOrder(order_id=no.order_id)

    with pytest.raises(DefinitionError, match="OutOfStock is not certain to be known there"):
        plan(pay, *AFTER_RESERVING)


def test_a_function_that_returns_another_command_than_it_says_is_caught() -> None:
    def pay(order: OrderCreated) -> ProcessPayment:
        return UpdateOrder(order_id=order.order_id)  # type: ignore[return-value]

    with pytest.raises(TypeError, match="pay returned UpdateOrder, it is annotated with ProcessPayment"):
        plan(pay, BEGIN).build({BEGUN: ORDER}, {})


def test_a_function_must_say_which_command_it_returns() -> None:
    def silent(order: OrderCreated):  # type: ignore[no-untyped-def]  # noqa: ANN202, RUF100
        return None

    def wrong(order: OrderCreated) -> OrderCreated:
        return order

    for function in (silent, wrong):
        with pytest.raises(
            DefinitionError, match=f"here: function {function.__name__} must say which command it returns, as in ->"
        ):
            command_of(function, where="here")  # type: ignore[arg-type]


@pytest.mark.parametrize("annotation", [str, ReserveInventory, Event | None, "nothing"])
def test_a_parameter_must_be_an_event_or_a_view(annotation: Any) -> None:
    def pay(thing: Any) -> ProcessPayment:
        raise NotImplementedError

    pay.__annotations__ = {"return": ProcessPayment} | ({} if annotation == "nothing" else {"thing": annotation})
    with pytest.raises(
        DefinitionError,
        match=r"saga Shop, pay: parameter 'thing' of pay must be annotated with an event of this saga or a query",
    ):
        plan(pay, BEGIN)


def test_an_annotation_that_cannot_be_found_is_an_error_with_its_remedy() -> None:
    def pay(order: "Hidden") -> ProcessPayment:  # type: ignore[name-defined]  # noqa: F821
        raise NotImplementedError

    with pytest.raises(
        DefinitionError, match="pay: name 'Hidden' is not defined; import the annotation's class at module"
    ):
        plan(pay, BEGIN)


# -- queries ---------------------------------------------------------------------------------------------------------


def test_a_view_is_asked_for_by_its_query_when_the_rule_fires() -> None:
    recipe = plan(charge, *AFTER_RESERVING)
    known: dict[Literal, Event] = {RESERVED: STOCK, BEGUN: ORDER}
    assert recipe.needs == {RESERVED}
    assert recipe.questions(known) == {"order": GetOrder(order_id="o-1")}
    view = OrderView(order_id="o-1", amount=42.5)
    assert recipe.build(known, {"order": view}) == ProcessPayment(order_id="o-1", amount=42.5)


def test_a_view_without_a_query_is_an_error() -> None:
    def pay(view: Bare) -> ProcessPayment:
        raise NotImplementedError

    with pytest.raises(
        DefinitionError, match=r"'view' of pay: no query answers with Bare; declare class \.\.\.\(Query, answer=Bare\)"
    ):
        plan(pay, BEGIN)


def test_a_view_with_two_queries_is_an_error() -> None:
    def pay(view: Shared) -> ProcessPayment:
        raise NotImplementedError

    with pytest.raises(
        DefinitionError, match="GetShared, FindShared all answer with Shared; give each query a view of its own"
    ):
        plan(pay, BEGIN)


def test_a_query_whose_fields_nobody_provides_is_an_error() -> None:
    def pay(price: PriceView) -> ProcessPayment:
        raise NotImplementedError

    with pytest.raises(
        DefinitionError, match=r"parameter 'price' of pay: nobody provides field 'item' \(str\) of GetPrice"
    ):
        plan(pay, BEGIN)


# -- the refusal that ended a saga -----------------------------------------------------------------------------------

NO_STOCK: Source = (Literal("reserve_inventory", Outcome.REFUSED), (OutOfStock,))
NO_MONEY: Source = (Literal("process_payment", Outcome.REFUSED), ())


def test_a_compensated_end_may_ask_for_the_refusal_and_gets_the_first_in_reading_order() -> None:
    recipe = plan(cancel_order, BEGIN, refusals=(NO_STOCK, NO_MONEY))
    assert recipe.needs == {BEGUN}
    assert recipe.needs_any == ((NO_STOCK[0], NO_MONEY[0]),)
    out = OutOfStock(order_id="o-1", item="book")
    late = StepRefused(service="payment", command="ProcessPayment", reason="too late")
    for known, status in (
        ({NO_STOCK[0]: out}, "CANCELLED: OutOfStock"),
        ({NO_MONEY[0]: late}, "CANCELLED: StepRefused"),
        ({NO_MONEY[0]: late, NO_STOCK[0]: out}, "CANCELLED: OutOfStock"),
    ):
        assert recipe.build({BEGUN: ORDER, **known}, {}) == UpdateOrder(order_id="o-1", status=status)


def test_a_refusal_is_not_known_anywhere_else() -> None:
    def pay(why: Refusal) -> ProcessPayment:
        raise NotImplementedError

    with pytest.raises(
        DefinitionError,
        match=r"saga Shop, process_payment: parameter 'why' of pay: a Refusal is known only where a saga is comp",
    ):
        Saga("Shop", begins_with=OrderCreated, key="order_id", steps=[step(pay)])
    with pytest.raises(
        DefinitionError, match="saga Shop, completed: parameter 'refusal' of cancel_order: a Refusal is"
    ):
        Saga("Shop", begins_with=OrderCreated, key="order_id", steps=[ReserveInventory], completed=cancel_order)
