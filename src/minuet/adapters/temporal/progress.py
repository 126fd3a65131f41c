"""Where one saga is: what is known, which commands became due by it, which are answered. Pure.

It is all that the workflow decides. The rest of the workflow asks for what is due here, and tells what came of it.
"""

from __future__ import annotations

import json
from datetime import datetime

from minuet.adapters.temporal.values import Told
from minuet.core.compile import BEGUN, Kind, Rule, Rules
from minuet.core.coordinator import Ends, Status, ends, newly_due, status
from minuet.core.formula import Literal, Outcome
from minuet.core.messages import name_of
from minuet.core.saga import CANCELLED


class Progress:
    """A saga under its rules."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.known: dict[Literal, Told] = {}
        self.begun: dict[str, Rule] = {}

    def learn(self, told: Told) -> list[Rule]:
        """Remember the message; the rules whose command became due by it, each once in a saga's life."""
        literal = Literal.parse(told.literal)
        if literal in self.known:
            return []
        self.known[literal] = told
        due = [rule for rule in newly_due(self.rules.every, self.known, literal) if rule.id not in self.begun]
        self.begun.update((rule.id, rule) for rule in due)
        return due

    def needed_by(self, rule: Rule) -> list[Told]:
        """The known messages that the rule's command is built from."""
        wanted = rule.recipe.needs.union(*rule.recipe.needs_any)
        return [told for literal, told in self.known.items() if literal in wanted]

    def is_answered(self, rule: Rule) -> bool:
        if rule.answered in self.known:
            return True
        if rule.watch is not None:
            name = rule.watch.of.name
            return Literal(name, Outcome.ABANDONED) in self.known or ends(rule, self.known) is Ends.ANSWERED
        return rule.kind is Kind.DO and Literal(rule.id, Outcome.REFUSED) in self.known

    @property
    def is_cancelled(self) -> bool:
        return Literal(CANCELLED, Outcome.SUCCEEDED) in self.known

    def is_unwanted(self, rule: Rule) -> bool:
        """Whether its participant is to refuse it, if it has not begun it."""
        return rule.may_refuse and (self.is_cancelled or Literal(rule.id, Outcome.ABANDONED) in self.known)

    @property
    def expires(self) -> float | None:
        """Until when anything may still be refused, in seconds since 1970; None if the saga has no deadline."""
        begun = self.known.get(BEGUN)
        if self.rules.deadline is None or begun is None:
            return None
        began_at = datetime.fromisoformat(json.loads(begun.attributes)["time"]).timestamp()
        return began_at + self.rules.deadline.total_seconds()

    def ends_at(self, rule: Rule, at: float) -> float | None:
        """When a watch that began at that time ends by itself, in seconds since 1970; None: never."""
        assert rule.watch is not None
        own = None if rule.watch.within is None else at + rule.watch.within.total_seconds()
        return min((one for one in (own, self.expires) if one is not None), default=None)

    @property
    def waiting(self) -> list[Rule]:
        """The rules whose command is not answered yet, in the order in which they became due."""
        return [rule for rule in self.begun.values() if not self.is_answered(rule)]

    @property
    def status(self) -> Status:
        return status(self.rules, self.known)

    @property
    def is_over(self) -> bool:
        """Nothing is to be done any more."""
        return self.status.is_final and not self.waiting

    def described(self, troubles: dict[str, str]) -> dict[str, object]:
        """For people, and for programs that look at the workflow.

        Args:
            troubles: why a rule's command needs an operator, by the rule's id.
        """
        return {
            "status": "needs operator" if troubles else self.status.value,
            "known": [str(literal) for literal in self.known],
            "waiting": [
                {
                    "step": rule.id,
                    "service": rule.service,
                    "command": name_of(rule.command),
                    "why": _why(rule, troubles),
                }
                for rule in self.waiting
            ],
        }


def _why(rule: Rule, troubles: dict[str, str]) -> str:
    if rule.id in troubles:
        return f"needs operator: {troubles[rule.id]}"
    return "is waited for" if rule.watch is not None else "is asked"
