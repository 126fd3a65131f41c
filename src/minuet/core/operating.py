"""What an operator may say of work that goes on, and about which part of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, Self

from minuet.core.errors import Rejected

SAGA_VERBS: Final = ("cancel", "pause", "resume", "retry")
PARKED_VERBS: Final = ("retry", "discard", "answer")
"""What can be done to many sagas, or parked things, as well as to one."""
UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class Verb(StrEnum):
    """Pause: nothing of it is begun any more. Resume: it goes on. Retry: what waits for its next attempt has it now."""

    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"

    @property
    def topic(self) -> Verb:
        """What is said of one topic replaces what was said of it before."""
        return Verb.PAUSE if self is Verb.RESUME else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is meant: one saga (its type and id), all sagas of a type, or whatever a service does."""

    saga: str = ""
    saga_id: str = ""
    service: str = ""

    def __str__(self) -> str:
        if self.service:
            return f"service {self.service}"
        return f"{self.saga}/{self.saga_id}" if self.saga_id else f"all {self.saga}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which sagas, or which parked things, an operator means. What is empty does not count.

    Attributes:
        service: the saga waits for it; the thing is parked there.
        saga: the saga's type.
        status: of sagas only: ``running``, ``compensating``, ``needs operator``...
        type: of what is parked only: the message's type.
        reason: is contained in why it waits, or is parked; in whatever case.
        older_than_s: it began, or was parked, longer ago.
    """

    service: str = ""
    saga: str = ""
    status: str = ""
    type: str = ""
    reason: str = ""
    older_than_s: float = 0.0

    @classmethod
    def of(cls, said: Mapping[str, str]) -> Self:
        """From names and texts: ``service``, ``saga``, ``status``, ``type``, ``reason``, ``older-than`` (as in ``2h``).

        Raises:
            Rejected: a name or a length of time is none.
        """
        found: dict[str, str | float] = {}
        for name, text in said.items():
            if name not in NAMES:
                raise Rejected(f"nothing is chosen by {name!r}; there is {', '.join(NAMES)}")
            if not text:
                raise Rejected(f"{name} is empty; leave it out, or say which")
            found[NAMES[name]] = seconds(text) if name == OLDER_THAN else text
        if not found:
            raise Rejected(f"say which: by {', '.join(NAMES)}")
        return cls(**found)  # type: ignore[arg-type]

    def fits(self, *, services: Collection[str], saga: str, reasons: Collection[str], since: float, now: float) -> bool:
        """Whether something is meant, as far as sagas and parked things have it in common."""
        return (
            (not self.service or self.service in services)
            and (not self.saga or self.saga == saga)
            and (not self.reason or any(self.reason.casefold() in one.casefold() for one in reasons))
            and (not self.older_than_s or now - since >= self.older_than_s)
        )

    def __str__(self) -> str:
        told = ((name, getattr(self, field)) for name, field in NAMES.items())
        return ", ".join(
            f"{name} {value:g} s" if name == OLDER_THAN else f"{name} {value}" for name, value in told if value
        )


OLDER_THAN: Final = "older-than"
NAMES: Final = {OLDER_THAN if one.name == "older_than_s" else one.name: one.name for one in fields(Filter)}
"""The fields of a `Filter` by the names under which an operator says them."""


def seconds(text: str) -> float:
    """``90``, ``90s``, ``15m``, ``2h`` or ``3d`` in seconds.

    Raises:
        Rejected: it is no length of time.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([smhd]?)", text.strip())
    if found is None:
        raise Rejected(f"{text!r} is no length of time; write 90s, 15m, 2h or 3d")
    return float(found[1]) * UNITS_S[found[2] or "s"]
