"""`/sagas`: begin one from outside, and look at it; in both coordinations, on a running system."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fastapi.openapi.models import OpenAPI

from minuet import NotYet, Settings, System, running
from minuet.core.errors import ConfigurationError, Conflict
from tests.failures.shop import DONE, SAGA, Closed, Conduct, Placed, all_effects, order_app

EVERYTHING = sorted(one for one in DONE if one != "Place")  # nobody placed it: it was begun from outside


@asynccontextmanager
async def served(
    data: Path, coordination: str = "choreography", **now: Callable[[], None]
) -> AsyncIterator[tuple[System, aiohttp.ClientSession]]:
    settings = Settings(data=data, port=0, coordination={SAGA: coordination})  # type: ignore[dict-item]
    provided = {Conduct: Conduct(now=dict(now))}
    async with (
        running(order_app(), settings, serve=True, provided=provided) as system,
        aiohttp.ClientSession(system.url) as client,
    ):
        yield system, client


async def begin(client: aiohttp.ClientSession, **event: Any) -> tuple[int, dict[str, Any], str]:
    async with client.post(f"/sagas/{SAGA}", json=event) as reply:
        return reply.status, await reply.json(), reply.headers.get("location", "")


@pytest.mark.parametrize("coordination", ["choreography", "orchestration"])
async def test_a_saga_is_begun_once_and_goes_its_way(coordination: str, tmp_path: Path) -> None:
    async with served(tmp_path, coordination) as (system, client):
        begun = await asyncio.gather(*(begin(client, orderId="o/1", note="x") for _ in range(20)))
        assert sorted(status for status, _, _ in begun) == [200] * 19 + [202]
        assert {str(content) for _, content, _ in begun} == {"{'saga': 'Order', 'id': 'o/1'}"}
        assert (await system.ended(SAGA, "o/1")).value == "completed"
        await system.drained()
        assert (await all_effects(system, "o/1"))["o/1"] == EVERYTHING
        async with client.get(begun[0][2]) as reply:
            shown = await reply.json()
        assert (shown["status"], shown["coordination"], shown["waiting"]) == ("completed", coordination, [])
        assert shown["messages"][0]["body"]["orderId"] == "o/1"
        assert shown["beganAt"].endswith("Z")
        assert {one["command"] for one in shown["attempts"]} >= {"Reserve", "Pay", "Ship", "Close"}


@pytest.mark.parametrize("coordination", ["choreography", "orchestration"])
async def test_one_saga_is_not_begun_with_two_contents(coordination: str, tmp_path: Path) -> None:
    async with served(tmp_path, coordination) as (system, client):
        assert (await begin(client, orderId="o1", note="x"))[0] == 202
        status, problem, _ = await begin(client, orderId="o1", note="y")
        assert (status, problem["type"].rpartition(":")[2]) == (422, "conflict")
        await system.ended(SAGA, "o1")
        assert (await begin(client, orderId="o1", note="y"))[0] == 422
        with pytest.raises(Conflict, match="Order o1 was begun with other content"):
            await system.begin(Placed(order_id="o1", note="z"))
        assert await system.begin(Placed(order_id="o1", note="x")) is False


async def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    async with served(tmp_path) as (system, client):
        for path, sent, wanted in (
            (f"/sagas/{SAGA}", {"json": {}}, 422),
            (f"/sagas/{SAGA}", {"json": [1]}, 422),
            (f"/sagas/{SAGA}", {"data": b"not json", "headers": {"content-type": "application/json"}}, 422),
            (f"/sagas/{SAGA}", {"data": b"{}", "headers": {"content-type": "text/plain"}}, 415),
            ("/sagas/Nothing", {"json": {"orderId": "o1"}}, 404),
        ):
            async with client.post(path, **sent) as reply:
                assert (reply.status, reply.content_type) == (wanted, "application/problem+json"), path
        for path, wanted in (
            ("/sagas?limit=0", 422),
            ("/sagas?limit=1e3", 422),
            ("/sagas?status=lost", 422),
            ("/sagas?what=1", 422),
            ("/sagas/nobody", 404),
            ("/sagas/nobody?saga=Other", 404),
            (f"/sagas/{SAGA}", 404),
        ):
            async with client.get(path) as reply:
                assert (reply.status, reply.content_type) == (wanted, "application/problem+json"), path
        with pytest.raises(ConfigurationError, match="no saga of app shop begins with Closed"):
            await system.begin(Closed(order_id="o1", status="x"))


async def test_the_list_has_the_newest_first_and_those_of_one_status(tmp_path: Path) -> None:
    async with served(tmp_path) as (system, client):
        for number in range(5):
            await begin(client, orderId=f"o{number}")
            await system.ended(SAGA, f"o{number}")
        async with client.get("/sagas?limit=3&status=completed") as reply:
            assert [one["id"] for one in (await reply.json())["sagas"]] == ["o4", "o3", "o2"]
        async with client.get("/sagas?status=running") as reply:
            assert await reply.json() == {"sagas": []}


async def test_the_document_tells_of_them(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, client), client.get("/openapi.json") as reply:
        document = await reply.json()
        OpenAPI.model_validate(document)
        post = document["paths"][f"/sagas/{SAGA}"]["post"]
        (schema,) = [one["schema"] for one in post["requestBody"]["content"].values()]
        assert (schema["required"], sorted(schema["properties"])) == (["orderId"], ["note", "orderId"])
        shown = document["components"]["schemas"]["SagaView"]["properties"]
    async with served(tmp_path) as (system, client):
        await begin(client, orderId="o1")
        await system.ended(SAGA, "o1")
        async with client.get("/sagas/o1") as reply:
            view = await reply.json()
        assert sorted(view) == sorted(shown)
        for name in ("attempts", "messages"):
            assert {tuple(sorted(one)) for one in view[name]} == {tuple(sorted(shown[name]["items"]["properties"]))}


@pytest.mark.parametrize("coordination", ["choreography", "orchestration"])
async def test_a_saga_is_cancelled_over_http(coordination: str, tmp_path: Path) -> None:
    is_open = False

    def not_yet() -> None:
        if not is_open:
            raise NotYet("not now", retry_after_s=0.05)

    async with served(tmp_path, coordination, Pay=not_yet) as (system, client):
        await begin(client, orderId="o1")
        said = {"who": "ada", "why": "no longer wanted"}
        async with asyncio.timeout(10):
            while "Reserve" not in (await all_effects(system, "o1"))["o1"]:
                await asyncio.sleep(0.01)
        async with client.post("/sagas/o1/cancel", json=said) as reply:
            assert reply.status == 202
        async with client.post("/sagas/o1/cancel", json=said) as reply:
            assert reply.status == 200
        is_open = True
        async with asyncio.timeout(20):
            assert (await system.ended(SAGA, "o1")).value == "compensated"
        for path, sent, wanted in (
            ("/sagas/o1/cancel", said, 422),
            ("/sagas/nobody/cancel", said, 404),
            ("/sagas/o1/cancel", {"why": "x"}, 422),
            ("/sagas/o1/cancel", {"who": "x", "what": "y"}, 422),
        ):
            async with client.post(path, json=sent) as reply:
                assert reply.status == wanted, path
