"""What an operator does over HTTP: pause, resume, retry, and what is parked; to one or to many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from fastapi.openapi.models import OpenAPI

from minuet import NotYet, RetryPolicy, Settings, System, running
from minuet.ports import Delivery
from tests.failures.shop import SAGA, Close, Conduct, all_effects, ended, order_app
from tests.unit.doors.test_sagas import served

WHO = {"who": "ada", "why": "by phone"}
HOW = ["choreography", "orchestration"]


async def post(client: aiohttp.ClientSession, path: str, **said: Any) -> tuple[int, Any]:
    async with client.post(path, json=said) as reply:
        return reply.status, await reply.json()


async def get(client: aiohttp.ClientSession, path: str) -> Any:
    async with client.get(path) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def begin(client: aiohttp.ClientSession, *order_ids: str) -> None:
    for order_id in order_ids:
        assert (await post(client, f"/sagas/{SAGA}", orderId=order_id))[0] == 202


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(30):
        while not (found := await condition()):
            await asyncio.sleep(0.01)
    return found


@pytest.mark.parametrize("coordination", HOW)
@pytest.mark.parametrize(
    ("address", "said", "what"),
    [
        ("/sagas/o1/{}", {}, f"{SAGA}/o1"),
        ("/sagas/{}", {"allOf": SAGA}, f"all {SAGA}"),
        ("/sagas/{}", {"service": "billing"}, "service billing"),
    ],
)
async def test_it_is_paused_shown_and_resumed(
    coordination: str, address: str, said: dict[str, str], what: str, tmp_path: Path
) -> None:
    is_open = False

    def not_yet() -> None:
        if not is_open:
            raise NotYet("not now", retry_after_s=0.05)

    async with served(tmp_path, coordination, Pay=not_yet) as (system, client):
        await begin(client, "o1")

        async def has_reserved() -> bool:
            return "Reserve" in (await all_effects(system, "o1"))["o1"]

        await until(has_reserved)
        pause, resume = address.format("pause"), address.format("resume")
        assert (await post(client, pause, **WHO, **said))[0] == 202
        status, told = await post(client, pause, **WHO, **said)
        assert (status, told["paused"]) == (200, True)
        (one,) = (await get(client, "/paused"))["paused"]
        assert (one["what"], one["who"], one["why"]) == (what, "ada", "by phone")
        assert one["at"].endswith("Z")

        async def billing_has_heard() -> bool:
            return "billing" in (await get(client, "/paused"))["paused"][0]["places"]

        await until(billing_has_heard)
        shown = await get(client, "/sagas/o1")
        assert [pause["what"] for pause in shown["paused"]] == [what]
        assert [waiting["why"] for waiting in shown["waiting"]] == [f"{what} was paused by ada: by phone"]
        (listed,) = (await get(client, "/sagas?status=running&service=billing&reason=by%20PHONE"))["sagas"]
        assert listed["paused"] == shown["paused"]
        is_open = True
        await asyncio.sleep(0.3)
        assert "Pay" not in (await all_effects(system, "o1"))["o1"]
        assert await post(client, resume, **WHO, **said) == (202, {**(said or {"id": "o1"}), "paused": False})
        assert (await post(client, resume, **WHO, **said))[0] == 200
        assert await ended(system, "o1") == {"o1": "completed"}
        assert (await get(client, "/paused"))["paused"] == []
        assert [act.verb for _, act in await system.observer.audit()] == ["resume", "pause"]


async def test_what_waits_for_its_next_attempt_has_it_now(tmp_path: Path) -> None:
    is_away = True

    def away() -> None:
        if is_away:
            raise NotYet("away", retry_after_s=1000.0)

    async with served(tmp_path, "orchestration", Pay=away) as (system, client):
        await begin(client, "o1")

        async def waits() -> bool:
            waiting = (await get(client, "/sagas/o1"))["waiting"]
            return any("away" in one["why"] for one in waiting)

        await until(waits)
        is_away = False
        assert await post(client, "/sagas/retry", service="billing", **WHO) == (
            202,
            {"service": "billing", "retried": True},
        )
        assert await ended(system, "o1") == {"o1": "completed"}


async def test_many_are_chosen_and_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    def not_yet() -> None:
        raise NotYet("not now", retry_after_s=0.05)

    async with served(tmp_path, "orchestration", Pay=not_yet) as (system, client):
        await begin(client, "o1", "o2", "o3")
        where = {"service": "billing", "saga": SAGA}

        async def all_wait() -> bool:
            return len((await get(client, f"/sagas?service=billing&saga={SAGA}"))["sagas"]) == 3

        await until(all_wait)
        status, dry = await post(client, "/sagas/cancel", where=where, dryRun=True, **WHO)
        assert (status, dry["count"], sorted(dry["ids"])) == (200, 3, [f"{SAGA}/o{number}" for number in (1, 2, 3)])
        assert await system.observer.audit() == []
        status, some = await post(client, "/sagas/cancel", where=where, limit=2, **WHO)
        assert (status, some["count"], len(some["done"]), some["failed"]) == (200, 2, 2, [])
        assert (await post(client, "/sagas/cancel", where={"status": "completed"}, **WHO))[1]["count"] == 0
        assert len(await system.observer.audit()) == 2


@asynccontextmanager
async def with_parked(data: Path) -> AsyncIterator[tuple[System, aiohttp.ClientSession]]:
    """One message that nobody understands, at stock."""
    async with served(data) as (system, client):
        attributes = {"id": "17", "source": "/x", "type": "Placed", "specversion": "1.0"}
        stock = system.places["stock"]
        await stock.take_in([Delivery("orders", attributes, b'{"orderId": 5, "note": {}}', 1, None)])
        yield system, client


async def test_what_is_parked_is_listed_shown_mended_and_discarded(tmp_path: Path) -> None:
    async with with_parked(tmp_path) as (system, client):
        (one,) = (await get(client, "/parked"))["parked"]
        assert (one["kind"], one["service"], one["type"]) == ("message", "stock", "Placed")
        assert one["parkedAt"].endswith("Z")
        address = f"/parked/{quote(one['id'], safe='')}"
        assert (await get(client, address))["body"] == {"orderId": 5, "note": {}}
        assert (await get(client, "/parked?service=billing"))["parked"] == []
        assert (await post(client, f"{address}/retry", **WHO))[0] == 422, "it is no better than before"
        assert (await post(client, f"{address}/answer", **WHO))[0] == 422, "a message owes no answer"
        mended = {"orderId": "o5", "note": ""}
        assert await post(client, f"{address}/retry", body=mended, **WHO) == (
            202,
            {"id": one["id"], "services": ["stock"]},
        )
        assert (await post(client, f"{address}/retry", **WHO))[0] == 404

        async def reserved() -> bool:
            return (await all_effects(system, "o5"))["o5"] == ["Reserve"]

        await until(reserved)
        (act,) = [act for _, act in await system.observer.audit()]
        assert (act.verb, act.what, act.who) == ("retry", one["id"].partition(":")[2], "ada")
    async with with_parked(tmp_path) as (system, client):
        assert (await post(client, f"{address}/discard", **WHO))[1]["type"] == "Placed"
        assert (await get(client, "/parked"))["parked"] == []


async def test_commands_are_answered_and_tried_again_one_by_one_or_many(tmp_path: Path) -> None:
    def breaks() -> None:
        if is_broken:
            raise RuntimeError("no pen")

    is_broken = [True]
    # The end of an order cannot be refused any more, so that it needs an operator.
    app = order_app()
    close = app.services["orders"].commands[Close]

    def closing(command: Any, database: Any, conduct: Conduct) -> Any:
        breaks()
        return close.function(command, database)

    app.services["orders"].commands[Close] = replace(
        close, function=closing, wants={**close.wants, "conduct": Conduct}, retry=RetryPolicy(attempts_max=1)
    )
    settings = Settings(data=tmp_path, port=0)
    async with (
        running(app, settings, serve=True, provided={Conduct: Conduct()}) as system,
        aiohttp.ClientSession(system.url) as client,
    ):
        await begin(client, "o1", "o2", "o3")

        async def three() -> bool:
            return len((await get(client, "/parked?type=Close&reason=no%20pen"))["parked"]) == 3

        await until(three)
        ids = [one["id"] for one in (await get(client, "/parked"))["parked"]]
        first = f"/parked/{quote(ids[0], safe='')}"
        wrong = {"event": "Paid", "body": {"orderId": "o1"}}
        assert (await post(client, f"{first}/answer", **wrong, **WHO))[0] == 422
        assert (await post(client, f"{first}/discard", **WHO))[0] == 422
        order_id = (await get(client, first))["body"]["orderId"]
        closed = {"event": "Closed", "body": {"orderId": order_id, "status": "SHIPPED"}}
        assert await post(client, f"{first}/answer", **closed, **WHO) == (202, {"id": ids[0], "event": "Closed"})
        assert await ended(system, order_id) == {order_id: "completed"}
        where = {"type": "Close", "service": "orders"}
        dry = (await post(client, "/parked/answer", where=where, event="Closed", dryRun=True, **WHO))[1]
        assert (dry["count"], dry["ids"]) == (2, ids[1:])
        some = (await post(client, "/parked/answer", where=where, event="Closed", limit=1, **WHO))[1]
        assert (some["done"], some["failed"]) == ([ids[1]], []), "what the body leaves out the command says"
        none = (await post(client, "/parked/discard", where=where, **WHO))[1]
        assert [one["id"] for one in none["failed"]] == [ids[2]]
        is_broken.clear()
        assert (await post(client, "/parked/retry", where=where, **WHO))[1]["done"] == [ids[2]]
        assert set((await ended(system, "o1", "o2", "o3")).values()) == {"completed"}
        assert sorted(act.verb for _, act in await system.observer.audit()) == ["answer", "answer", "retry"]


async def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, client):
        for path, said, wanted in (
            ("/sagas/nobody/pause", WHO, 404),
            ("/sagas/nobody/resume?saga=Other", WHO, 404),
            ("/sagas/nobody/retry", {"why": "x"}, 422),
            ("/sagas/pause", WHO, 422),
            ("/sagas/pause", {**WHO, "allOf": SAGA, "service": "billing"}, 422),
            ("/sagas/pause", {**WHO, "allOf": "Other"}, 404),
            ("/sagas/pause", {**WHO, "service": "nobody"}, 404),
            ("/sagas/pause", {**WHO, "where": {}}, 422),
            ("/sagas/pause", {**WHO, "where": {"colour": "red"}}, 422),
            ("/sagas/pause", {**WHO, "where": {"older-than": "soon"}}, 422),
            ("/sagas/pause", {**WHO, "where": {"type": "Pay"}}, 422),
            ("/sagas/pause", {**WHO, "allOf": SAGA, "dryRun": True}, 422),
            ("/sagas/cancel", {**WHO, "allOf": SAGA}, 422),
            ("/parked/retry", WHO, 422),
            ("/parked/retry", {**WHO, "where": {"status": "running"}}, 422),
            ("/parked/retry", {**WHO, "where": {"service": "nobody"}}, 404),
            ("/sagas/pause", {**WHO, "where": {"service": "nobody"}}, 404),
            ("/sagas/pause", {**WHO, "where": {"saga": "Nothing"}}, 404),
            ("/parked/stock%3Anothing/retry", WHO, 404),
            ("/parked/nobody%3Anothing/discard", WHO, 404),
        ):
            assert (await post(client, path, **said))[0] == wanted, (path, said)
        for path, status in (
            ("/parked?limit=0", 422),
            ("/parked?status=running", 422),
            ("/parked/stock%3Anothing", 404),
            ("/sagas?type=Pay", 422),
            ("/sagas/pause", 404),
            ("/paused?what=1", 422),
        ):
            async with client.get(path) as reply:
                assert reply.status == status, path


async def test_the_document_tells_of_all_that(tmp_path: Path) -> None:
    async with with_parked(tmp_path) as (_, client):
        document = await get(client, "/openapi.json")
        OpenAPI.model_validate(document)
        paths = document["paths"]
        assert {"/paused", "/parked", "/parked/{id}"} <= paths.keys()
        for verb in ("cancel", "pause", "resume", "retry"):
            assert {f"/sagas/{verb}", f"/sagas/{{id}}/{verb}"} <= paths.keys()
        for verb in ("retry", "discard", "answer"):
            assert {f"/parked/{verb}", f"/parked/{{id}}/{verb}"} <= paths.keys()
        schemas = document["components"]["schemas"]
        (one,) = (await get(client, "/parked"))["parked"]
        assert sorted(one) == sorted(schemas["ParkedSummary"]["properties"])
        whole = await get(client, f"/parked/{quote(one['id'], safe='')}")
        assert sorted(whole) == sorted(schemas["ParkedView"]["properties"])
        await post(client, "/sagas/pause", allOf=SAGA, **WHO)
        (paused,) = (await get(client, "/paused"))["paused"]
        assert sorted(paused) == sorted(schemas["Paused"]["properties"])
