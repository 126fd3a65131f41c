"""Where settings come from, which is the stronger, and what is said of those that are wrong."""

from pathlib import Path

import pytest

from minuet import App, ConfigurationError, Settings, running
from minuet.core.projection import Coordination
from minuet.settings import writable
from tests.unit.cli import tiny


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_flag_is_stronger_than_a_variable_and_that_than_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("minuet.toml").write_text(
        'port = 1\nhost = "a"\ngrace_s = 1\n[coordination]\nOne = "choreography"\nTwo = "orchestration"\n'
    )
    monkeypatch.setenv("MINUET_PORT", "2")
    monkeypatch.setenv("MINUET_HOST", "b")
    monkeypatch.setenv("MINUET_COORDINATION__ONE", "orchestration")
    settings = Settings.load(port=3, host=None, coordination={"two": "choreography"})
    assert (settings.port, settings.host, settings.grace_s) == (3, "b", 1.0)
    assert settings.coordination == {"One": "orchestration", "Two": "choreography"}


def test_a_variable_counts_without_load_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINUET_PORT", "2")
    monkeypatch.setenv("MINUET_APP__Gateway__Url", "http://somewhere")
    monkeypatch.setenv("MINUET_CHANNELS", '{"*": "memory:"}')
    assert (Settings().port, Settings(port=3).port) == (2, 3)
    assert Settings().app == {"gateway": {"url": "http://somewhere"}}
    assert Settings().channels == {"*": "memory:"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MINUET_COORDINATION__Wishes", "orchestration"),
        ("MINUET_COORDINATION__WISHES", "orchestration"),
        ("MINUET_COORDINATION", '{"Wishes": "orchestration"}'),
    ],
)
async def test_a_name_of_the_app_is_found_in_any_case(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("MINUET_STORES__DEFAULT", "memory:")
    monkeypatch.setenv("MINUET_PARTICIPANTS__FAIRY", "http://fairy")
    async with running(tiny.app, Settings.load(channels={"*": "memory:"})) as system:
        assert system.settings.coordination == {"Wishes": Coordination.ORCHESTRATION}
        assert system.settings.stores == {"default": "memory:"}
        assert system.deployment.url_of("fairy") == "http://fairy"


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("MINUET_DATTA", "x", "the variable MINUET_DATTA is no setting; there are MINUET_DATA, MINUET_HOST, "),
        ("MINUET_PORT__X", "1", "the variable MINUET_PORT__X is no setting"),
        (
            "MINUET_COORDINATION",
            "x",
            'the variable MINUET_COORDINATION must be a JSON object, not "x"; '
            """write MINUET_COORDINATION='{"OrderProcessing": "orchestration"}' """
            "or MINUET_COORDINATION__OrderProcessing=orchestration",
        ),
        ("MINUET_PORT", "abc", 'MINUET_PORT: port must be a whole number, not "abc"'),
        (
            "MINUET_COORDINATION__One",
            "dancing",
            "MINUET_COORDINATION__One: coordination.One must be 'choreography' or 'orchestration', not \"dancing\"",
        ),
        (
            "MINUET_ORCHESTRATION__ENGNE",
            "x",
            'MINUET_ORCHESTRATION__ENGNE: there is no setting "engne" in [orchestration]; '
            "there are engine, participants",
        ),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, why: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as error:
        Settings.load()
    assert why in str(error.value)
    assert "minuet.toml" not in str(error.value)


def test_the_variable_of_the_command_line_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINUET_DEBUG", "1")
    assert Settings.load() == Settings()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("datta = 1", 'there is no setting "datta"; there are data, host, port, '),
        (
            "[orchestration]\nengne = 1",
            'there is no setting "engne" in [orchestration]; there are engine, participants',
        ),
        ("data = 5", "data must be a path, not 5"),
        ("host = 5", "host must be a text, not 5"),
        ("port = 'x'", 'port must be a whole number, not "x"'),
        ("port = 70000", "port must be less than or equal to 65535, not 70000"),
        ("grace_s = 'x'", 'grace_s must be a number, not "x"'),
        ("stores = 3", "stores must be a table, not 3"),
        ("stores = '" + "x" * 99 + "'", "xxx..."),
    ],
)
def test_what_is_wrong_in_the_file_is_told_in_words(content: str, why: str) -> None:
    Path("minuet.toml").write_text(content)
    with pytest.raises(ConfigurationError) as error:
        Settings.load()
    assert str(error.value).startswith("settings in minuet.toml: ")
    assert why in str(error.value)


def test_a_file_that_cannot_be_read_is_told(here: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        Settings.load(here)
    Path("minuet.toml").write_text("a b")
    with pytest.raises(ConfigurationError, match=r"settings in minuet\.toml are not TOML: "):
        Settings.load()


def test_a_wrong_flag_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r'^--port: port must be a whole number, not "x"$'):
        Settings.load(port="x")


async def test_an_app_without_sagas_says_so() -> None:
    settings = Settings(coordination={"Buying": Coordination.ORCHESTRATION})
    with pytest.raises(ConfigurationError, match="names Buying, but the app has no sagas"):
        async with running(App("empty", services=[]), settings):
            pass


@pytest.mark.parametrize(
    ("folder", "why"), [("/proc/foo", "No such file or directory"), ("/proc", "No such file"), ("file", "not a folder")]
)
async def test_a_folder_that_takes_no_data_is_told(folder: str, why: str) -> None:
    Path("file").touch()
    told = f"cannot write in {folder}: .*{why}.*; choose another folder with --data"
    with pytest.raises(ConfigurationError, match=told):
        writable(Path(folder))
    with pytest.raises(ConfigurationError, match=told):
        async with running(tiny.app, Settings(data=Path(folder))):
            pass


def test_a_folder_is_made_and_left_empty() -> None:
    assert list(writable(Path("a/b")).iterdir()) == []


def test_limits_are_said_per_service(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("minuet.toml").write_text("[limits.payment]\nin_flight = 20\nrate_per_s = 50\n")
    monkeypatch.setenv("MINUET_LIMITS__payment__in_flight", "5")
    monkeypatch.setenv("MINUET_LIMITS__Shipping__RATE_PER_S", "0.5")
    limits = Settings.load().limits
    assert (limits["payment"].in_flight, limits["payment"].rate_per_s) == (5, 50.0)
    assert (limits["Shipping"].in_flight, limits["Shipping"].rate_per_s) == (None, 0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits.payment]\nin_flight = 0", "limits.payment.in_flight must be greater than or equal to 1, not 0"),
        ("[limits.payment]\nrate_per_s = 0", "limits.payment.rate_per_s must be greater than 0, not 0"),
        ("[limits.payment]\nrate = 5", 'no setting "rate" in [limits]; there are in_flight, rate_per_s'),
        ("[limits]\npayment = 5", "limits.payment must be a table"),
        ("[limits.payment]\nin_flight = true", "limits.payment.in_flight must be a number, not true"),
        ("port = true", "port must be a number, not true"),
        ("grace_s = false", "grace_s must be a number, not false"),
        ("[retention]\nkeep_days = true", "retention.keep_days must be a number, not true"),
        ("[retention]\ndays = 5", 'no setting "days" in [retention]; there are keep_days'),
        ("[reconciliation]\nevery = 5", 'no setting "every" in [reconciliation]; there are every_s, after_s, back_s'),
    ],
)
def test_what_makes_no_sense_is_told_with_what_there_is(text: str, said: str) -> None:
    Path("minuet.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    assert said in str(caught.value)


async def test_a_limit_of_nobody_is_a_mistake() -> None:
    settings = Settings(limits={"nobody": {"in_flight": 1}})  # type: ignore[dict-item]
    with pytest.raises(ConfigurationError, match=r"\[limits\] names nobody, but there is only fairy, people, press"):
        async with running(tiny.app, settings):
            pass
