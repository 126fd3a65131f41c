"""The document: a valid OpenAPI, all of whose references lead somewhere, and which says what the doors do."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_asyncio
from fastapi.openapi.models import OpenAPI

from tests.unit.doors.kit import COMMANDS, QUERIES, Shop

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def document(shop: Shop) -> dict[str, Any]:
    answer = await shop.call("GET", "/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = answer.json
    return found


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


def resolved(document: dict[str, Any], reference: str) -> dict[str, Any]:
    root, *parts = reference.split("/")
    assert root == "#"
    found = document
    for part in parts:
        found = found[part]
    return found


async def test_it_is_a_valid_document(document: dict[str, Any]) -> None:
    OpenAPI.model_validate(document)
    assert document["openapi"].startswith("3.1")
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = [node["$ref"] for node in nodes(document) if isinstance(node.get("$ref"), str)]
    assert len(references) > 20
    for reference in references:
        assert resolved(document, reference)
    assert "$defs" not in json.dumps(document)


async def test_every_schema_is_referred_to_and_none_is_fastapis(document: dict[str, Any]) -> None:
    used = {node["$ref"] for node in nodes(document) if "$ref" in node}
    unused = {name for name in document["components"]["schemas"] if f"#/components/schemas/{name}" not in used}
    assert not unused
    assert "HTTPValidationError" not in json.dumps(document)


async def test_everything_with_an_address_is_in_it(document: dict[str, Any]) -> None:
    told = {(method, path) for path, found in document["paths"].items() for method in found}
    routes = [one.__contract__.http for one in (*COMMANDS, *QUERIES) if one.__contract__.http]
    assert len(told) == len(routes) + 1
    assert ("put", "/orders/{orderId}/status") in told
    assert ("get", "/health") in told


async def test_a_path_names_exactly_its_parameters(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        named = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        for operation in operations.values():
            found = {one["name"] for one in operation.get("parameters", []) if one.get("in") == "path"}
            assert found == named
            assert all(one["required"] for one in operation.get("parameters", []) if one.get("in") == "path")


async def test_a_command_says_what_may_happen(document: dict[str, Any]) -> None:
    operation = document["paths"]["/inventory/reserve"]["post"]
    assert {*operation["responses"]} == {"200", "400", "409", "413", "415", "422", "503"}
    assert {*document["paths"]["/orders"]["post"]["responses"]} >= {"202", "409"}
    parameters = [resolved(document, one["$ref"])["name"] for one in operation["parameters"]]
    assert parameters == ["Idempotency-Key", "Prefer"]
    good = operation["responses"]["200"]["content"]["application/json"]["schema"]["oneOf"]
    assert [one["$ref"].rpartition("/")[2] for one in good] == ["InventoryReserved", "PartlyReserved"]
    refused = operation["responses"]["409"]["content"]["application/problem+json"]["schema"]["oneOf"]
    assert [one["$ref"].rpartition("/")[2] for one in refused] == ["OutOfStockProblem", "StepRefusedProblem"]
    problem = document["components"]["schemas"]["OutOfStockProblem"]
    assert problem["properties"]["type"] == {"const": "urn:minuet:refusal:OutOfStock"}


async def test_bodies_are_as_they_are_on_the_wire(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["SetStatus"]["required"] == ["status"]
    assert schemas["SetStatus"]["additionalProperties"] is False
    assert schemas["InventoryReserved"]["required"] == ["eventType", "orderId", "reservedItems", "timestamp"]
    parameters = document["paths"]["/orders"]["get"]["parameters"]
    assert [(one["name"], one["in"], one["required"]) for one in parameters] == [
        ("status", "query", False),
        ("pageLimit", "query", False),
        ("isOpen", "query", False),
    ]


async def test_examples_come_from_the_models(document: dict[str, Any]) -> None:
    operation = document["paths"]["/orders"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    assert example == {"customerId": "c-1", "items": ["ITEM001", "ITEM005"]}
    answer = operation["responses"]["202"]["content"]["application/json"]["example"]
    assert (answer["eventType"], answer["orderId"]) == ("OrderCreated", "o-1")


async def test_there_is_a_page_to_read_it(shop: Shop) -> None:
    answer = await shop.call("GET", "/docs")
    assert answer.status == 200
    assert b"/openapi.json" in answer.body
