"""What operators have said, as one place has it in memory: nothing is asked of the store for each message.

It is read when the place opens, changed when an instruction commits here, and looked at again once in a while: other
processes on the same store hear some of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minuet.core.operating import Scope, Verb
from minuet.ports import Entry, Instruction

RETRY_S = 3600.0
"""How old a wish to try again may be: it is heeded by whoever takes an entry over, too."""


class InForce:
    """What counts at one place.

    Args:
        place: a service, or the orchestrator.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.changes = 0
        self._paused: dict[Scope, Instruction] = {}
        self._retried: dict[Scope, float] = {}

    def pausing(self, entry: Entry, service: str) -> Scope | None:
        """What of it is paused, if anything is: the service that does it, its saga, or all of its saga's type."""
        if not self._paused:
            return None
        return next((scope for scope in self._scopes(entry, service) if scope in self._paused), None)

    def is_to_be_retried(self, entry: Entry, service: str) -> bool:
        """Whether somebody wanted it to be tried again after its last attempt had failed."""
        if not self._retried:
            return False
        return any(self._retried.get(scope, 0.0) > entry.changed_at for scope in self._scopes(entry, service))

    def concerns(self, scope: Scope, entry: Entry, service: str) -> bool:
        return scope in self._scopes(entry, service)

    def _scopes(self, entry: Entry, service: str) -> Iterator[Scope]:
        yield Scope(service=service)
        if service != self.place:
            yield Scope(service=self.place)
        envelope = entry.envelope
        for ref in (envelope.saga, *envelope.begins):
            if ref is not None:
                yield Scope(saga=ref.name)
                yield Scope(saga=ref.name, saga_id=ref.id)

    def heed(self, instruction: Instruction) -> None:
        """It is durable, and the latest of its topic."""
        self.changes += 1
        match instruction.verb:
            case Verb.PAUSE:
                self._paused[instruction.scope] = instruction
            case Verb.RESUME:
                self._paused.pop(instruction.scope, None)
            case Verb.RETRY:
                self._retried[instruction.scope] = instruction.at

    def replace(self, found: Sequence[Instruction]) -> tuple[list[Scope], list[Scope]]:
        """Take over what the store says; what goes on by that, and what is to be tried again."""
        paused = {one.scope: one for one in found if one.verb is Verb.PAUSE}
        retried = {one.scope: one.at for one in found if one.verb is Verb.RETRY}
        resumed = [scope for scope in self._paused if scope not in paused]
        newly = [scope for scope, at in retried.items() if self._retried.get(scope) != at]
        self._paused, self._retried = paused, retried
        return resumed, newly
