"""Where one saga is: what is known, which commands became due by it, which are answered. Pure.

It is all that the workflow decides. The rest of the workflow asks for what is due here, and tells what came of it.
"""

from __future__ import annotations

from minuet.adapters.temporal.values import Told
from minuet.core.compile import Kind, Rule, Rules
from minuet.core.coordinator import Status, newly_due, status
from minuet.core.formula import Literal, Outcome
from minuet.core.messages import name_of


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
        return rule.kind is Kind.DO and Literal(rule.id, Outcome.REFUSED) in self.known

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
                    "why": f"needs operator: {troubles[rule.id]}" if rule.id in troubles else "is asked",
                }
                for rule in self.waiting
            ],
        }
