"""`minuet store` on SQLite: what is pending, what is applied, and that a check changes nothing."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from minuet import Settings, running
from minuet.adapters.sqlite.schema import VERSIONS
from minuet.bootstrap import tables
from minuet.bootstrap.tables import check_stores
from tests.unit.cli import tiny
from tests.unit.cli.conftest import Minuet

SHOP = "minuet_shop:app"
STORED = ["orders", "inventory", "payment", "shipping", "notifications", "orchestrator"]


def statement(file: Path, sql: str) -> None:
    connection = sqlite3.connect(file)
    with connection:
        connection.execute(sql)
    connection.close()


def told(run: Minuet, *arguments: object, exit_code: int = 0) -> dict[str, Any]:
    """What a command says of each service, in JSON."""
    result = run("store", *arguments, "--json")
    assert result.exit_code == exit_code, result.stderr
    facts = json.loads(result.stdout)
    if arguments[0] == "check":
        assert facts["ok"] is (exit_code == 0)
    return {one["service"]: one for one in facts["stores"]}


def test_a_check_says_what_is_pending_and_makes_nothing(run: Minuet, tmp_path: Path) -> None:
    found = told(run, "check", SHOP, "--data", tmp_path / "data", exit_code=1)
    assert list(found) == STORED
    assert found["inventory"] == {
        "service": "inventory",
        "store": str(tmp_path / "data" / "inventory.db"),
        "is_kept": True,
        "pending": ["minuet's tables", "table stock", "table reservations"],
    }
    assert found["orchestrator"]["pending"] == ["minuet's tables"]
    assert not (tmp_path / "data").exists()


def test_what_is_applied_is_told_once_and_then_is_there(run: Minuet, tmp_path: Path) -> None:
    data = ("--data", tmp_path / "data")
    pending = told(run, "check", SHOP, *data, exit_code=1)
    applied = told(run, "migrate", SHOP, *data)
    assert {name: one["applied"] for name, one in applied.items()} == {
        name: one["pending"] for name, one in pending.items()
    }
    before = sorted((tmp_path / "data").iterdir())
    assert all(one["pending"] == [] for one in told(run, "check", SHOP, *data).values())
    assert sorted((tmp_path / "data").iterdir()) == before
    assert all(one["applied"] == [] for one in told(run, "migrate", SHOP, *data).values())


def test_it_is_told_in_a_table(run: Minuet) -> None:
    checked, applied = run("store", "check", tiny.APP), run("store", "migrate", tiny.APP)
    assert (checked.exit_code, applied.exit_code) == (1, 0)
    assert [line.split()[0] for line in applied.stdout.splitlines() if ".db" in line] == [
        *("people", "fairy", "press", "orchestrator")
    ]
    assert "pending" in checked.stdout
    assert "minuet's tables" in checked.stdout
    assert "nothing: it was up to date" in run("store", "migrate", tiny.APP).stdout
    assert run("store", "check", tiny.APP).exit_code == 0


def test_one_service_alone(run: Minuet, tmp_path: Path) -> None:
    told(run, "migrate", SHOP, "--service", "payment", "--service", "orders", "--data", tmp_path)
    assert {file.name for file in tmp_path.glob("*.db")} == {"payment.db", "orders.db"}
    found = told(run, "check", SHOP, "--data", tmp_path, exit_code=1)
    assert [name for name, one in found.items() if not one["pending"]] == ["orders", "payment"]


def test_a_service_that_there_is_not_is_told(run: Minuet) -> None:
    result = run("store", "migrate", tiny.APP, "--service", "bakery")
    assert result.exit_code == 1
    assert result.stderr == "minuet: app tiny has no service 'bakery'; it has people, fairy, press, orchestrator\n"


def test_a_service_without_handlers_has_no_tables(run: Minuet) -> None:
    result = run("store", "migrate", SHOP, "--service", "sandbox")
    assert (result.exit_code, result.stdout) == (0, "none of these services has tables\n")


def test_a_table_that_is_gone_is_pending_and_made_again(run: Minuet, tmp_path: Path) -> None:
    told(run, "migrate", SHOP, "--data", tmp_path)
    statement(tmp_path / "payment.db", "DROP TABLE payments")
    assert told(run, "check", SHOP, "--data", tmp_path, exit_code=1)["payment"]["pending"] == ["table payments"]
    assert told(run, "migrate", SHOP, "--data", tmp_path)["payment"]["applied"] == ["table payments"]
    told(run, "check", SHOP, "--data", tmp_path)


def test_a_file_of_an_earlier_version_has_something_pending(run: Minuet, tmp_path: Path) -> None:
    told(run, "migrate", tiny.APP, "--data", tmp_path)
    newest = VERSIONS["schema.sql"]
    statement(tmp_path / "fairy.db", f"UPDATE minuet_meta SET value = '{newest - 1}' WHERE name = 'schema.sql'")
    pending = told(run, "check", tiny.APP, "--data", tmp_path, exit_code=1)["fairy"]["pending"]
    assert pending == [f"minuet's tables, version {newest}"]


def test_a_file_of_a_later_version_is_refused(run: Minuet, tmp_path: Path) -> None:
    told(run, "migrate", tiny.APP, "--data", tmp_path)
    statement(tmp_path / "fairy.db", "UPDATE minuet_meta SET value = '99' WHERE name = 'schema.sql'")
    for command in ("check", "migrate"):
        result = run("store", command, tiny.APP, "--data", tmp_path)
        assert result.exit_code == 1
        assert f"{tmp_path / 'fairy.db'} has version 99 of minuet's tables, and this minuet knows" in result.stderr


def test_what_is_no_database_is_refused(run: Minuet, tmp_path: Path) -> None:
    (tmp_path / "people.db").write_text("no database, but long enough to be taken for one " * 100)
    result = run("store", "check", tiny.APP, "--data", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path / 'people.db'} cannot be read: file is not a database" in result.stderr


async def test_a_check_may_look_while_a_service_writes(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    async with running(tiny.app, settings) as system:
        await system.send(tiny.Wish(wish_id="w-1", text="a pony"))
        assert (tmp_path / "people.db-wal").exists()
        assert not any(view.pending for view in await check_stores(tiny.app, settings))
        await system.send(tiny.Wish(wish_id="w-2", text="gold"))


def test_what_is_kept_in_memory_needs_nothing(run: Minuet, tmp_path: Path) -> None:
    (tmp_path / "minuet.toml").write_text('[stores]\ndefault = "memory:"\n')
    found = told(run, "check", tiny.APP)
    assert found["people"] == {"service": "people", "store": "memory:", "is_kept": False, "pending": []}
    assert "nothing: it is kept in memory" in run("store", "migrate", tiny.APP).stdout


@pytest.mark.parametrize("command", ["check", "migrate"])
def test_a_database_that_is_away_is_told_in_one_line_without_its_password(
    run: Minuet, tmp_path: Path, command: str
) -> None:
    (tmp_path / "minuet.toml").write_text('[stores]\ndefault = "postgresql://user:s3cret@127.0.0.1:1/db"\n')
    result = run("store", command, tiny.APP)
    assert result.exit_code == 1
    assert result.stderr.startswith("minuet: postgresql://127.0.0.1:1/db cannot be used: connection failed")
    assert len(result.stderr.splitlines()) == 1
    assert "s3cret" not in result.output


def test_a_setting_that_fits_nothing_is_told(run: Minuet, tmp_path: Path) -> None:
    (tmp_path / "minuet.toml").write_text('[stores]\ndefault = "mysql://user:s3cret@host/db"\n')
    result = run("store", "check", tiny.APP)
    assert result.exit_code == 1
    assert '[stores] people = "mysql:..." is none of sqlite:' in result.stderr
    assert "s3cret" not in result.output


def test_tables_are_found_in_sql_and_in_metadata() -> None:
    sql = """
        -- CREATE TABLE commented (id TEXT);
        CREATE TABLE IF NOT EXISTS Stock (item TEXT PRIMARY KEY); /* CREATE TABLE out (id TEXT); */
        create table "Odd name" (id TEXT);
        CREATE INDEX IF NOT EXISTS by_item ON Stock (item);
    """
    assert tables._missing(sql, []) == ["table Stock", "table Odd name"]
    assert tables._missing(sql, ["stock"]) == ["table Odd name"]  # as PostgreSQL keeps it
    metadata = sqlalchemy.MetaData()
    sqlalchemy.Table("own", metadata, sqlalchemy.Column("id", sqlalchemy.Text))
    assert tables._missing(metadata, []) == ["table own"]
    assert tables._missing("", []) == tables._missing(None, []) == []


def test_the_version_that_is_asked_for_is_one_that_sqlite_keeps() -> None:
    assert tables.SQLITE_SCHEMA in VERSIONS


@pytest.mark.parametrize("command", ["check", "migrate"])
def test_every_command_has_an_example_and_speaks_json(run: Minuet, command: str) -> None:
    said = " ".join(run("store", command, "--help").stdout.split())
    assert f"Example: minuet store {command} minuet_shop:app" in said
    assert "--json" in said
