import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minuet.core.errors import DefinitionError
from minuet.core.retry import RetryPolicy

CHANCES = st.floats(0, 1, exclude_max=True)
POLICIES = st.builds(
    RetryPolicy,
    attempts_max=st.integers(1, 1000),
    first_s=st.floats(0, 10),
    factor=st.floats(1, 10),
    delay_max_s=st.floats(10, 1000),
)


def test_delays_double_up_to_the_longest() -> None:
    policy = RetryPolicy(first_s=1, factor=2, delay_max_s=10)
    longest = math.nextafter(1, 0)
    assert [round(policy.delay_s(attempts, longest)) for attempts in range(1, 7)] == [1, 2, 4, 8, 10, 10]


@given(POLICIES, st.integers(1, 10**9), CHANCES)
def test_a_delay_is_between_half_of_its_step_and_the_whole(policy: RetryPolicy, attempts: int, chance: float) -> None:
    whole = 2 * policy.delay_s(attempts, 0)
    assert whole / 2 <= policy.delay_s(attempts, chance) <= whole <= policy.delay_max_s


@given(POLICIES, st.integers(1, 100), CHANCES)
def test_delays_never_shrink(policy: RetryPolicy, attempts: int, chance: float) -> None:
    assert policy.delay_s(attempts, chance) <= policy.delay_s(attempts + 1, chance)


def test_the_first_attempt_counts() -> None:
    policy = RetryPolicy(attempts_max=3)
    assert [policy.exhausted(attempts) for attempts in (1, 2, 3, 4)] == [False, False, True, True]


def test_there_is_no_delay_before_the_first_attempt() -> None:
    with pytest.raises(ValueError, match="no delay before the first attempt"):
        RetryPolicy().delay_s(0, 0)


@pytest.mark.parametrize("wrong", [{"attempts_max": 0}, {"first_s": -1}, {"factor": 0.5}, {"first_s": 60}])
def test_a_policy_that_makes_no_sense_is_an_error(wrong: dict[str, float]) -> None:
    with pytest.raises(DefinitionError, match=r"RetryPolicy\(.*\) makes no sense: at least one attempt"):
        RetryPolicy(**wrong)  # type: ignore[arg-type]
