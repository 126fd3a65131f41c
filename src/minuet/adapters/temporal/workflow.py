"""The one workflow of all sagas. It keeps the known messages, and starts an activity for each command that is due.

Everything here is replayed from a history, so it must do the same whenever it does: no clock, no chance and no order
but the workflow's own. A change of what it does in which order needs `workflow.patched`; the recorded histories under
tests/contract are replayed to notice one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import replace
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from minuet.adapters.temporal.definitions import rules_of
    from minuet.adapters.temporal.progress import Progress
    from minuet.adapters.temporal.values import Begun, Deciding, Due, Name, Problem, Refusing, Stuck, Told
    from minuet.core.compile import Rule
    from minuet.core.coordinator import SAGA_DEADLINE_PASSED, TIME_IS_UP, Ends, ends, why_abandoned
    from minuet.core.retry import RetryPolicy as StepRetry

# The longest that a participant is waited for is 20 s here and 30 s over HTTP.
ATTEMPT_S_MAX = 90.0
# What a worker that was killed had begun is begun elsewhere after this time. A slow participant does not count.
ALIVE_S = 10.0
# How long to wait for the next asking is what the participant says; this is for when nobody says anything.
FOR_EVER = RetryPolicy(initial_interval=timedelta(seconds=0.2), maximum_interval=timedelta(seconds=30))


@workflow.defn(name=Name.WORKFLOW)
class SagaWorkflow:
    """One saga from its beginning to its end."""

    @workflow.init
    def __init__(self, begun: Begun) -> None:
        self.begun = begun
        self.heard: deque[Told] = deque()
        self.asking: dict[str, asyncio.Task[None]] = {}
        self.troubles: dict[str, str] = {}
        self.troubles_count = 0
        self.progress: Progress | None = None

    @workflow.run
    async def run(self, begun: Begun) -> str:
        """How it ended: ``completed`` or ``compensated``."""
        # Raises, which fails this task and not the workflow: a worker that knows the definition goes on with it.
        progress = self.progress = Progress(rules_of(begun.saga, begun.definition))
        while not (progress.is_over and not self.asking):
            try:
                await workflow.wait_condition(
                    lambda: bool(self.heard) or any(task.done() for task in self.asking.values())
                )
            except asyncio.CancelledError:
                # Left as it is, nobody would undo what was done. It is the participants' to refuse.
                workflow.logger.warning("a saga cannot be cancelled between its steps; it goes on")
            for rule_id in [one for one, task in self.asking.items() if task.done()]:
                self.asking.pop(rule_id).result()
            while self.heard:
                told = self.heard.popleft()
                for rule in progress.learn(told):
                    due = Due(begun, rule.id, workflow.time(), told.attributes, progress.needed_by(rule))
                    due = replace(due, saga_expires=progress.expires)
                    does = self._wait if rule.watch is not None else self._ask
                    self.asking[rule.id] = asyncio.create_task(does(progress, rule, due))
        return progress.status.value

    def _has_news(self) -> bool:
        return bool(self.heard) or any(task.done() for task in self.asking.values())

    # -- from outside --------------------------------------------------------------------------------------------------

    @workflow.signal(name=Name.HEAR)
    def hear(self, told: Told) -> None:
        """A message of this saga that no command of ours has asked for. Heard twice it says nothing new."""
        self.heard.append(told)

    @workflow.signal(name=Name.RETRY)
    def retry(self, step: str = "") -> None:
        """An operator has mended what was wrong with a step; without one, with every step."""
        for one in [step] if step else list(self.troubles):
            self.troubles.pop(one, None)

    @workflow.query(name=Name.STATE)
    def state(self) -> dict[str, Any]:
        """Status, known messages, and what is waited for."""
        said = self.progress.described(self.troubles) if self.progress is not None else {}
        return {"saga": self.begun.saga, "id": self.begun.id, "definition": self.begun.definition, **said}

    # -- one command ---------------------------------------------------------------------------------------------------

    async def _ask(self, progress: Progress, rule: Rule, due: Due) -> None:
        """Until it is answered, whatever happens."""
        if rule.delay is not None:
            with contextlib.suppress(TimeoutError):  # then its time has come
                await workflow.wait_condition(
                    lambda: progress.is_unwanted(rule) or progress.is_answered(rule), timeout=rule.delay
                )
        failures = 0
        while not progress.is_answered(rule):
            try:
                if rule.recipe.queries and not due.body:
                    # Kept in the history before anyone is asked: another time the queries may answer otherwise.
                    due = replace(due, body=await self._does(Name.BUILD, due, progress, rule, str))
                    continue
                self.heard.append(await self._does(Name.ASK, due, progress, rule, Told))
                return
            except _AnsweredElsewhere:
                return
            except ActivityError as error:
                problem, why = _problem_of(error)
            failures += 1
            retry = rule.retry or StepRetry()
            if problem is Problem.FAILED and not retry.exhausted(failures):
                delay_s = retry.delay_s(failures, workflow.random().random())
                await workflow.sleep(timedelta(seconds=delay_s))
            elif problem is Problem.LATE:
                self.heard.append(await self._refuse(due, why, ""))
                return
            elif problem is not Problem.NEEDS_OPERATOR and rule.may_refuse:
                self.heard.append(await self._refuse(due, "retries exhausted", why))
                return
            else:
                await self._operator(progress, rule, due, why)
                failures = 0

    # -- waiting -------------------------------------------------------------------------------------------------------

    async def _wait(self, progress: Progress, rule: Rule, due: Due) -> None:
        """Until what is waited for has come, or is given up. It is decided here, in the order of this history."""
        ends_at = progress.ends_at(rule, due.at)
        left_s = None if ends_at is None else max(0.0, ends_at - workflow.time())
        over = ""
        try:
            await workflow.wait_condition(
                lambda: ends(rule, progress.known) is not None or progress.is_cancelled, timeout=left_s
            )
        except TimeoutError:
            over = SAGA_DEADLINE_PASSED if ends_at == progress.expires else TIME_IS_UP
        end = ends(rule, progress.known)
        if end is Ends.ANSWERED:
            return
        is_cancelled = progress.is_cancelled
        reason = "" if end is Ends.ACCEPTED else why_abandoned(rule, end, is_cancelled=is_cancelled, over=over)
        assert reason or end is Ends.ACCEPTED
        told: Told = await workflow.execute_activity(
            Name.DECIDE,
            Deciding(due, reason),
            result_type=Told,
            start_to_close_timeout=timedelta(seconds=ATTEMPT_S_MAX),
            retry_policy=FOR_EVER,
            summary=due.rule,
        )
        self.heard.append(told)

    async def _does(self, name: Name, due: Due, progress: Progress, rule: Rule, result: type[Any]) -> Any:
        """What the activity returns.

        Raises:
            ActivityError: it failed for good.
            _AnsweredElsewhere: the answer was heard before it ended.
        """
        doing = workflow.start_activity(
            name,
            due,
            result_type=result,
            start_to_close_timeout=timedelta(seconds=ATTEMPT_S_MAX),
            heartbeat_timeout=timedelta(seconds=ALIVE_S),
            retry_policy=FOR_EVER,
            cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL,
            summary=rule.id,
        )
        await workflow.wait_condition(lambda: doing.done() or progress.is_answered(rule))
        if doing.done():
            return await doing
        doing.cancel()
        with contextlib.suppress(ActivityError, asyncio.CancelledError):
            await doing
        raise _AnsweredElsewhere

    async def _refuse(self, due: Due, reason: str, detail: str) -> Told:
        told: Told = await workflow.execute_activity(
            Name.REFUSE,
            Refusing(due, reason, detail),
            result_type=Told,
            start_to_close_timeout=timedelta(seconds=ATTEMPT_S_MAX),
            retry_policy=FOR_EVER,
            summary=due.rule,
        )
        return told

    async def _operator(self, progress: Progress, rule: Rule, due: Due, why: str) -> None:
        """Wait for one."""
        self.troubles[rule.id] = why
        self.troubles_count += 1
        stuck = Stuck(due, why, self.troubles_count)
        await self._note(Name.PARK, stuck)
        await workflow.wait_condition(lambda: rule.id not in self.troubles or progress.is_answered(rule))
        self.troubles.pop(rule.id, None)
        await self._note(Name.UNPARK, stuck)

    async def _note(self, name: Name, stuck: Stuck) -> None:
        await workflow.execute_activity(
            name,
            stuck,
            start_to_close_timeout=timedelta(seconds=ATTEMPT_S_MAX),
            retry_policy=FOR_EVER,
            summary=stuck.due.rule,
        )


class _AnsweredElsewhere(Exception):
    """The answer came as a message."""


def _problem_of(error: ActivityError) -> tuple[Problem, str]:
    """What kind of problem it is; what we do not know, a person has to look at."""
    cause = error.cause
    if isinstance(cause, ApplicationError) and cause.type in tuple(Problem):
        return Problem(cause.type), cause.message
    return Problem.NEEDS_OPERATOR, str(cause or error)
