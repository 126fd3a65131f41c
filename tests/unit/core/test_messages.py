from typing import Any

import pytest
from pydantic import Field, ValidationError

from minuet.core.errors import DefinitionError
from minuet.core.messages import (
    Command,
    Event,
    HttpRoute,
    Query,
    Refusal,
    StepRefused,
    View,
    channel_of,
    name_of,
    refusals,
    required_fields,
    successes,
)
from tests.unit.core.shop import (
    GetOrder,
    InventoryReserved,
    OrderCreated,
    OrderView,
    OutOfStock,
    ReserveInventory,
)

# -- what a message is -----------------------------------------------------------------------------------------------


def test_a_message_is_camel_case_in_json_and_snake_case_in_code() -> None:
    event = InventoryReserved(order_id="o-1", reserved_items=["book"])
    text = event.model_dump_json(by_alias=True)
    assert text == '{"orderId":"o-1","reservedItems":["book"]}'
    assert InventoryReserved.model_validate_json(text) == event


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        OrderCreated(order_id="o-1", items=[]).order_id = "o-2"  # type: ignore[misc]


def test_an_event_and_a_view_ignore_fields_they_do_not_know() -> None:
    assert OrderCreated.model_validate({"orderId": "o-1", "items": [], "colour": "red"}).order_id == "o-1"
    assert OrderView.model_validate({"orderId": "o-1", "amount": 1, "colour": "red"}).amount == 1.0


@pytest.mark.parametrize(("message", "body"), [(ReserveInventory, {"items": []}), (GetOrder, {})])
def test_a_command_and_a_query_do_not_accept_fields_they_do_not_know(
    message: type[Command] | type[Query], body: dict[str, object]
) -> None:
    with pytest.raises(ValidationError, match="colour"):
        message.model_validate({"orderId": "o-1", "colour": "red", **body})


def test_a_command_knows_its_successes_and_its_refusals() -> None:
    assert successes(ReserveInventory) == (InventoryReserved,)
    assert refusals(ReserveInventory) == (OutOfStock,)


def test_a_name_is_that_of_the_class_for_the_class_and_its_instances() -> None:
    assert name_of(OrderCreated) == name_of(OrderCreated(order_id="o-1", items=[])) == "OrderCreated"


def test_required_fields_are_those_without_a_default() -> None:
    class Optional(View):
        wanted: str
        spare: str = ""

    assert required_fields(Optional) == ("wanted",)


def test_an_event_is_published_on_its_channel_and_minuets_own_refusal_on_its_services() -> None:
    assert channel_of(OrderCreated(order_id="o-1", items=[])) == "orders"
    refused = StepRefused(service="inventory", command="ReserveInventory", reason="too late")
    assert channel_of(refused) == "inventory.refused"


def test_an_event_inherits_its_parents_channel_but_not_its_version() -> None:
    class Parent(Event, channel="parents", version=3):
        pass

    class Child(Parent):
        pass

    assert (Child.__contract__.channel, Child.__contract__.version) == ("parents", 1)


# -- what its declaration says ---------------------------------------------------------------------------------------


def test_a_route_is_a_method_and_a_path_with_fields() -> None:
    route = HttpRoute.parse("PUT /orders/{order_id}/lines/{line}", of="X")
    assert (route.method, route.path_fields) == ("PUT", ("order_id", "line"))


def test_a_command_keeps_what_its_class_line_says() -> None:
    class Ship(
        Command,
        service="shipping",
        answers=(InventoryReserved,),
        http="POST /shipping/{order_id}",
        key="order_id",
        accepted="/shipping/{order_id}",
        version=2,
        upcasts={1: dict},
    ):
        order_id: str

    contract = Ship.__contract__
    assert (contract.service, contract.answers, contract.key) == ("shipping", (InventoryReserved,), ("order_id",))
    assert contract.http == HttpRoute("POST", "/shipping/{order_id}")
    assert (contract.accepted, contract.version, list(contract.upcasts)) == ("/shipping/{order_id}", 2, [1])


def test_a_key_may_be_several_fields() -> None:
    class Ship(Command, service="shipping", answers=(InventoryReserved,), key=("order_id", "part")):
        order_id: str
        part: int

    assert Ship.__contract__.key == ("order_id", "part")


def test_a_view_remembers_its_own_queries_and_not_those_of_its_parent() -> None:
    class Narrow(OrderView):
        pass

    class GetNarrow(Query, service="orders", answer=Narrow):
        pass

    assert Narrow.__queries__ == (GetNarrow,)
    assert OrderView.__queries__ == (GetOrder,)


# -- what is wrong with it -------------------------------------------------------------------------------------------


def test_an_event_without_a_channel_is_told_to_name_one() -> None:
    with pytest.raises(DefinitionError, match=r"event Lost names no channel; write class Lost\(Event, channel="):

        class Lost(Event):
            pass


def test_a_refusal_without_a_channel_is_told_to_name_one() -> None:
    with pytest.raises(DefinitionError, match="event LostRefusal names no channel"):

        class LostRefusal(Refusal):
            pass


def test_a_command_without_a_service_is_told_to_name_one() -> None:
    with pytest.raises(DefinitionError, match=r"command Lost names no service; write class Lost\(Command, service="):

        class Lost(Command, answers=(InventoryReserved,)):
            pass


def test_a_command_without_answers_is_told_to_name_them() -> None:
    with pytest.raises(DefinitionError, match=r"command Mute has no answers; name the events .* answers="):

        class Mute(Command, service="shipping"):
            pass


@pytest.mark.parametrize("answer", [ReserveInventory, "InventoryReserved", OrderView])
def test_an_answer_that_is_no_event_is_an_error(answer: Any) -> None:
    with pytest.raises(DefinitionError, match=r"command Odd: answer .* is not an Event class"):

        class Odd(Command, service="shipping", answers=(answer,)):
            pass


@pytest.mark.parametrize("route", ["/orders", "FETCH /orders", "POST orders", "post /orders", ""])
def test_a_route_that_is_none_is_told_how_to_write_one(route: str) -> None:
    with pytest.raises(DefinitionError, match=r"Odd: http=.* is not a route; write a method and a path"):
        HttpRoute.parse(route, of="Odd")


def test_a_commands_key_must_be_one_of_its_fields() -> None:
    with pytest.raises(DefinitionError, match="Odd has no field 'order_id', which its key or its path names"):

        class Odd(Command, service="shipping", answers=(InventoryReserved,), key="order_id"):
            order: str


@pytest.mark.parametrize("base", [Command, Query])
def test_a_path_must_be_made_of_the_messages_fields(base: Any) -> None:
    kind = {"answers": (InventoryReserved,)} if base is Command else {"answer": View}
    with pytest.raises(DefinitionError, match="Odd has no field 'order_id', which its key or its path names"):

        class Odd(base, service="orders", http="GET /orders/{order_id}", **kind):  # type: ignore[call-arg, misc]
            order: str


@pytest.mark.parametrize("missing", [{"service": "orders"}, {"answer": OrderView}])
def test_a_query_needs_a_service_and_an_answer(missing: dict[str, Any]) -> None:
    with pytest.raises(
        DefinitionError, match=r"query Odd needs its service and answer; write class Odd\(Query, service="
    ):

        class Odd(Query, **missing):
            pass


def test_a_query_is_a_get() -> None:
    with pytest.raises(DefinitionError, match="query Odd only reads, so its route is a GET, not POST"):

        class Odd(Query, service="orders", answer=OrderView, http="POST /orders"):
            pass


@pytest.mark.parametrize("number", [0, 2, 3])
def test_an_upcast_must_start_from_an_older_version(number: int) -> None:
    with pytest.raises(
        DefinitionError, match=f"Odd is version 2, so an upcast from version {number} has nowhere to go"
    ):

        class Odd(Event, channel="orders", version=2, upcasts={number: dict}):
            pass


@pytest.mark.parametrize(
    ("base", "keywords", "known"),
    [
        (Event, {}, "channel, version, upcasts"),
        (Refusal, {}, "channel, version, upcasts"),
        (Command, {"service": "x"}, "service, answers, http, key, accepted, version, upcasts"),
        (Query, {"service": "x"}, "service, answer, http"),
    ],
)
def test_a_class_keyword_that_means_nothing_is_refused(base: type, keywords: dict[str, str], known: str) -> None:
    with pytest.raises(DefinitionError, match=f"^Paid: there is no class keyword 'chanel'; there are {known}$"):
        type(base)("Paid", (base,), {"__module__": __name__}, chanel="payments", **keywords)


def test_a_class_keyword_of_pydantic_is_taken() -> None:
    class Exact(Event, channel="exact", str_strip_whitespace=True):
        text: str

    assert Exact(text=" a ").text == "a"


def test_a_field_that_is_not_sent_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"Held\.secret is excluded from what is sent"):

        class Held(Event, channel="i"):
            order_id: str
            secret: int = Field(default=0, exclude=True)
