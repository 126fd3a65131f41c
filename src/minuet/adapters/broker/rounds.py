"""Publishing many messages at once without any overtaking another of its key: in rounds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from minuet.adapters.broker.port import Sending


class HeldBack(Exception):
    """Not sent, because an earlier message of its key could not be."""


async def send_in_rounds(
    messages: Sequence[Sending], send: Callable[[Sequence[Sending]], Awaitable[Sequence[Exception | None]]]
) -> Sequence[Exception | None]:
    """Send the first message of each key at once, then the second of each, and so on; those without a key go first.

    When a message fails, the later ones of its key are held back. When ``send`` itself raises, that is the outcome of
    its messages, and nothing more is sent.
    """
    outcomes: list[Exception | None] = [None] * len(messages)
    lines: dict[str, list[int]] = {}
    this_round: list[int] = []
    for index, message in enumerate(messages):
        if message.key:
            lines.setdefault(message.key, []).append(index)
        else:
            this_round.append(index)
    waiting = [list(reversed(line)) for line in lines.values()]
    this_round = sorted([*this_round, *(line.pop() for line in waiting)])
    while this_round:
        try:
            heard = await send([messages[index] for index in this_round])
        except Exception as error:
            for index in [*this_round, *(index for line in waiting for index in line)]:
                outcomes[index] = error
            return outcomes
        failed = set()
        for index, outcome in zip(this_round, heard, strict=True):
            outcomes[index] = outcome
            if outcome is not None and messages[index].key:
                failed.add(messages[index].key)
        this_round = []
        for line in waiting:
            if not line:
                continue
            key = messages[line[-1]].key
            if key in failed:
                for index in line:
                    outcomes[index] = HeldBack(f"waits for an earlier message of key {key!r} that could not be sent")
                line.clear()
            else:
                this_round.append(line.pop())
    return outcomes
