"""`minuet topology` on brokers in memory: what is shown, compared and made, and what is said of one that is away."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from minuet.adapters.broker.port import Disconnected, Queue
from minuet.bootstrap import topology
from minuet.bootstrap.transports import KINDS, Kind, shown
from minuet.core.errors import ConfigurationError
from tests.unit.adapters.fake_broker import FakeBroker, FakeServer
from tests.unit.cli import tiny
from tests.unit.cli.conftest import Minuet

CHANNELS = ["fairy.refused", "granted", "people.refused", "thanks", "wishes"]
GROUPS = {"people", "fairy", "press", "orchestrator"}
PLACE = "fake://user:s3cret@one?token=s3cret"


class Stubborn(FakeBroker):
    """Has something that nobody can change."""

    async def check(self, queues: Sequence[Queue], destinations: Sequence[str]) -> Sequence[str]:
        return [*await super().check(queues, destinations), "topic wishes has 1 partition instead of 6"]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeServer]:
    """By host, and beyond the connections of one command."""
    found: dict[str, FakeServer] = {}

    def server_of(url: str) -> FakeServer:
        return found.setdefault(shown(url).partition("://")[2], FakeServer())

    for scheme, broker in (("fake", FakeBroker), ("stubborn", Stubborn)):
        made = Kind(lambda url, channel: (url, f"x.{channel}"), lambda url, ids, broker=broker: broker(server_of(url)))
        monkeypatch.setitem(KINDS, scheme, ("fake", lambda made=made: made))  # type: ignore[misc]
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    """Write a ``minuet.toml`` with these channels."""

    def write(channels: dict[str, str], first: str = "") -> Path:
        lines = "".join(f'"{pattern}" = "{url}"\n' for pattern, url in channels.items())
        file = tmp_path / "minuet.toml"
        file.write_text(f"{first}\n[channels]\n{lines}")
        return file

    write({"*": PLACE})
    return write


def test_each_channel_is_shown_with_those_who_publish_and_listen(run: Minuet, servers: Any, settings: Any) -> None:
    settings({"wishes": PLACE, "*": "embedded:"})
    result = run("topology", "show", tiny.APP, "--json")
    assert result.exit_code == 0
    channels = {one["channel"]: one for one in json.loads(result.stdout)["channels"]}
    assert channels.keys() >= set(CHANNELS)
    assert channels["wishes"] == {
        "channel": "wishes",
        "events": ["Wished"],
        "broker": "fake://one",
        "destination": "x.wishes",
        "publishes": ["people"],
        "listens": ["fairy", "press", "orchestrator"],
    }
    assert channels["granted"] == {
        "channel": "granted",
        "events": ["Granted", "Denied"],
        "broker": "embedded:",
        "destination": "granted",
        "publishes": ["fairy"],
        "listens": ["people"],
    }
    assert channels["fairy.refused"]["events"] == ["StepRefused"]
    assert channels["thanks"]["listens"] == []
    assert not servers  # nothing was connected


def test_the_table_has_a_part_for_each_broker(run: Minuet, servers: Any, settings: Any) -> None:
    settings({"wishes": PLACE, "*": "embedded:"})
    said = run("topology", "show", tiny.APP).stdout
    first, second = said.split("broker fake://one")
    assert first.startswith("broker embedded:")
    assert "destination" not in first  # the same as the channel
    assert "x.wishes" in second
    assert "fairy, press, orchestrator" in " ".join(second.split())
    assert "nobody" in first
    assert "s3cret" not in said


def test_a_check_lists_what_is_missing_and_changes_nothing(
    run: Minuet, servers: dict[str, FakeServer], settings: Any, tmp_path: Path
) -> None:
    result = run("topology", "check", tiny.APP)
    assert result.exit_code == 1
    head, *lines = result.stdout.splitlines()
    assert head == "fake://one  missing or different:"
    assert {f"  there is no topic x.{channel}" for channel in CHANNELS} <= set(lines)
    assert {f"  there is no queue {group}" for group in GROUPS} <= set(lines)
    assert result.stderr == ""
    assert not servers["one"].destinations
    assert not servers["one"].queues
    assert not servers["one"].called("declare")
    assert not (tmp_path / ".minuet").exists()


def test_what_is_applied_is_told_once_and_then_is_there(
    run: Minuet, servers: dict[str, FakeServer], settings: Any
) -> None:
    settings({"*": PLACE}, "provision = false")  # that is for a start
    result = run("topology", "apply", tiny.APP)
    assert result.exit_code == 0, result.stderr
    head, *lines = result.stdout.splitlines()
    assert head == "fake://one  made; until now it was so:"
    assert {f"  there is no queue {group}" for group in GROUPS} <= set(lines)
    assert f"{len(servers['one'].destinations)} destinations and the groups of people, fairy," in result.stdout
    assert servers["one"].queues.keys() == GROUPS
    assert servers["one"].queues["fairy"].destinations == ("x.sagas.cancelled", "x.sagas.instructed", "x.wishes")
    assert servers["one"].destinations >= {f"x.{channel}" for channel in CHANNELS}

    again = run("topology", "apply", tiny.APP)
    assert again.exit_code == 0
    assert again.stdout.startswith("fake://one  everything was there: ")
    assert "until now" not in again.stdout
    checked = run("topology", "check", tiny.APP)
    assert checked.exit_code == 0
    assert checked.stdout.startswith("fake://one  everything is there: ")


def test_it_is_told_in_json(run: Minuet, servers: dict[str, FakeServer], settings: Any) -> None:
    missing = run("topology", "check", tiny.APP, "--json")
    made = run("topology", "apply", tiny.APP, "--json")
    there = run("topology", "check", tiny.APP, "--json")
    assert (missing.exit_code, made.exit_code, there.exit_code) == (1, 0, 0)
    assert json.loads(missing.stdout)["ok"] is False
    (before,) = json.loads(missing.stdout)["brokers"]
    (applied,) = json.loads(made.stdout)["brokers"]
    (after,) = json.loads(there.stdout)["brokers"]
    assert sorted(applied["made"]) == sorted(before["missing"])
    assert applied["missing"] == after["missing"] == []
    assert (after["broker"], after["has_topology"], set(after["groups"])) == ("fake://one", True, GROUPS)
    assert set(after["destinations"]) == servers["one"].destinations


def test_one_service_alone_gets_its_group_and_all_destinations(
    run: Minuet, servers: dict[str, FakeServer], settings: Any
) -> None:
    assert run("topology", "apply", tiny.APP, "--service", "press", "--service", "fairy").exit_code == 0
    assert servers["one"].queues.keys() == {"press", "fairy"}
    assert servers["one"].destinations >= {f"x.{channel}" for channel in CHANNELS}
    missing = run("topology", "check", tiny.APP)
    assert missing.stdout.splitlines()[1:] == ["  there is no queue people", "  there is no queue orchestrator"]


def test_a_service_that_there_is_not_is_told(run: Minuet, servers: dict[str, FakeServer], settings: Any) -> None:
    result = run("topology", "apply", tiny.APP, "--service", "bakery")
    assert result.exit_code == 1
    assert result.stderr == "minuet: app tiny has no service 'bakery'; it has people, fairy, press, orchestrator\n"
    assert not servers


@pytest.mark.parametrize("url", ["embedded:", "memory:"])
def test_where_there_is_nothing_to_apply_it_says_so(run: Minuet, settings: Any, tmp_path: Path, url: str) -> None:
    settings({"*": url})
    applied, checked = run("topology", "apply", tiny.APP), run("topology", "check", tiny.APP)
    assert (applied.exit_code, applied.stdout) == (0, f"{url}  there is nothing to apply\n")
    assert (checked.exit_code, checked.stdout) == (0, f"{url}  nothing has to be there\n")
    (told,) = json.loads(run("topology", "apply", tiny.APP, "--json").stdout)["brokers"]
    assert told["has_topology"] is False
    assert not (tmp_path / ".minuet").exists()


@pytest.mark.parametrize("command", ["check", "apply"])
def test_a_broker_that_is_away_is_told_in_one_line_without_its_password(
    run: Minuet, servers: dict[str, FakeServer], settings: Any, command: str
) -> None:
    servers["one"] = FakeServer(is_up=False)
    result = run("topology", command, tiny.APP)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "minuet: cannot connect to fake://one: fake://***@host refuses the connection; is it running, and is the "
        "address right?\n"
    )


def test_a_broker_that_does_not_answer_is_not_waited_for(
    run: Minuet, servers: dict[str, FakeServer], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert topology.CONNECT_S < 10
    monkeypatch.setattr(topology, "CONNECT_S", 0.05)
    servers["one"] = FakeServer(silent={"connect"})
    result = run("topology", "check", tiny.APP)
    assert result.exit_code == 1
    assert result.stderr == "minuet: cannot connect to fake://one: it did not answer within 0.05 s\n"


def test_nothing_is_made_anywhere_while_one_of_them_is_away(
    run: Minuet, servers: dict[str, FakeServer], settings: Any
) -> None:
    settings({"wishes": PLACE, "granted": "fake://two", "*": "fake://three"})
    servers["two"], servers["three"] = FakeServer(is_up=False), FakeServer(is_up=False)
    result = run("topology", "apply", tiny.APP)
    assert result.exit_code == 1
    assert "cannot connect to fake://two" in result.stderr
    assert "cannot connect to fake://three" in result.stderr
    assert not servers["one"].called("declare")
    servers["two"].is_up = servers["three"].is_up = True
    applied = run("topology", "apply", tiny.APP)
    assert applied.exit_code == 0
    assert [line.split()[0] for line in applied.stdout.splitlines() if line.startswith("fake:")] == [
        "fake://one",
        "fake://three",
        "fake://two",
    ]
    assert servers["one"].queues.keys() == {"fairy", "press", "orchestrator"}  # who hears of wishes
    assert servers["two"].queues.keys() == {"people"}


def test_a_broker_that_refuses_is_named(run: Minuet, servers: dict[str, FakeServer], settings: Any) -> None:
    servers["one"] = FakeServer(faults={"declare": [ConfigurationError("access to topic x.wishes is denied")]})
    result = run("topology", "apply", tiny.APP)
    assert result.exit_code == 1
    assert result.stderr == "minuet: fake://one: access to topic x.wishes is denied\n"


def test_a_broker_that_does_not_want_us_is_named(run: Minuet, servers: dict[str, FakeServer], settings: Any) -> None:
    servers["one"] = FakeServer(faults={"connect": [ConfigurationError("fake://one: the password is wrong")]})
    result = run("topology", "check", tiny.APP)
    assert result.exit_code == 1
    assert result.stderr == "minuet: fake://one: the password is wrong\n"


def test_a_connection_that_is_lost_meanwhile_is_made_again(
    run: Minuet, servers: dict[str, FakeServer], settings: Any
) -> None:
    servers["one"] = FakeServer(faults={"declare": [Disconnected("reset")]})
    result = run("topology", "apply", tiny.APP)
    assert result.exit_code == 0, result.stderr
    assert servers["one"].queues.keys() == GROUPS


def test_what_stays_different_is_told_and_ends_with_1(
    run: Minuet, servers: dict[str, FakeServer], settings: Any
) -> None:
    settings({"*": "stubborn://user:s3cret@one"})
    result = run("topology", "apply", tiny.APP)
    assert result.exit_code == 1
    made, _, rest = result.stdout.partition("stubborn://one  still different, and not for minuet to change:\n")
    assert "there is no queue fairy" in made
    assert "partition" not in made
    assert rest == "  topic wishes has 1 partition instead of 6\n"
    told = run("topology", "apply", tiny.APP, "--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout)["ok"] is False
    assert json.loads(told.stdout)["brokers"][0]["missing"] == ["topic wishes has 1 partition instead of 6"]


@pytest.mark.parametrize("command", ["show", "check", "apply"])
def test_a_setting_that_fits_nothing_is_told_in_one_line(run: Minuet, settings: Any, command: str) -> None:
    settings({"*": "mqtt://user:s3cret@host"})
    result = run("topology", command, tiny.APP)
    assert result.exit_code == 1
    assert '"mqtt:..." is none of embedded:' in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "s3cret" not in result.output


@pytest.mark.parametrize("command", ["show", "check", "apply"])
def test_every_command_has_an_example_and_speaks_json(run: Minuet, command: str) -> None:
    said = " ".join(run("topology", command, "--help").stdout.split())
    assert f"Example: minuet topology {command} minuet_shop:app" in said
    assert "--json" in said


def test_the_reference_system_publishes_nothing_that_is_nobodys(run: Minuet) -> None:
    channels = json.loads(run("topology", "show", "minuet_shop:app", "--json").stdout)["channels"]
    silent = [one["channel"] for one in channels if one["events"] and not one["publishes"]]
    assert silent == []
    priced = next(one for one in channels if one["channel"] == "orders.priced")
    assert priced["publishes"] == ["orders"]  # returned together with an answer
