"""Mistakes made on purpose, one at a time: the simulator must find each of them, and say which promise it breaks.

Each is a mistake that somebody could make in minuet, or that another product has made. A promise that no mutation here
breaks is one that is perhaps never looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from minuet.adapters.sqlite import tables
from minuet.adapters.sqlite.tx import SqliteTx
from minuet.app import App, IdempotencyKey
from minuet.core import compile as compiling
from minuet.core.compile import Compiler, Kind, Rule, compile_saga
from minuet.core.formula import Formula, all_of, any_of, literals
from minuet.core.recipe import Source
from minuet.core.saga import COMPENSATED, Action, Saga, SequenceOf, Step
from minuet.ports import Delivery, Done, Entry, EntryState, Outgoing, Tx
from minuet.runtime import performer
from minuet.runtime.attempts import Attempts
from minuet.runtime.hearing import Hearing
from minuet.runtime.participant import Participant
from minuet.runtime.performer import After
from minuet.runtime.place import Place
from minuet.runtime.relay import Lane
from minuet.runtime.worker import Worker
from minuet.testing.simulation import Faults, SimulationFailed, invariants
from minuet.testing.simulation.broker import SimulatedTransport
from tests.simulation import outside as outsides
from tests.simulation import shop as shops

SEEDS = 40
ORDERS = 12

pytestmark = pytest.mark.slow

Patch = pytest.MonkeyPatch
Mutation = Callable[[Patch], None]
MUTATIONS: dict[str, tuple[Mutation, frozenset[str], dict[str, Any]]] = {}


def breaks(*promises: str, **settings: Any) -> Callable[[Mutation], Mutation]:
    """Declare a mutation, the promises of which it must break one, and in which setting."""

    def declare(mutation: Mutation) -> Mutation:
        MUTATIONS[mutation.__name__] = (mutation, frozenset(promises), settings)
        return mutation

    return declare


def first_line(check: Callable[..., object]) -> str:
    return (check.__doc__ or "").partition("\n")[0]


SHELVES = first_line(shops.shelves_agree)
PAID_ONCE = first_line(shops.nobody_pays_twice)
TRUE_ENDS = first_line(shops.ends_are_true)
BALANCE = first_line(shops.books_balance)
STUCK = (invariants.ALL_END, invariants.ALL_EMPTY)

# -- messages ----------------------------------------------------------------------------------------------------------


@breaks(*STUCK, coordination="choreography")
def settles_before_it_commits(patch: Patch) -> None:
    receive = SimulatedTransport.receive

    async def hasty(self: SimulatedTransport, group: str, limit: int) -> Sequence[Delivery]:
        deliveries = await receive(self, group, limit)
        for delivery in deliveries:
            self._settle(delivery.token, Done())
        return deliveries

    patch.setattr(SimulatedTransport, "receive", hasty)


@breaks(invariants.NONE_LOST, *STUCK)
def deletes_from_the_outbox_before_the_broker_confirms(patch: Patch) -> None:
    publish = Lane._publish

    async def hasty(self: Lane, batch: Sequence[Outgoing]) -> list[Outgoing]:
        positions = [one.position for one in batch]
        await self.store.transact(lambda tx: tx.outbox.remove(positions))
        return await publish(self, batch)

    patch.setattr(Lane, "_publish", hasty)


@breaks(invariants.NONE_LOST, *STUCK)
def takes_what_was_not_kept_for_published(patch: Patch) -> None:
    publish = SimulatedTransport.publish

    async def hopeful(self: SimulatedTransport, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        await publish(self, messages)
        return [None] * len(messages)

    patch.setattr(SimulatedTransport, "publish", hopeful)


@breaks(invariants.NO_GHOSTS, "everything else")
def publishes_before_it_commits(patch: Patch) -> None:
    before_commit = SqliteTx.before_commit

    def hasty(self: SqliteTx) -> None:
        before_commit(self)
        outbox = self._outbox
        added = zip(outbox._positions, outbox._added, strict=True)
        self._committed([Outgoing(position, *what) for position, what in added])

    patch.setattr(SqliteTx, "before_commit", hasty)


# Only where several messages of one key wait at once, as they do while the broker is away.
@breaks(invariants.KEY_ORDER, ordered=True, faults=Faults(publish_refused=0.3, broker_down_per_minute=20.0))
def puts_what_was_refused_at_the_end(patch: Patch) -> None:
    async def send(self: Lane) -> bool:
        batch = [self._held.popleft() for _ in range(len(self._held))]
        failed = await self._publish(batch[:1]) + batch[1:]
        self._held.extend(failed[1:] + failed[:1])
        return len(failed) < len(batch)

    patch.setattr(Lane, "_send", send)


@breaks(invariants.NONE_LOST, invariants.ALL_EMPTY)
def never_looks_for_what_a_dead_instance_left(patch: Patch) -> None:
    async def look_away(self: Worker) -> None: ...

    patch.setattr(Worker, "_sweep", look_away)


@breaks(*STUCK, coordination="choreography", faults=Faults(store_busy=0.15, disk_full=0.15))
def forgets_what_it_cannot_take_in_now(patch: Patch) -> None:
    def forget(self: Hearing, delivery: Delivery, problem: Exception | None) -> Done:
        return Done()

    patch.setattr(Hearing, "_settlement", forget)


# -- the inbox ---------------------------------------------------------------------------------------------------------


@breaks(PAID_ONCE, BALANCE, TRUE_ENDS)
def retries_with_a_new_key(patch: Patch) -> None:
    arguments = Participant.arguments

    def fresh(self: Participant, handler: Any, entry: Entry, tx: Tx | None) -> dict[str, Any]:
        found = arguments(self, handler, entry, tx)
        return {
            name: IdempotencyKey(self.ids.new()) if isinstance(value, IdempotencyKey) else value
            for name, value in found.items()
        }

    patch.setattr(Participant, "arguments", fresh)


@breaks(invariants.ENTRY_STAYS, invariants.FENCED, invariants.DECIDED_ONCE, machines="twins")
def writes_to_what_somebody_else_owns(patch: Patch) -> None:
    fences = {"CHANGE": "owner = ? AND state = 'due'", "SAVE": "minuet_inbox.owner = ? AND minuet_inbox.state = 'due'"}
    for name, fence in fences.items():
        statement = getattr(tables, name)
        assert fence in statement
        patch.setattr(tables, name, statement.replace(fence, "? IS NOT NULL"))


@breaks(SHELVES, BALANCE)
def keeps_what_a_refusing_handler_wrote(patch: Patch) -> None:
    class _Kept(BaseException):
        """Leaves the savepoint, which keeps everything."""

    patch.setattr(performer, "_Refused", _Kept)
    savepoint = SqliteTx.savepoint

    class Lenient:
        def __init__(self, tx: SqliteTx) -> None:
            self.inner = savepoint(tx)

        def __enter__(self) -> None:
            self.inner.__enter__()

        def __exit__(self, kind: Any, error: BaseException | None, at: Any) -> None:
            if isinstance(error, _Kept):
                self.inner.__exit__(None, None, None)
            else:
                self.inner.__exit__(kind, error, at)

    def lenient(self: SqliteTx) -> Lenient:
        return Lenient(self)

    patch.setattr(SqliteTx, "savepoint", lenient)


@breaks(*STUCK, machines="twins")
def trusts_its_memory_though_others_have_written(patch: Patch) -> None:
    patch.setattr(tables.SqliteKnown, "forget", lambda self: None)


@breaks(*STUCK)
def keeps_in_memory_what_was_rolled_back(patch: Patch) -> None:
    patch.setattr(tables.SqliteKnown, "unlearn", lambda self: self._touched.clear())


@breaks(*STUCK)
def does_not_begin_what_it_took_over(patch: Patch) -> None:
    async def recover(self: Place) -> int:
        return len(await self.store.transact(lambda tx: tx.inbox.take(200)))

    patch.setattr(Place, "recover", recover)


@breaks(*STUCK)
def forgets_an_attempt_whose_outcome_could_not_be_kept(patch: Patch) -> None:
    follow_up = Place.follow_up

    def forgetful(self: Place, after: After) -> None:
        after.start = [entry for entry in after.start if not (entry.due_at and entry.state is EntryState.DUE)]
        follow_up(self, after)

    patch.setattr(Place, "follow_up", forgetful)


@breaks(TRUE_ENDS, BALANCE, faults=Faults(until_s=120.0))
def refuses_without_making_sure_that_nothing_remains(patch: Patch) -> None:
    patch.setattr(outsides, "FAILS", 0.6)

    async def hasty(self: Attempts, entry: Entry) -> None: ...

    patch.setattr(Attempts, "last_resort", hasty)


# -- the rules ---------------------------------------------------------------------------------------------------------


def compiled_by(patch: Patch, compiler: type[Compiler]) -> None:
    """Let the shop's saga be compiled by another compiler."""
    saga: Saga = shops.order_processing
    rules = saga.rules
    object.__setattr__(saga, "rules", replace(compile_saga(saga, compiler), fingerprint=rules.fingerprint))
    mutant = App("shop", services=[*shops.shop.services.values()], sagas=[saga], read_models=shops.shop.read_models)
    patch.setattr(shops, "shop", mutant)
    restores.append(lambda: object.__setattr__(saga, "rules", rules))


restores: list[Callable[[], None]] = []


def with_formula(rule: Rule, formula: Formula) -> Rule:
    needed = all_of(formula, *sorted(rule.recipe.needs, key=str))
    return replace(rule, formula=needed, needs=literals(needed))


@breaks(invariants.UNDONE_FOR_A_REASON)
def undoes_what_has_not_succeeded(patch: Patch) -> None:
    class Mutant(Compiler):
        def step(self, step: Step, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
            clean = super().step(step, start, abort, before)
            if self.rules[-1].kind is Kind.UNDO:
                self.rules[-1] = with_formula(self.rules[-1], any_of(compiling.succeeded(step), abort))
            return clean

    compiled_by(patch, Mutant)


@breaks(invariants.UNDOS_IN_ORDER)
def undoes_everything_at_once(patch: Patch) -> None:
    class Mutant(Compiler):
        def sequence(self, node: SequenceOf, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
            clean = super().sequence(node, start, abort, before)
            refusal = compiling.refused_anywhere(node)
            self.rules = [
                with_formula(rule, all_of(compiling.success_of(rule.id.removesuffix("/undo")), refusal))
                if rule.kind is Kind.UNDO
                else rule
                for rule in self.rules
            ]
            return clean

    compiled_by(patch, Mutant)


@breaks(invariants.EFFECTS_AGREE, TRUE_ENDS)
def says_compensated_at_the_first_refusal(patch: Patch) -> None:
    class Mutant(Compiler):
        def end(self, name: str, formula: Formula, action: Action | None, before: tuple[Source, ...]) -> None:
            early = compiling.refused_anywhere(self.saga.root) if name == COMPENSATED else formula
            super().end(name, early, action, before)

    compiled_by(patch, Mutant)


@breaks(*STUCK, invariants.EFFECTS_AGREE)
def forgets_the_undo_of_the_first_step(patch: Patch) -> None:
    class Mutant(Compiler):
        def step(self, step: Step, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
            clean = super().step(step, start, abort, before)
            if step is self.saga.steps[0] and self.rules[-1].kind is Kind.UNDO:
                self.rules.pop()
            return clean

    compiled_by(patch, Mutant)


@breaks(invariants.STEPS_IN_ORDER)
def begins_all_steps_at_once(patch: Patch) -> None:
    class Mutant(Compiler):
        def step(self, step: Step, start: Formula, abort: Formula, before: tuple[Source, ...]) -> Formula:
            return super().step(step, compiling.BEGUN, abort, before)

    compiled_by(patch, Mutant)


# -- the simulator -----------------------------------------------------------------------------------------------------


@breaks(invariants.NOTHING_UNSEEN)
def lets_a_task_fail_unseen(patch: Patch) -> None:
    begin = Place.begin

    async def fail() -> None:
        raise RuntimeError("nobody hears of this")

    def careless(self: Place, entry: Entry) -> None:
        asyncio.get_running_loop().create_task(fail())
        begin(self, entry)

    patch.setattr(Place, "begin", careless)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    while restores:
        restores.pop()()


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mutation_is_found(name: str, monkeypatch: pytest.MonkeyPatch, record_property: Any) -> None:
    mutation, promises, settings = MUTATIONS[name]
    mutation(monkeypatch)
    simulation = shops.shop_simulation(ORDERS, patience_s=300.0, **settings)
    with pytest.raises(SimulationFailed) as found:
        simulation.run_many(range(SEEDS))
    record_property("seeds", found.value.seed + 1)
    assert found.value.promise in promises, f"seed {found.value.seed}: {found.value.promise}: {found.value.how}"


SMALL = (
    "publishes_before_it_commits",
    "never_looks_for_what_a_dead_instance_left",
    "retries_with_a_new_key",
    "keeps_in_memory_what_was_rolled_back",
    "does_not_begin_what_it_took_over",
    "undoes_what_has_not_succeeded",
    "forgets_the_undo_of_the_first_step",
    "lets_a_task_fail_unseen",
)


@pytest.mark.parametrize("name", SMALL)
def test_a_failure_becomes_small(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a dozen orders and dozens of faults, up to three orders remain, up to three faults, and four in all."""
    mutation, _, settings = MUTATIONS[name]
    mutation(monkeypatch)
    simulation = shops.shop_simulation(ORDERS, patience_s=60.0, **settings)
    with pytest.raises(SimulationFailed) as found:
        simulation.run_many(range(SEEDS))
    small = simulation.shrink(found.value, runs_max=150)
    assert small.promise == found.value.promise
    assert len(small.sent) <= 3, small
    assert small.faults.count <= 3, small
    assert len(small.sent) + small.faults.count <= 4, small
    with pytest.raises(SimulationFailed) as again:
        simulation.run(small.seed, faults=Faults.from_text(small.faults.to_text()), only=small.only)
    assert str(again.value.trace) == str(small.trace)
