"""How a participant may misbehave, and where a saga must end all the same; one list for whichever way it is asked.

A `Misbehaviour` is said once, by what an `Asked` can do: answer, refuse, say nonsense, break, keep silent. There is an
`Asked` for each way: over HTTP, and by messages on a broker.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 0.5
"""After so long a participant that is silent is asked again."""
SUCCESS = {"Book": "Booked", "Cancel": "Cancelled", "Invoice": "Invoiced"}
PAGE = b"<html><body>Sign in to the guest network</body></html>"


class Asked(ABC):
    """A participant was asked for something, and decides what to say to that.

    Attributes:
        command: ``Book``, ``Cancel`` or ``Invoice``. booking: which one it is about.
    """

    command: str
    booking: str

    @abstractmethod
    async def say(self, event: str, content: Mapping[str, Any]) -> None:
        """This is done; with these fields."""

    @abstractmethod
    async def refuse(self, refusal: str, content: Mapping[str, Any]) -> None:
        """409, or the event that says so."""

    @abstractmethod
    async def raw(self, body: bytes) -> None:
        """These bytes where an answer should be."""

    @abstractmethod
    async def fail(self) -> None:
        """It broke: a 500. Over messages nothing says so."""

    @abstractmethod
    async def hang(self) -> None:
        """No answer, and no end of the conversation either, as long as somebody waits for it."""

    @abstractmethod
    async def vanish(self) -> None:
        """It dies with the question in its hands."""

    @abstractmethod
    async def drip(self) -> None:
        """The good answer, so slowly that nobody waits for its end; or, where an answer comes whole, after having been
        asked again and again."""

    async def done(self) -> None:
        """The good answer, the same each time."""
        await self.say(SUCCESS[self.command], {"booking": self.booking, "seat": f"seat of {self.booking}"})


Behaviour = Callable[[Asked], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Misbehaviour:
    """What it does, and what has to come of it.

    Attributes:
        behaves: how it answers the command that it is tried on.
        on: that command. An undo comes after the bank has declined.
        end: of the saga. If it is mended only after that, once it behaves well.
        lasts: whether it always does so. Otherwise it does well when it is asked for the third time.
        over_http, by_messages: what an operator reads, and has to do something about, before the end; empty if nothing.
    """

    behaves: Behaviour
    on: str = "Book"
    end: str = "completed"
    lasts: bool = False
    over_http: str = ""
    by_messages: str = ""


async def well(asked: Asked) -> None:
    await asked.done()


async def never(asked: Asked) -> None:
    await asked.hang()


async def late(asked: Asked) -> None:
    await asyncio.sleep(TIMEOUT_S * 1.5)
    await asked.done()


async def slowly(asked: Asked) -> None:
    await asked.drip()


async def twice(asked: Asked) -> None:
    await asked.done()
    await asked.done()


async def broken(asked: Asked) -> None:
    await asked.fail()


async def dies(asked: Asked) -> None:
    await asked.vanish()


async def did_it_and_broke(asked: Asked) -> None:
    """What came of it is known to it alone: the same answer when it is asked again."""
    await asked.fail()


def bytes_instead(body: bytes) -> Behaviour:
    async def behave(asked: Asked) -> None:
        await asked.raw(body)

    return behave


def says(event: str, **content: Any) -> Behaviour:
    async def behave(asked: Asked) -> None:
        await asked.say(event, {"booking": asked.booking} | content)

    return behave


def refuses(refusal: str, **content: Any) -> Behaviour:
    async def behave(asked: Asked) -> None:
        await asked.refuse(refusal, {"booking": asked.booking} | content)

    return behave


def one_then(first: Behaviour, second: Behaviour) -> Behaviour:
    """Two answers to one question."""

    async def behave(asked: Asked) -> None:
        await first(asked)
        await second(asked)

    return behave


STEP_REFUSED = {"service": "hall", "command": "Book", "reason": "closed on Mondays"}

MISBEHAVIOURS: dict[str, Misbehaviour] = {
    # Late, slow, silent, broken: not known yet, and asked again.
    "after its timeout": Misbehaviour(behaves=late),
    "very slowly": Misbehaviour(behaves=slowly),
    "never": Misbehaviour(behaves=never),
    "with 500s": Misbehaviour(behaves=broken),
    "dies meanwhile": Misbehaviour(behaves=dies),
    "an undo with 500s": Misbehaviour(behaves=broken, on="Cancel", end="compensated"),
    "an undo after its timeout": Misbehaviour(behaves=late, on="Cancel", end="compensated"),
    "an undo never": Misbehaviour(behaves=never, on="Cancel", end="compensated"),
    # Twice: the first answer counts.
    "twice": Misbehaviour(behaves=twice, lasts=True),
    "an undo twice": Misbehaviour(behaves=twice, on="Cancel", end="compensated", lasts=True),
    "done, and then refused": Misbehaviour(
        behaves=one_then(well, refuses("SoldOut")), lasts=True, by_messages="which it had answered with Booked"
    ),
    "refused, and then done": Misbehaviour(
        behaves=one_then(refuses("SoldOut"), well), lasts=True, end="compensated",
        by_messages="which it had answered with SoldOut",
    ),
    # Refused.
    "409": Misbehaviour(behaves=refuses("SoldOut"), lasts=True, end="compensated"),
    "409 that every step may have": Misbehaviour(
        behaves=refuses("StepRefused", **STEP_REFUSED), lasts=True, end="compensated"
    ),
    "409 twice": Misbehaviour(
        behaves=one_then(refuses("SoldOut"), refuses("SoldOut")), lasts=True, end="compensated"
    ),
    # Garbage: over HTTP it is asked again; a message that nobody understands is kept for an operator to look at, too.
    "garbage": Misbehaviour(behaves=bytes_instead(b"\xff{"), by_messages="Booked"),
    "a page of a proxy": Misbehaviour(behaves=bytes_instead(PAGE), by_messages="Booked"),
    "nothing": Misbehaviour(behaves=bytes_instead(b""), by_messages="Booked"),
    "truncated": Misbehaviour(behaves=bytes_instead(b'{"eventType":"Booked","booking":"t'), by_messages="Booked"),
    "a list": Misbehaviour(behaves=bytes_instead(b'["Booked"]'), by_messages="Booked"),
    "another shape": Misbehaviour(behaves=says("Booked", seat=["x"]), by_messages="seat"),
    "somebody else's answer": Misbehaviour(
        behaves=says("Booked", booking="another", seat="another's"), by_messages="its booking is another"
    ),
    # What is definite and cannot be: an operator has to see it.
    "another event": Misbehaviour(
        behaves=says("Invoiced"), over_http="'Invoiced', which", by_messages="'Invoiced', which it does not declare"
    ),
    "an unknown event": Misbehaviour(
        behaves=says("Shipped"), over_http="'Shipped', which it does not declare", by_messages="understands 'Shipped'"
    ),
    "409 that is no refusal": Misbehaviour(
        behaves=refuses("Busy", detail="too fast"), over_http="too fast", by_messages="understands 'Busy'"
    ),
    "409 of another command": Misbehaviour(
        behaves=refuses("Declined"), over_http="Declined", by_messages="'Declined', which it does not declare"
    ),
    "an undo with 409": Misbehaviour(
        behaves=refuses("StepRefused", **STEP_REFUSED), on="Cancel", end="compensated",
        over_http="cannot be refused", by_messages="cannot be refused",
    ),
}  # fmt: skip
