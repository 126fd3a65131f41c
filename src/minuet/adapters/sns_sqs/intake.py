"""Receiving for one group: polls of its queues, and what they brought that nobody has asked for yet.

A poll waits for seconds at SQS, and what it is answered is in this member's hands. So a poll is never cut off: it
outlives the `fetch` that began it, and its messages go to the next one. If nobody asks for them, they are given back.

One long poll for each queue finds out that there is something. As long as a queue fills its polls, short ones that do
not wait run beside it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, Protocol

from minuet.adapters.broker.port import Disconnected, Received
from minuet.adapters.sns_sqs.errors import meaning
from minuet.adapters.sns_sqs.wire import unwrapped

RECEIVED_MAX = 10  # of one poll
POLLS_MAX = 4  # of one queue at a time
KEPT_SHARE = 0.3  # of the visibility time-out, for which messages may lie here before they are given back
REST_S_MAX = 10.0  # polls that wait longer are cut off: what they bring comes again after the time-out
STOP_S_MAX = 3.0


class Token(NamedTuple):
    """One delivery: where it came from, and the receipt that SQS gave for it."""

    queue: str
    receipt: str


class Clients(Protocol):
    """The part of a connection that an intake needs."""

    polls: Any
    """A client of SQS whose time-out is longer than a poll."""

    async def show(self, tokens: list[Token]) -> None:
        """Make them visible to everybody at once."""


class Intake:
    """One member of a group.

    Args:
        queues: URL and topic ARN of each.
        is_fifo: SQS gives out nothing of a message group while a message of it is in somebody's hands.
        new_id: names an attempt, so that a FIFO queue repeats an answer that was lost on its way.
    """

    def __init__(
        self,
        clients: Clients,
        group: str,
        queues: Mapping[str, str],
        *,
        is_fifo: bool,
        hold_s: int,
        wait_s: int,
        new_id: Callable[[], str],
    ) -> None:
        self.queues = queues
        self.is_fetching = False
        self._clients = clients
        self._group = group
        self._is_fifo = is_fifo
        self._hold_s = hold_s
        self._wait_s = wait_s
        self._new_id = new_id
        self._ready: deque[tuple[Received, float]] = deque()  # and the time at which each came
        self._asked: Counter[str] = Counter()  # for how many messages the polls of a queue have asked
        self._polls: Counter[str] = Counter()
        self._full: set[str] = set()  # queues that gave as much as was asked for
        self._receiving: set[asyncio.Task[None]] = set()
        self._giving_back: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._failure: Exception | None = None
        self._is_wanted = True  # somebody fetches, or will soon
        self._is_stopped = False
        self._turn = 0

    async def fetch(self, limit: int) -> list[Received]:
        self._is_wanted = self.is_fetching = True
        try:
            while True:
                if self._is_stopped or not self.queues:
                    raise Disconnected(f"{self._group} has no queue" if not self.queues else "disconnected from SQS")
                taken = self._take(limit)
                if not taken and self._failure:
                    failure, self._failure = self._failure, None
                    raise failure
                if self._failure is None:
                    self._poll(limit - len(taken))
                if taken:
                    return taken
                self._news.clear()
                await self._news.wait()
        except asyncio.CancelledError:
            self._is_wanted = False
            self._give_back(lambda _: True)
            raise
        finally:
            self.is_fetching = False

    def _take(self, limit: int) -> list[Received]:
        now = asyncio.get_running_loop().time()
        taken: list[Received] = []
        while self._ready and len(taken) < limit:
            received, came_at = self._ready.popleft()
            if now < came_at + self._hold_s:  # else SQS has given it to somebody else
                taken.append(received)
        return taken

    def _poll(self, room: int) -> None:
        """Have a long poll under way for each queue, and short ones for full queues while there is room."""
        if room <= 0 or self._is_stopped:
            return
        names = list(self.queues)
        self._turn += 1
        names = names[self._turn % len(names) :] + names[: self._turn % len(names)]
        share = max(1, min(RECEIVED_MAX, room // len(names)))
        for queue in names:
            if not self._polls[queue]:
                self._begin(queue, share, self._wait_s)
        for queue in names:
            while queue in self._full and self._polls[queue] < POLLS_MAX:
                left = room - self._asked.total()
                if left <= 0:
                    return
                self._begin(queue, min(RECEIVED_MAX, left), 0)

    def _begin(self, queue: str, count: int, wait_s: int) -> None:
        self._asked[queue] += count
        self._polls[queue] += 1
        self._in_background(self._receive(queue, count, wait_s), self._receiving)

    async def _receive(self, queue: str, count: int, wait_s: int) -> None:
        attempt = {"ReceiveRequestAttemptId": self._new_id()} if self._is_fifo else {}
        try:
            answer = await self._clients.polls.receive_message(
                QueueUrl=queue,
                MaxNumberOfMessages=count,
                WaitTimeSeconds=wait_s,
                VisibilityTimeout=self._hold_s,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
                **attempt,
            )
        except Exception as error:
            self._failure = lasting(meaning(error, f"receiving from {queue}"))
            self._news.set()
        else:
            self._came(queue, answer.get("Messages", []), count)
        finally:
            self._asked[queue] -= count
            self._polls[queue] -= 1
            if self._is_wanted:
                self._news.set()  # also when there was nothing: then somebody has to poll again

    def _came(self, queue: str, messages: list[dict[str, Any]], count: int) -> None:
        if len(messages) == count:
            self._full.add(queue)
        else:
            self._full.discard(queue)
        if not messages:
            return
        loop = asyncio.get_running_loop()
        came_at = loop.time()
        self._ready.extend((self._received(queue, message), came_at) for message in messages)
        if self._is_wanted and not self._is_stopped:
            loop.call_later(self._hold_s * KEPT_SHARE, self._give_back, lambda since: since <= came_at)
        else:
            self._give_back(lambda _: True)

    def _received(self, queue: str, message: dict[str, Any]) -> Received:
        attributes, body = unwrapped(message)
        return Received(
            destination=self.queues[queue],
            attributes=attributes,
            body=body,
            token=Token(queue, message["ReceiptHandle"]),
            deliveries=int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
        )

    def _give_back(self, which: Callable[[float], bool]) -> None:
        """Give back what lies here and came at such a time."""
        found = [received.token for received, came_at in self._ready if which(came_at)]
        if found:
            self._ready = deque(one for one in self._ready if not which(one[1]))
            self._in_background(self._clients.show(found), self._giving_back)

    def let_go(self, queues: set[str]) -> list[Token]:
        """What lies here of these queues, and does so no longer.

        Somebody gives back a message of such a FIFO queue: what lies here may be a later one of its key, which must not
        overtake it.
        """
        found = [received.token for received, _ in self._ready if received.token.queue in queues]
        self._ready = deque(one for one in self._ready if one[0].token.queue not in queues)
        return found

    async def rest(self) -> None:
        """Return once no poll is under way any more; nobody may fetch meanwhile.

        Polls that take very long are left alone.
        """
        if self._receiving:
            await asyncio.wait(self._receiving, timeout=min(self._wait_s + 2.0, REST_S_MAX))

    async def stop(self) -> None:
        """Begin no more polls; give back what those under way bring."""
        self._is_stopped = True
        self._is_wanted = False
        self._news.set()
        self._give_back(lambda _: True)
        await self.rest()
        if self._giving_back:
            await asyncio.wait(self._giving_back, timeout=STOP_S_MAX)
        left = [*self._receiving, *self._giving_back]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _in_background(self, doing: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(doing)
        among.add(task)
        task.add_done_callback(among.discard)
        task.add_done_callback(forget)


def forget(task: asyncio.Task[None]) -> None:
    """What could not be given back is given out again when its visibility time-out is over."""
    if not task.cancelled():
        task.exception()


def lasting(error: Exception) -> Exception:
    """As long as the connection is used, everything may get better: a role, a queue that somebody deleted."""
    return error if isinstance(error, Disconnected) else Disconnected(str(error))
