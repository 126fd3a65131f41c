"""How long a member waits for the rest of a wave."""

from minuet.adapters.broker.gathering import WAIT_S_MAX, Gathering


def test_single_messages_are_never_held_up() -> None:
    gathering = Gathering()
    waited = []
    for _ in range(100):
        waited.append(gathering.wait_s)
        gathering.gave(1)
    assert set(waited) == {0}


def test_a_wave_is_waited_for_as_long_as_the_last_one_was_large_and_not_longer_than_a_moment() -> None:
    waited = []
    for count in (2, 5, 1000):
        gathering = Gathering()
        gathering.gave(count)
        waited.append(gathering.wait_s)
    assert 0 < waited[0] < waited[1] < waited[2] == WAIT_S_MAX


def test_one_straggler_does_not_end_the_gathering_but_a_few_single_messages_do() -> None:
    gathering = Gathering()
    gathering.gave(16)
    gathering.gave(1)
    assert gathering.wait_s > 0
    for _ in range(3):
        gathering.gave(1)
    assert gathering.wait_s == 0
