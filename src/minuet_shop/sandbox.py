"""The world outside, to play with: a payment company and a carrier, honest and moody.

They stand for somebody else's systems, so nothing in here is minuet's. Each keeps `minuet_shop.books` and remembers its
answers by ``Idempotency-Key``; a charge with another key is another charge, so that a shop which charges twice is found
out. ``PUT .../behaviour`` makes one of them slow or unreliable. A customer whose id starts with DECLINE has no money,
one with NOADDRESS no address.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field

from minuet import Deployment, Service
from minuet_shop.books import Answer, Books, problem
from minuet_shop.outside import CarrierLedger, ChargeOrder, GatewayLedger, OfOrder, SendParcel, Wire

sandbox = Service("sandbox")

Key = Annotated[str, Header(alias="Idempotency-Key", min_length=1, max_length=255)]
Rate = Annotated[float, Field(ge=0, le=1)]


class Behaviour(Wire):
    """How one of them is today.

    Attributes:
        latency_ms: before each answer.
        fail_before: how often it answers 503 and did nothing.
        fail_after: how often it did the work and answers 500.
        seed: makes the failures the same each time.
    """

    latency_ms: Annotated[float, Field(ge=0, le=60_000)] = 0
    fail_before: Rate = 0
    fail_after: Rate = 0
    seed: int | None = None


class System:
    """One of the two: does work on the books, in the mood of the day."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.behave(Behaviour())

    def behave(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self._random = random.Random(behaviour.seed)  # noqa: S311  (it decides about failures, not about secrets)

    async def answer(self, work: Callable[[], Answer]) -> Response:
        if self.behaviour.latency_ms:
            await asyncio.sleep(self.behaviour.latency_ms / 1000)
        if self._random.random() < self.behaviour.fail_before:
            return _response(problem(503, "unavailable", "try again later; nothing was done"))
        answer = work()
        await self.books.are_durable()
        if self._random.random() < self.behaviour.fail_after:
            return _response(problem(500, "broken", "something broke; who knows what was done"))
        return _response(answer)


@sandbox.mount
def world(deployment: Deployment) -> FastAPI:
    """The gateway under ``/gateway``, the carrier under ``/carrier``, with their books in the data directory."""
    deployment.data.mkdir(parents=True, exist_ok=True)
    books = Books(deployment.data / "sandbox.db")

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        yield
        books.close()

    app = FastAPI(title="The world outside", lifespan=closing)
    app.include_router(_gateway(books), prefix="/gateway", tags=["gateway"])
    app.include_router(_carrier(books), prefix="/carrier", tags=["carrier"])

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _response(problem(400, "invalid", f"{'.'.join(map(str, first['loc']))}: {first['msg']}"))

    return app


def _gateway(books: Books) -> APIRouter:
    router, system = _system(books)

    @router.post("/charges", status_code=201)
    async def charge(order: ChargeOrder, key: Key) -> Response:
        return await system.answer(lambda: books.once("gateway", key, order, books.charge))

    @router.post("/refunds")
    async def refund(order: OfOrder) -> Response:
        return await system.answer(lambda: books.refund(order))

    @router.get("/ledger")
    async def ledger() -> GatewayLedger:
        return books.gateway_ledger()

    return router


def _carrier(books: Books) -> APIRouter:
    router, system = _system(books)

    @router.post("/parcels", status_code=201)
    async def send(parcel: SendParcel, key: Key) -> Response:
        return await system.answer(lambda: books.once("carrier", key, parcel, books.send))

    @router.post("/cancellations")
    async def cancel(order: OfOrder) -> Response:
        return await system.answer(lambda: books.cancel(order))

    @router.get("/ledger")
    async def ledger() -> CarrierLedger:
        return books.carrier_ledger()

    return router


def _system(books: Books) -> tuple[APIRouter, System]:
    router, system = APIRouter(), System(books)

    @router.get("/behaviour")
    async def behaviour() -> Behaviour:
        return system.behaviour

    @router.put("/behaviour")
    async def behave(wanted: Behaviour) -> Behaviour:
        system.behave(wanted)
        return system.behaviour

    return router, system


def _response(answer: Answer) -> Response:
    status, body = answer
    return Response(body, status, media_type="application/json" if status < 400 else "application/problem+json")
