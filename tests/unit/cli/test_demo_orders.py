"""Where the demo's orders come from."""

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from minuet import ConfigurationError
from minuet.cli.demo_orders import RARE, from_file, made_up
from tests.unit.cli.conftest import Minuet

ORDER = {"orderId": "A-1", "customerId": "C-1", "items": ["ITEM001", "tea"], "prices": [100.25, 0.1]}


def test_of_twenty_orders_sixteen_can_be_shipped() -> None:
    plan = made_up(200)
    customers = Counter(order.customer_id.partition("-")[0][:4] for order in plan.orders)
    rare = sum(order.items == [RARE] for order in plan.orders)
    assert customers == {"DECL": 10, "NOAD": 10, "CUST": 180}
    assert (rare, plan.stock) == (40, {RARE: 20})
    assert len({order.order_id for order in plan.orders}) == 200


def test_they_are_the_same_each_time() -> None:
    assert made_up(50) == made_up(50)
    assert made_up(50).orders == made_up(60).orders[:50]


@pytest.mark.parametrize("number", [1, 2, 7])
def test_the_first_order_is_the_seeds(number: int) -> None:
    plan = made_up(number)
    assert plan.orders[0].customer_id == "CUST987"
    assert plan.orders[0].items == ["ITEM001", "ITEM005"]
    assert len(plan.orders) == number


def test_only_those_without_money_or_address_want_nothing_rare() -> None:
    # Otherwise what they give back could be sold to others, and how many are out of stock would depend on who is first.
    assert all(order.customer_id.startswith("CUST") for order in made_up(400).orders if RARE in order.items)


def write(folder: Path, *lines: object) -> Path:
    path = folder / "orders.jsonl"
    path.write_bytes(b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines))
    return path


def test_orders_from_a_file_have_their_prices_and_find_their_items(tmp_path: Path) -> None:
    by_name = {**ORDER, "orderId": "A-2", "prices": {"ITEM001": 3, "tea": "4.50"}}
    plan = from_file(write(tmp_path, ORDER, b"", by_name, b"  "))
    assert [(order.order_id, order.amount) for order in plan.orders] == [  # type: ignore[union-attr]
        ("A-1", Decimal("100.35")),
        ("A-2", Decimal("7.50")),
    ]
    assert plan.stock == {"ITEM001": 2, "tea": 2}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "it is not JSON"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b"[1]", "it is not a JSON object"),
        ({**ORDER, "items": []}, "items: List should have at least 1 item"),
        ({**ORDER, "prices": [1]}, "2 items need as many prices, not 1"),
        ({**ORDER, "prices": {"tea": 1}}, "ITEM001 has no price"),
        ({**ORDER, "colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"orderId": "A-3"}, "customerId: Field required"),
        ({**ORDER, "orderId": "A-0"}, "order A-0 is on line 1 already"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: object, why: str) -> None:
    path = write(tmp_path, {**ORDER, "orderId": "A-0"}, ORDER, line)
    with pytest.raises(ConfigurationError) as caught:
        from_file(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert why in str(caught.value)


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"line 5: .*; and 3 lines more$"):
        from_file(write(tmp_path, *[b"{"] * 8))


def test_a_file_without_orders(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no orders; a line is like"):
        from_file(write(tmp_path, b""))


def test_nothing_runs_when_a_line_is_bad(run: Minuet, tmp_path: Path) -> None:
    result = run("demo", "--from", write(tmp_path, ORDER, b"{"), "--data", tmp_path / "data")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "line 2" in result.stderr
    assert not (tmp_path / "data").exists()


def test_a_number_and_a_file_together_are_a_wrong_command_line(run: Minuet, tmp_path: Path) -> None:
    assert run("demo", "--from", write(tmp_path, ORDER), "--orders", 3).exit_code == 2


def test_data_of_an_earlier_demo_is_not_mixed_up(run: Minuet, tmp_path: Path) -> None:
    (tmp_path / "data" / "choreography").mkdir(parents=True)
    result = run("demo", "--data", tmp_path / "data")
    assert result.exit_code == 1
    assert "is from an earlier demo" in result.stderr
