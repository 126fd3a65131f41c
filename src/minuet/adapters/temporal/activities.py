"""The activities: what the workflow asks of the world, and what their failures mean to Temporal.

Whoever does them is handed in as `Asking`. An answer that is not there yet is a failure that Temporal tries again, when
the participant says; what will never be answered is one that it does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from minuet.adapters.temporal.definitions import UnknownDefinition
from minuet.adapters.temporal.values import Deciding, Due, Name, Problem, Refusing, Stuck, Told
from minuet.codec import explain
from minuet.core.errors import Conflict, DefinitionError, MessageError, NotYet, Rejected

BEAT_S = 2.0
AGAIN_S = 1.0
NOT_YET = "NotYet"
CHARACTERS_MAX = 500


class Late(Exception):
    """The command is not wanted any more, and was not even built: its deadline passed, or the saga was cancelled."""


class Asking(Protocol):
    """Does what the workflow needs done."""

    async def build(self, due: Due) -> str:
        """The command's body, built from what is known and from queries.

        Raises:
            Late: it is not wanted any more; says why.
            NotYet: a query has no answer yet.
            Rejected, MessageError: a query never will have one.
        """

    async def ask(self, due: Due) -> Told:
        """The participant's recorded answer to the command, which is built. Raises as `Desk.ask`."""

    async def refuse(self, refusing: Refusing) -> Told:
        """The refusal, told to everybody who wants to hear it."""

    async def decide(self, deciding: Deciding) -> Told:
        """The decision of a watch, told to everybody who wants to hear it."""

    async def park(self, stuck: Stuck) -> None:
        """Let operators know. Doing it again does nothing."""

    async def unpark(self, stuck: Stuck) -> None:
        """It goes on."""


class Activities:
    """The activities of one worker."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    @property
    def every(self) -> Sequence[Callable[..., Any]]:
        return [self.build, self.ask, self.refuse, self.decide, self.park, self.unpark]

    @activity.defn(name=Name.BUILD)
    async def build(self, due: Due) -> str:
        async with _alive():
            return await self._built(due)

    @activity.defn(name=Name.ASK)
    async def ask(self, due: Due) -> Told:
        async with _alive():
            if not due.body:
                due = Due(due.begun, due.rule, due.at, due.cause, due.known, await self._built(due))
            try:
                return await self._asking.ask(due)
            except (Conflict, Rejected, MessageError) as error:
                raise _for_good(Problem.NEEDS_OPERATOR, error) from error
            except NotYet as error:
                raise _again(error, error.retry_after_s) from error
            except Exception as error:
                # As over HTTP: a participant that fails has not answered. Whether it did its work only it can tell.
                raise _again(error, AGAIN_S) from error

    async def _built(self, due: Due) -> str:
        try:
            return await self._asking.build(due)
        except Late as error:
            raise ApplicationError(str(error), type=Problem.LATE.value, non_retryable=True) from error
        except UnknownDefinition as error:
            raise _again(error, AGAIN_S) from error
        except NotYet as error:
            raise _again(error, error.retry_after_s) from error
        except (Conflict, DefinitionError) as error:
            raise _for_good(Problem.NEEDS_OPERATOR, error) from error
        except (Rejected, MessageError) as error:
            raise _for_good(Problem.HOPELESS, error) from error
        except Exception as error:
            raise _for_good(Problem.FAILED, error) from error

    @activity.defn(name=Name.REFUSE)
    async def refuse(self, refusing: Refusing) -> Told:
        return await self._asking.refuse(refusing)

    @activity.defn(name=Name.DECIDE)
    async def decide(self, deciding: Deciding) -> Told:
        return await self._asking.decide(deciding)

    @activity.defn(name=Name.PARK)
    async def park(self, stuck: Stuck) -> None:
        await self._asking.park(stuck)

    @activity.defn(name=Name.UNPARK)
    async def unpark(self, stuck: Stuck) -> None:
        await self._asking.unpark(stuck)


@asynccontextmanager
async def _alive() -> AsyncIterator[None]:
    """Tell Temporal that this process lives, so that it gives the work to others soon if it does not."""
    beating = asyncio.create_task(_beat())
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


async def _beat() -> None:
    while True:
        await asyncio.sleep(BEAT_S)
        activity.heartbeat()


def _for_good(problem: Problem, error: Exception) -> ApplicationError:
    return ApplicationError(_described(error), type=problem.value, non_retryable=True)


def _again(error: Exception, after_s: float) -> ApplicationError:
    # Temporal takes no delay for "as the policy says", and the policy backs off for as long as half a minute.
    delay = timedelta(seconds=max(after_s, 0.05))
    # Benign: it is what happens every day, and the SDK would log each with its traceback.
    return ApplicationError(
        _described(error), type=NOT_YET, next_retry_delay=delay, category=ApplicationErrorCategory.BENIGN
    )


def _described(error: Exception) -> str:
    """In one line. Never the input's values, which may be secret."""
    return f"{type(error).__name__}: {explain(error)}"[:CHARACTERS_MAX]
