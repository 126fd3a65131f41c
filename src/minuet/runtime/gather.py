"""Builds a rule's command when queries have to be asked for it: the origin, or a local read model, as deployed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from minuet.app import read_model_key
from minuet.codec import Codec
from minuet.core.errors import MessageError, NotYet, Rejected
from minuet.core.messages import Command, Query, View, name_of
from minuet.ports import Entry, Store, Tx
from minuet.runtime.directory import Directory
from minuet.runtime.performer import Lost
from minuet.runtime.reactor import Reactor

V = TypeVar("V", bound=View)


class Gatherer:
    """Asks what a command is built from.

    Args:
        has_read_model: whether this deployment answers the query from a local read model.
    """

    def __init__(
        self,
        store: Store,
        reactor: Reactor,
        codec: Codec,
        directory: Directory,
        has_read_model: Callable[[type[Query]], bool],
    ) -> None:
        self.store = store
        self.reactor = reactor
        self.codec = codec
        self.directory = directory
        self.has_read_model = has_read_model

    async def command_for(self, entry: Entry) -> Command | None:
        """The command of a rule's entry; None if a read model has not heard of what is asked yet, and will wake it.

        Raises:
            NotFound, NotYet, Rejected: a query's service says so.
        """
        saga = entry.envelope.saga
        assert saga is not None
        rule = self.reactor.rule_of(saga)
        known = entry.known
        if known is None:
            known = await self.store.transact(lambda tx: tx.known.of(saga.name, saga.id), reads_only=True)
        decoded = self.reactor.decoded(rule, known)
        questions = rule.recipe.questions(decoded)
        views: dict[str, View] = {}
        for name, query in questions.items():
            if self.has_read_model(type(query)):
                view = await self._from_read_model(entry, query)
                if view is None:
                    return None
                views[name] = view
        others = [name for name in questions if name not in views]
        answers = await asyncio.gather(*(self._from_origin(questions[name]) for name in others))
        views.update(zip(others, answers, strict=True))
        return rule.recipe.build(decoded, views)

    async def _from_origin(self, query: Query) -> View:
        try:
            return await self.directory.read(query)
        except (NotYet, Rejected, MessageError):
            raise
        except Exception as error:  # as over HTTP: a service that fails has not answered
            raise NotYet(f"no answer from {query.__contract__.service}: {error!r}", retry_after_s=1.0) from error

    async def _from_read_model(self, entry: Entry, query: Query) -> View | None:
        """The local view; if there is none yet, the entry is marked to wait for it in the same transaction."""
        key = read_model_key(type(query), {name: getattr(query, name) for name in type(query).model_fields})

        def look(tx: Tx) -> bytes | None:
            found = tx.read_models.get(name_of(query), key)
            if found is None:
                entry.waits_for = f"{name_of(query)}/{key}"
                if not tx.inbox.save(entry):
                    raise Lost(entry.key)
            return found

        body = await self.store.transact(look)
        return None if body is None else query.__answer__.model_validate_json(body)
