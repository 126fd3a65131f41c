"""The pytest plugin: the fixtures `given` and `simulation`, and the seeds that they run with. There as soon as minuet
is installed; whatever it needs is imported when a test asks for one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from minuet.app import App
    from minuet.testing.scenario import Given
    from minuet.testing.simulation import Simulation

SEED = "minuet_seed"
FAILED = pytest.StashKey[bool]()
"""Whether the test itself has failed: then a sentence that it did not finish is no news."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("minuet", "minuet: tests of sagas in virtual time")
    group.addoption(
        "--minuet-seed", type=int, default=0, metavar="N", help="the (first) seed of tests with given or simulation"
    )
    group.addoption(
        "--minuet-seeds", type=int, default=1, metavar="N", help="run each of these tests with so many seeds"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--minuet-seeds") < 1:
        raise pytest.UsageError("--minuet-seeds: a test runs with at least one seed")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    many, first = metafunc.config.getoption("--minuet-seeds"), metafunc.config.getoption("--minuet-seed")
    if SEED in metafunc.fixturenames and many > 1:
        metafunc.parametrize(SEED, range(first, first + many), ids=lambda seed: f"seed{seed}", scope="function")


@pytest.fixture
def minuet_seed(request: pytest.FixtureRequest) -> int:
    """The seed of `given` and `simulation` in this test: ``--minuet-seed``, or one of ``--minuet-seeds`` many."""
    seed = request.config.getoption("--minuet-seed")
    assert isinstance(seed, int)
    return seed


@pytest.fixture
def given(request: pytest.FixtureRequest, minuet_seed: int) -> Iterator[Callable[..., Given]]:
    """Begins a sentence about an app: ``given(app).when(...).then(...)``; see docs/testing-sagas.md.

    A test in which a sentence ends without a `then`, and so checks nothing, fails.
    """
    from minuet.testing.scenario import Given
    from minuet.testing.scenario.sentences import Sentence, begin

    kept: list[Sentence] = []

    def given(app: App, *, coordination: str | None = None, seed: int = minuet_seed) -> Given:
        return Given(begin(app, coordination=coordination, seed=seed), kept.append)

    yield given
    unfinished = [one for one in kept if not one.is_finished]
    for one in unfinished:
        one.is_finished = True  # it is told of here, and not again
    kept.clear()
    if unfinished and not request.node.stash.get(FAILED, False):
        pytest.fail("\n".join(f"{one} checks nothing: {one.FOLLOWING}" for one in unfinished), pytrace=False)


@pytest.fixture
def simulation(request: pytest.FixtureRequest, minuet_seed: int) -> Iterator[Callable[..., Simulation]]:
    """Makes a `minuet.testing.Simulation` with this test's seed: ``simulation(app, faults=...)``; see docs/testing.md.

    A test in which one is made and never run fails.
    """
    from minuet.testing.simulation import Simulation

    class Watched(Simulation):
        has_run = False

        def run(self, *args: Any, **settings: Any) -> Any:
            self.has_run = True
            return super().run(*args, **settings)

        def explore(self, *args: Any, **settings: Any) -> Any:
            self.has_run = True
            return super().explore(*args, **settings)

    made: list[Watched] = []

    def make(app: App, *, seed: int = minuet_seed, **settings: Any) -> Simulation:
        made.append(Watched(app, seed=seed, **settings))
        return made[-1]

    yield make
    idle = [one.app.name for one in made if not one.has_run]
    if idle and not request.node.stash.get(FAILED, False):
        pytest.fail(f"the simulation of {', '.join(idle)} was never run: call run()", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A test that failed with a seed says how to see it again."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed:
        item.stash[FAILED] = True
    arguments: dict[str, Any] = getattr(item, "funcargs", {})
    if report.failed and SEED in arguments:
        test, _, parameters = item.nodeid.partition("[")
        kept = [one for one in parameters.rstrip("]").split("-") if one and one != f"seed{arguments[SEED]}"]
        again = f"{test}[{'-'.join(kept)}]" if kept else test
        report.sections.append(("minuet: to see it again", f"pytest '{again}' --minuet-seed {arguments[SEED]}"))
    return report  # type: ignore[return-value]
