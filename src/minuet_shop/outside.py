"""The world outside: a payment company and a carrier, what they are asked and what they answer.

An answer is definite when they did it, or said no. Anything else, or silence, raises: then nobody knows whether it was
done, and asking again with the same key is safe.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Protocol

import aiohttp
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from minuet import Deployment, RetryPolicy
from minuet_shop.contracts import Money

PATIENT = RetryPolicy(attempts_max=12, delay_max_s=10)
"""For handlers that depend on somebody else's good day: most of a minute."""

DECLINED = "/problems/declined"
ADDRESS_REFUSED = "/problems/address-refused"


class SaysNo(Exception):
    """They refuse, for good. Nothing was charged, or taken, and asking again is useless."""


class Unanswered(Exception):
    """No definite answer."""


class Gateway(Protocol):
    """The payment company."""

    async def charge(self, *, order_id: str, customer_id: str, amount: Decimal, key: str) -> None:
        """Charge the customer, once for each key, however often it is asked.

        Raises:
            SaysNo: with the reason.
        """

    async def refund(self, *, order_id: str) -> Decimal:
        """Give back what was charged for the order, and decline to charge for it from now on. Returns the amount."""


class Carrier(Protocol):
    """Who brings the parcels."""

    async def ship(self, *, order_id: str, customer_id: str, key: str) -> str:
        """Take a parcel, one for each key, however often it is asked. Returns its tracking number.

        Raises:
            SaysNo: with the reason.
        """

    async def cancel(self, *, order_id: str) -> None:
        """Bring back the order's parcel, if there is one, and take none for it from now on."""


# -- what travels ------------------------------------------------------------------------------------------------------


class Wire(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class ChargeOrder(Wire):
    order_id: str
    customer_id: str = ""
    amount: Money


class SendParcel(Wire):
    order_id: str
    customer_id: str = ""


class OfOrder(Wire):
    order_id: str


class Charge(Wire):
    charge_id: str
    order_id: str
    customer_id: str
    amount: Money
    refunded: bool


class GatewayLedger(Wire):
    """What the payment company has in its books."""

    charges: list[Charge]
    charged: Money
    refunded: Money


class Parcel(Wire):
    tracking_number: str
    order_id: str
    customer_id: str
    cancelled: bool


class CarrierLedger(Wire):
    """What the carrier has in its books."""

    parcels: list[Parcel]


# -- over HTTP ---------------------------------------------------------------------------------------------------------


class OutsideSystem:
    """Asks over HTTP, on connections that are kept open. Where it is, is looked up for each call."""

    def __init__(self, session: aiohttp.ClientSession, url: Callable[[], str]) -> None:
        self._session = session
        self._url = url

    async def ask(self, path: str, body: Wire, *, key: str | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        content = body.model_dump_json(by_alias=True)
        async with self._session.post(self._url() + path, data=content, headers=headers) as response:
            if response.ok:
                answer: dict[str, Any] = await response.json()
                return answer
            if response.content_type == "application/problem+json":
                problem = await response.json()
                if problem.get("type") in (DECLINED, ADDRESS_REFUSED):
                    raise SaysNo(str(problem.get("detail", ""))[:1000])
            raise Unanswered(f"{path} answered {response.status}")


class HttpGateway(OutsideSystem):
    async def charge(self, *, order_id: str, customer_id: str, amount: Decimal, key: str) -> None:
        await self.ask("/charges", ChargeOrder(order_id=order_id, customer_id=customer_id, amount=amount), key=key)

    async def refund(self, *, order_id: str) -> Decimal:
        answer = await self.ask("/refunds", OfOrder(order_id=order_id))
        return Decimal(str(answer["amount"]))


class HttpCarrier(OutsideSystem):
    async def ship(self, *, order_id: str, customer_id: str, key: str) -> str:
        answer = await self.ask("/parcels", SendParcel(order_id=order_id, customer_id=customer_id), key=key)
        return str(answer["trackingNumber"])

    async def cancel(self, *, order_id: str) -> None:
        await self.ask("/cancellations", OfOrder(order_id=order_id))


Connection = tuple[aiohttp.ClientSession, Callable[[], str]]


@asynccontextmanager
async def connected(deployment: Deployment, name: str) -> AsyncIterator[Connection]:
    """A session, and where the outside system is: as configured, or in the sandbox."""

    def url() -> str:
        return str(deployment.settings.get(name) or f"{deployment.url_of('sandbox')}/sandbox/{name}").rstrip("/")

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session, url
