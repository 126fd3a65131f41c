"""The world outside, asked in process: its promises, and its moods."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.testclient import TestClient

from minuet import Deployment
from minuet_shop.sandbox import world


@pytest.fixture
def open_world(tmp_path: Path) -> Callable[[], TestClient]:
    deployment = cast(Deployment, SimpleNamespace(data=tmp_path / "new", settings={}))
    return lambda: TestClient(world(deployment))


@pytest.fixture
def client(open_world: Callable[[], TestClient]) -> Iterator[TestClient]:
    with open_world() as client:
        yield client


def charge(
    client: TestClient, key: str = "K", order: str = "A", customer: str = "CUST987", amount: float = 150.75
) -> Any:
    body = {"orderId": order, "customerId": customer, "amount": amount}
    return client.post("/gateway/charges", json=body, headers={"Idempotency-Key": key})


def send(client: TestClient, key: str = "K", order: str = "A", customer: str = "CUST987") -> Any:
    body = {"orderId": order, "customerId": customer}
    return client.post("/carrier/parcels", json=body, headers={"Idempotency-Key": key})


def charges(client: TestClient) -> list[tuple[str, float, bool]]:
    return [(one["orderId"], one["amount"], one["refunded"]) for one in client.get("/gateway/ledger").json()["charges"]]


def parcels(client: TestClient) -> list[tuple[str, str, bool]]:
    found = client.get("/carrier/ledger").json()["parcels"]
    return [(one["orderId"], one["trackingNumber"], one["cancelled"]) for one in found]


def test_the_same_key_charges_once_and_answers_the_same(client: TestClient) -> None:
    first, again = charge(client), charge(client)
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json() == {"chargeId": "CH1", "orderId": "A", "amount": 150.75}
    assert charges(client) == [("A", 150.75, False)]


def test_another_key_is_another_charge_and_the_ledger_shows_it(client: TestClient) -> None:
    charge(client, "K1")
    charge(client, "K2")
    assert charges(client) == [("A", 150.75, False)] * 2


def test_a_key_serves_one_request(client: TestClient) -> None:
    charge(client)
    other = charge(client, amount=1)
    assert (other.status_code, other.json()["type"]) == (422, "/problems/key-reused")
    assert charges(client) == [("A", 150.75, False)]


def test_a_refund_gives_all_back_once_and_nothing_is_charged_after_it(client: TestClient) -> None:
    charge(client)
    for _ in range(2):
        assert client.post("/gateway/refunds", json={"orderId": "A"}).json() == {"orderId": "A", "amount": 150.75}
    ledger = client.get("/gateway/ledger").json()
    assert (ledger["charged"], ledger["refunded"]) == (150.75, 150.75)
    assert charge(client, "K2").status_code == 402


def test_a_refund_before_the_charge_prevents_it(client: TestClient) -> None:
    assert client.post("/gateway/refunds", json={"orderId": "A"}).json()["amount"] == 0
    assert charge(client).status_code == 402
    assert charges(client) == []


def test_a_parcel_gets_a_tracking_number_once(client: TestClient) -> None:
    assert send(client).json() == send(client).json() == {"trackingNumber": "TRK998877", "orderId": "A"}
    assert client.post("/carrier/cancellations", json={"orderId": "A"}).status_code == 200
    assert parcels(client) == [("A", "TRK998877", True)]
    assert send(client, "K2").status_code == 422


def test_refusals_are_problems(client: TestClient) -> None:
    declined, refused = charge(client, customer="DECLINE-1"), send(client, customer="NOADDRESS-1")
    assert (declined.status_code, refused.status_code) == (402, 422)
    assert declined.headers["content-type"] == refused.headers["content-type"] == "application/problem+json"
    assert declined.json()["type"] == "/problems/declined"
    assert refused.json() == {
        "type": "/problems/address-refused",
        "title": "address refused",
        "status": 422,
        "detail": "there is no such address",
    }
    assert charges(client) == parcels(client) == []


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": ""}])
def test_without_a_key_nothing_is_done(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post("/gateway/charges", json={"orderId": "A", "amount": 1}, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"orderId": "A", "amount": -1}', b'{"orderId": "A", "amount": NaN}']
)
def test_garbage_is_a_problem(client: TestClient, content: bytes) -> None:
    headers = {"Idempotency-Key": "K", "Content-Type": "application/json"}
    assert client.post("/gateway/charges", content=content, headers=headers).status_code == 400


def test_failing_before_does_nothing_and_failing_after_does_it_all_the_same(client: TestClient) -> None:
    client.put("/gateway/behaviour", json={"failBefore": 1})
    assert charge(client).status_code == 503
    assert charges(client) == []
    client.put("/gateway/behaviour", json={"failAfter": 1})
    assert charge(client).status_code == 500
    assert charges(client) == [("A", 150.75, False)]
    assert send(client).status_code == 201  # the carrier has a mood of its own
    client.put("/gateway/behaviour", json={})
    assert charge(client).json()["chargeId"] == "CH1"
    assert charges(client) == [("A", 150.75, False)]


def test_moods_can_be_repeated_and_looked_at(client: TestClient) -> None:
    def statuses() -> list[int]:
        mood = {"latencyMs": 1, "failBefore": 0.5, "failAfter": 0, "seed": 7}
        assert client.put("/carrier/behaviour", json=mood).json() == client.get("/carrier/behaviour").json() == mood
        return [send(client, f"K{number}").status_code for number in range(20)]

    assert statuses() == statuses()
    assert client.put("/carrier/behaviour", json={"failBefore": 2}).status_code == 400


def test_the_books_outlive_the_process(open_world: Callable[[], TestClient]) -> None:
    with open_world() as before:
        charge(before)
        send(before)
    with open_world() as after:
        assert charge(after).json()["chargeId"] == "CH1"
        assert charges(after) == [("A", 150.75, False)]
        assert send(after, "K2", "B").json()["trackingNumber"] == "TRK998878"
