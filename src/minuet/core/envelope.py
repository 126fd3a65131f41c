"""A message under way: its bytes and everything said about it. Plain data, in the words of CloudEvents 1.0."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from minuet.core.messages import Message
from minuet.core.projection import Coordination


@dataclass(frozen=True, slots=True)
class SagaRef:
    """Which saga a message belongs to, and as what.

    Attributes:
        definition: the fingerprint under which the saga began, and finishes.
        step: the id of the rule that sent the command (``reserve_inventory``, ``reserve_inventory/undo``,
            ``completed``); ``begin`` for the event that begins the saga.
    """

    name: str
    id: str
    definition: str
    coordination: Coordination
    step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One message with its attributes.

    Attributes:
        id: unique for its source; the same message sent again has the same id.
        type: the message class's name.
        source: the service that sent it.
        time: when it came to be, in seconds since 1970 (UTC).
        body: a JSON object in UTF-8. Empty only for a command that waits for what it is built from.
        key: messages with the same key keep their order.
        version: of the schema.
        begins: the sagas that this event begins.
        expires: the participant refuses the command if it has not begun it by then, in seconds since 1970.
        may_refuse: False for a command past the last refusable step: it is retried until done.
        saga_expires: until when the saga may still refuse anything, in seconds since 1970; None if it has no deadline.
        cancelled: the participant refuses the command if it has not begun it: its saga is no longer wanted.
        hops: how many reactions led here; bounds an endless circle.
    """

    id: str
    type: str
    source: str
    time: float
    body: bytes
    key: str = ""
    version: int = 1
    saga: SagaRef | None = None
    begins: tuple[SagaRef, ...] = ()
    correlation: str = ""
    causation: str = ""
    traceparent: str = ""
    expires: float | None = None
    may_refuse: bool = True
    saga_expires: float | None = None
    cancelled: bool = False
    hops: int = 0
    #: The attributes as text, once somebody has written them out: the same envelope is kept in several tables.
    text: str | None = field(default=None, init=False, repr=False, compare=False)
    #: The body as a typed message, once somebody has read it: several look at it, and it is immutable.
    message: Message | None = field(default=None, init=False, repr=False, compare=False)

    def unread(self) -> Envelope:
        """The same, as if it had just come over the wire: who receives it reads its body himself."""
        received = object.__new__(Envelope)
        for name in _SENT:
            object.__setattr__(received, name, getattr(self, name))
        object.__setattr__(received, "message", None)
        return received

    @property
    def coordinations(self) -> frozenset[Coordination]:
        """How the sagas that this message belongs to are coordinated. Empty for a stranger's message."""
        if self.saga and not self.begins:
            return _ONLY[self.saga.coordination]
        refs = (self.saga, *self.begins) if self.saga else self.begins
        return frozenset(ref.coordination for ref in refs)


#: Made once: they are asked for with each message and each group.
_ONLY = {coordination: frozenset((coordination,)) for coordination in Coordination}
_SENT = tuple(one.name for one in fields(Envelope) if one.name != "message")
