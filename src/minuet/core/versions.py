"""The definitions of sagas as plain JSON, for version control; and whether what began under them can go on today. Pure.

A saga finishes under the definition with which it began, known by its fingerprint. So its open sagas can go on as long
as the app has a definition with that fingerprint, current or kept, and can read the messages that they have stored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from minuet.core.compatibility import incompatibilities, shape_of
from minuet.core.compile import UNDO_SUFFIX, WITHIN_SUFFIX, Kind, Rule, content_of, content_of_watch
from minuet.core.errors import DefinitionError
from minuet.core.formula import All, Formula, Literal, Outcome, digest, literals
from minuet.core.messages import AwaitOutcome, Event, Message, StepAbandoned, StepAccepted, StepRefused, name_of
from minuet.core.saga import BEGIN, COMPENSATED, COMPLETED, Saga

FORMAT = 1
MENTIONS_MAX = 60
"""A formula that mentions more is recorded by its digest: written out, one of many parallel steps has no end."""

Record = dict[str, Any]


# -- recording ---------------------------------------------------------------------------------------------------------


def record_of(app: str, sagas: Sequence[Saga]) -> Record:
    """Every definition with its rules, and the contract of each message of theirs. The same for the same definitions.

    Args:
        sagas: of two with one name, the first is the current one.
    """
    current = {saga.name: saga for saga in reversed(sagas)}
    messages: dict[str, type[Message]] = {}
    for saga in sagas:
        messages |= messages_of(saga)
    return {
        "format": FORMAT,
        "app": app,
        "definitions": [
            {
                "saga": saga.name,
                "fingerprint": saga.fingerprint,
                "is_current": current[saga.name] is saga,
                "begins_with": name_of(saga.begins_with),
                "key": saga.key,
                **({"deadline_s": saga.deadline.total_seconds()} if saga.deadline else {}),
                "rules": [_rule(rule) for rule in saga.rules.every],
                "complete": _formula(saga.rules.complete),
                "clean": _formula(saga.rules.clean),
                "messages": sorted(messages_of(saga)),
            }
            for saga in sagas
        ],
        "messages": {name: shape_of(message) for name, message in sorted(messages.items())},
    }


def messages_of(saga: Saga) -> dict[str, type[Message]]:
    """What its open sagas may have stored, or on its way: what begins it, its commands and all their answers."""
    found: dict[str, type[Message]] = {name_of(saga.begins_with): saga.begins_with}
    for rule in saga.rules.every:
        answers: tuple[type[Event], ...] = rule.command.__contract__.answers
        found |= {name_of(message): message for message in (rule.command, *answers)}
    for wait in saga.waits:
        found |= {name_of(event): event for event in (wait.event, wait.refused_by) if event is not None}
    for own in (StepRefused, AwaitOutcome, StepAccepted, StepAbandoned):  # those are minuet's own
        found.pop(name_of(own), None)
    return found


def _rule(rule: Rule) -> Record:
    return {
        "id": rule.id,
        "kind": rule.kind.value,
        "when": _formula(rule.formula),
        "command": name_of(rule.command),
        "service": rule.service,
        "content": content_of(rule.recipe),
        "needs": sorted(map(str, rule.needs)),
        "retry": asdict(rule.retry) if rule.retry else None,
        "deadline_s": rule.deadline.total_seconds() if rule.deadline else None,
        "may_refuse": rule.may_refuse,
        # Only where they are used: so a record says the same as one that was written before there were such things.
        **({"delay_s": rule.delay.total_seconds()} if rule.delay else {}),
        **({"watch": content_of_watch(rule.watch)} if rule.watch else {}),
    }


def _formula(formula: Formula) -> Any:
    if _mentions(formula) > MENTIONS_MAX:
        return {"digest": digest(formula)[:16], "of": sorted(map(str, literals(formula)))}
    return _written_out(formula)


def _written_out(formula: Formula) -> Any:
    if isinstance(formula, Literal):
        return str(formula)
    return {"all" if isinstance(formula, All) else "any": [_written_out(part) for part in formula.parts]}


def _mentions(formula: Formula) -> int:
    """How many literals it has when it is written out. Each shared sub-tree is counted once, and multiplied."""
    counts: dict[int, int] = {}

    def count(node: Formula) -> int:
        if isinstance(node, Literal):
            return 1
        if id(node) not in counts:
            counts[id(node)] = sum(map(count, node.parts))
        return counts[id(node)]

    return count(formula)


def has_ended(definition: Mapping[str, Any], known: Collection[Literal]) -> bool:
    """Whether a saga of a recorded definition is over, as far as these messages tell. Where the record does not say
    what its end is, it is not."""
    names = frozenset(map(str, known))
    ends = {rule["id"] for rule in definition["rules"]} & {COMPLETED, COMPENSATED}
    return any(
        f"{end}:{Outcome.SUCCEEDED}" in names if end in ends else _holds(definition[reached], names)
        for end, reached in ((COMPLETED, "complete"), (COMPENSATED, "clean"))
    )


def _holds(when: Any, known: Collection[str]) -> bool:
    if isinstance(when, str):
        return when in known
    if "all" in when:
        return all(_holds(part, known) for part in when["all"])
    return any(_holds(part, known) for part in when.get("any", ()))


# -- comparing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether what began under a recorded definition can go on under today's app.

    Attributes:
        is_kept: the app has this very definition, current or beside the current one.
        differences: of the current definition, if this one is not kept, in words.
        broken: messages of it that cannot be read any more, in words.
        remedy: what to do; empty if it can go on.
    """

    saga: str
    fingerprint: str
    is_kept: bool
    differences: tuple[str, ...]
    broken: tuple[str, ...]
    remedy: str

    @property
    def can_continue(self) -> bool:
        return self.is_kept and not self.broken


def verdicts(record: Mapping[str, Any], sagas: Sequence[Saga], messages: Iterable[type[Message]]) -> list[Verdict]:
    """One for each recorded definition, in the order of the record.

    Args:
        messages: all that the app of today knows.

    Raises:
        DefinitionError: it is no record, or one of a later minuet.
    """
    if record.get("format") != FORMAT:
        raise DefinitionError(f"its format is {record.get('format')!r}, and {FORMAT} is the one known here")
    known = {name_of(message): message for message in messages}
    try:
        return [_verdict(one, record["messages"], sagas, known) for one in record["definitions"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DefinitionError(f"it is not as `minuet check --record` writes it: {error!r}") from error


def _verdict(
    old: Mapping[str, Any],
    shapes: Mapping[str, Any],
    sagas: Sequence[Saga],
    known: Mapping[str, type[Message]],
) -> Verdict:
    name, fingerprint = str(old["saga"]), str(old["fingerprint"])
    is_kept = any((saga.name, saga.fingerprint) == (name, fingerprint) for saga in sagas)
    broken = tuple(
        what for message in old["messages"] for what in incompatibilities(message, shapes[message], known.get(message))
    )
    current = next((saga for saga in sagas if saga.name == name), None)
    differences: tuple[str, ...] = ()
    if not is_kept:
        differences = tuple(_differences(old, current)) if current else (f"the app has no saga {name} any more",)
    return Verdict(
        saga=name,
        fingerprint=fingerprint,
        is_kept=is_kept,
        differences=differences,
        broken=broken,
        remedy=_remedy(name, fingerprint, is_kept, has_current=current is not None, is_broken=bool(broken)),
    )


def _remedy(name: str, fingerprint: str, is_kept: bool, *, has_current: bool, is_broken: bool) -> str:
    steps = []
    if not is_kept:
        kept = f"App(sagas=[{'new, ' if has_current else ''}old])"
        steps.append(
            f"keep the definition {fingerprint} of {name} beside the current one, {kept}, until its last saga has ended"
        )
    if is_broken:
        steps.append(
            "let the messages take what was written before: fields with defaults, or a new version and upcasts"
        )
    return "; and ".join(steps)


def _differences(old: Mapping[str, Any], saga: Saga) -> Iterator[str]:
    """How the current definition differs, in words."""
    new = record_of("", [saga])["definitions"][0]
    if old["begins_with"] != new["begins_with"]:
        yield f"it began with {old['begins_with']}, and begins with {new['begins_with']} now"
    if old["key"] != new["key"]:
        yield f"its key was {old['key']}, and is {new['key']} now"
    if old.get("deadline_s") != new.get("deadline_s"):
        was, is_now = _seconds(old.get("deadline_s")), _seconds(new.get("deadline_s"))
        yield f"its deadline was {was}, and is {is_now} now"
    before = {rule["id"]: rule for rule in old["rules"]}
    now = {rule["id"]: rule for rule in new["rules"]}
    renamed = _renamed(before, now)
    for step, name in renamed.items():
        yield f"step {step} is named {name} now"
    names = {rule_id: rule_id for rule_id in before} | renamed
    for suffix in (UNDO_SUFFIX, WITHIN_SUFFIX):
        names |= {f"{step}{suffix}": f"{name}{suffix}" for step, name in renamed.items()}
    for rule_id in before:
        if names[rule_id] not in now:
            yield f"{_called(rule_id)} was removed"
    found = set(names.values())
    for rule_id in now:
        if rule_id not in found:
            yield f"{_called(rule_id)} is new"
    moved = _moved([names[one] for one in before if names[one] in now], list(now))
    for rule_id, rule in before.items():
        name = names[rule_id]
        if name in now:
            yield from _rule_differences(rule, now[name], renamed, has_moved=name in moved)


def _renamed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Steps that went by another name: gone and new, and the only ones with that command of that service."""

    def by_command(rules: Mapping[str, Any], others: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for rule_id, rule in rules.items():
            if rule["kind"] == Kind.DO and rule_id not in others:
                found.setdefault((rule["command"], rule["service"]), []).append(rule_id)
        return found

    gone, new = by_command(before, now), by_command(now, before)
    return {gone[what][0]: new[what][0] for what in gone if len(gone[what]) == 1 and len(new.get(what, ())) == 1}


def _moved(before: Sequence[str], now: Sequence[str]) -> set[str]:
    """Which steps stand elsewhere among those that are in both: as few as explain the new order."""
    steps = [one for one in before if "/" not in one and one not in (COMPLETED, COMPENSATED)]
    places = [now.index(one) for one in steps]
    longest: list[list[int]] = []
    for index, place in enumerate(places):
        fitting = [path for path in longest if places[path[-1]] < place]
        longest.append([*_longest(fitting), index])
    stay = set(_longest(longest))
    return {step for index, step in enumerate(steps) if index not in stay}


def _longest(paths: Sequence[list[int]]) -> list[int]:
    return max(paths, key=len) if paths else []


def _rule_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], renamed: Mapping[str, str], *, has_moved: bool
) -> Iterator[str]:
    called = _called(new["id"])
    if old["command"] != new["command"]:
        yield f"{called} sent {old['command']}, and sends {new['command']} now"
    if old["service"] != new["service"]:
        yield f"{called} was done by {old['service']}, and is by {new['service']} now"
    when, when_now = _with_names(old["when"], renamed), new["when"]
    if when != when_now:
        change = "moved" if has_moved else f"{'starts' if new['kind'] == Kind.DO else 'is due'} under another condition"
        yield f"{called} {change}: once {_words(when)}; now once {_words(when_now)}"
    elif has_moved:
        yield f"{called} moved"
    if old["command"] == new["command"] and _with_names(old["content"], renamed) != new["content"]:
        yield f"{called}: {new['command']} is filled from something else"
    if old["deadline_s"] != new["deadline_s"]:
        yield f"{called}: its deadline was {_seconds(old['deadline_s'])}, and is {_seconds(new['deadline_s'])} now"
    if old.get("delay_s") != new.get("delay_s"):
        was, is_now = _seconds(old.get("delay_s")), _seconds(new.get("delay_s"))
        yield f"{called}: its delay was {was}, and is {is_now} now"
    yield from _watch_differences(called, old.get("watch") or {}, new.get("watch") or {})
    if old["retry"] != new["retry"]:
        yield f"{called}: its retries were {_retry(old['retry'])}, and are {_retry(new['retry'])} now"
    if old["may_refuse"] != new["may_refuse"]:
        could = "could be refused, and cannot any more" if old["may_refuse"] else "could not be refused, and can now"
        yield f"{called} {could}"


def _watch_differences(called: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    if old.get("within_s") != new.get("within_s"):
        was, is_now = _seconds(old.get("within_s")), _seconds(new.get("within_s"))
        yield f"{called}: its time was {was}, and is {is_now} now"
    for what, verb in (("event", "waited for"), ("refused_by", "was refused by")):
        if old.get(what) != new.get(what):
            yield f"{called} {verb} {old.get(what) or 'nothing'}, and now it is {new.get(what) or 'nothing'}"


def _called(rule_id: str) -> str:
    if rule_id in (COMPLETED, COMPENSATED):
        return f"the end when it is {rule_id}"
    if rule_id.endswith(UNDO_SUFFIX):
        return f"the undo of step {rule_id.removesuffix(UNDO_SUFFIX)}"
    if rule_id.endswith(WITHIN_SUFFIX):
        return f"the waiting for step {rule_id.removesuffix(WITHIN_SUFFIX)}"
    return f"step {rule_id}"


def _with_names(content: Any, renamed: Mapping[str, str]) -> Any:
    """The same, its literals with the steps' names of today."""
    if isinstance(content, str):
        step, colon, outcome = content.rpartition(":")
        return f"{renamed[step]}:{outcome}" if colon and step in renamed and outcome in tuple(Outcome) else content
    if isinstance(content, Mapping):
        return {name: _with_names(value, renamed) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_names(one, renamed) for one in content]
    return content


def _words(when: Any) -> str:
    if isinstance(when, str):
        literal = Literal.parse(when)
        if literal.step == BEGIN:
            return "the saga began"
        was = "was " if literal.outcome in (Outcome.UNDONE, Outcome.ACCEPTED, Outcome.ABANDONED) else ""
        return f"{literal.step} {was}{literal.outcome}"
    if "digest" in when:
        return f"a condition on {len(when['of'])} messages"
    ((how, parts),) = when.items()
    if not parts:
        return "always" if how == "all" else "never"
    inner = [_words(part) if isinstance(part, str) else f"({_words(part)})" for part in parts]
    return (" and " if how == "all" else " or ").join(inner)


def _seconds(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds:g} s"


def _retry(retry: Mapping[str, Any] | None) -> str:
    if retry is None:
        return "the handler's"
    return f"{retry['attempts_max']} times, from {retry['first_s']:g} s to {retry['delay_max_s']:g} s"
