"""When to try again: exponential backoff with jitter, as arithmetic.

The jitter is "full jitter within half" (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015):
a delay is between one half and the whole of its step, so that a herd spreads out and no retry comes at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from minuet.core.errors import DefinitionError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and how soon, a handler that raised is called again.

    Attributes:
        attempts_max: attempts in all, the first one counted.
        first_s: delay before the second attempt, in seconds.
        factor: by how much each delay is longer than the one before.
        delay_max_s: no delay is longer, in seconds.
    """

    attempts_max: int = 8
    first_s: float = 0.05
    factor: float = 2.0
    delay_max_s: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts_max < 1 or self.first_s < 0 or self.factor < 1 or self.delay_max_s < self.first_s:
            raise DefinitionError(
                f"{self} makes no sense: at least one attempt, delays that do not shrink below first_s"
            )

    def exhausted(self, attempts: int) -> bool:
        return attempts >= self.attempts_max

    def delay_s(self, attempts: int, chance: float) -> float:
        """Seconds to wait after the attempt number ``attempts``; ``chance`` is a random number in [0, 1)."""
        if attempts < 1:
            raise ValueError("there is no delay before the first attempt")
        # The exponent is bounded so that thousands of attempts do not overflow a float.
        step = min(self.delay_max_s, self.first_s * self.factor ** min(attempts - 1, 60))
        return step * (0.5 + 0.5 * chance)
