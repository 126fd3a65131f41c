"""moto's server with its SQS mended. A program: its arguments are those of ``moto_server``.

What moto 5.2.5 does wrong, as seen in its source and in our tests, and what is done about it here:

- Two polls at once take the same message, and a message that is sent while another is deleted is lost, because its
  threads do not exclude each other. Here one at a time looks at or changes the queues.
- A poll that waits at a FIFO queue looks at the message groups in somebody's hands only when it begins; while messages
  of a group are out, it runs in a circle; and when the visibility time-outs of several of a group are over, it begins
  with the last. Here it looks anew each time, sleeps in between, and first forgets whose time is over.
- To send a message it counts all messages of the queue several times, which takes a second for a batch of ten into a
  queue of some hundred. Here they are counted once in a while: these numbers are approximate by name.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from moto.server import main
from moto.sqs.models import Queue, SQSBackend

LOOK_S = 0.03
COUNTED_S = 0.2

_turn = threading.RLock()
_receive = SQSBackend.receive_message


def receive(backend: SQSBackend, queue_name: str, count: int, wait_s: int, *others: Any, **named: Any) -> list[Any]:
    deadline = time.monotonic() + (wait_s or 0)
    while True:
        with _turn:
            queue = backend.get_queue(queue_name)
            queue.pending_messages.difference_update([one for one in queue.pending_messages if one.visible])
            found = _receive(backend, queue_name, count, 0, *others, **named)
        if found or time.monotonic() >= deadline:
            return found
        time.sleep(LOOK_S)


def in_turn(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def one_at_a_time(*arguments: Any, **named: Any) -> Any:
        with _turn:
            return method(*arguments, **named)

    return one_at_a_time


def counted_rarely(name: str) -> property:
    count = getattr(Queue, name).fget

    def counted(queue: Any) -> int:
        counts = queue.__dict__.setdefault("_counted", {})
        number, counted_at = counts.get(name, (0, float("-inf")))
        if time.monotonic() > counted_at + COUNTED_S:
            number = count(queue)
            counts[name] = number, time.monotonic()
        return int(number)

    return property(counted)


def mend() -> None:
    SQSBackend.receive_message = receive
    for name in ("send_message", "delete_message", "change_message_visibility", "purge_queue"):
        setattr(SQSBackend, name, in_turn(getattr(SQSBackend, name)))
    for name in ("", "_delayed", "_not_visible"):
        whole = f"approximate_number_of_messages{name}"
        setattr(Queue, whole, counted_rarely(whole))


if __name__ == "__main__":
    mend()
    main(sys.argv[1:])
