"""Which store a setting means for a service, and what is said of one that means none."""

import sys
from pathlib import Path
from typing import Any

import pytest

from minuet.adapters.memory import MemoryStore
from minuet.adapters.postgres import PostgresStore
from minuet.adapters.sqlite import SqliteStore
from minuet.adapters.system import SystemIds
from minuet.bootstrap.stores import Stores
from minuet.core.errors import ConfigurationError
from minuet.settings import Settings


def stores(tmp_path: Path, given: dict[str, str] | None = None, **settings: Any) -> Stores:
    urls = {} if given is None else {"stores": given}
    return Stores(Settings(data=tmp_path / "data", **urls, **settings), SystemIds())


def refusal(tmp_path: Path, given: dict[str, str], service: str = "orders") -> str:
    with pytest.raises(ConfigurationError) as caught:
        stores(tmp_path, given).make(service, "")
    return str(caught.value)


async def opened(store: Any) -> None:
    await store.start()
    await store.close()


async def test_without_a_setting_it_is_a_file_in_the_data_folder(tmp_path: Path) -> None:
    made = stores(tmp_path)
    assert not made.is_there("orders")
    store = made.make("orders", "")
    assert isinstance(store, SqliteStore)
    await opened(store)
    assert (tmp_path / "data" / "orders.db").exists()
    assert made.is_there("orders")


async def test_a_file_elsewhere_is_named_for_the_service(tmp_path: Path) -> None:
    made = stores(tmp_path, {"default": f"sqlite:///{tmp_path}/elsewhere/{{service}}.db"})
    await opened(made.make("orders", ""))
    assert (tmp_path / "elsewhere" / "orders.db").exists()
    assert made.is_there("orders")
    assert not made.is_there("payment")


async def test_a_path_is_relative_unless_it_has_a_fourth_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    await opened(stores(tmp_path, {"orders": "sqlite:///here/my.db"}).make("orders", ""))
    assert (tmp_path / "here" / "my.db").exists()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_database_is_there_for_all_to_see_and_has_a_schema_for_each_service(tmp_path: Path, scheme: str) -> None:
    made = stores(tmp_path, {"default": f"{scheme}://user:s3cret@host/db"})
    assert isinstance(made.make("orders", ""), PostgresStore)
    assert made.is_there("orders")


def test_a_service_in_memory_is_never_there(tmp_path: Path) -> None:
    made = stores(tmp_path, {"default": "memory:"})
    assert isinstance(made.make("orders", ""), MemoryStore)
    assert not made.is_there("orders")


def test_a_services_own_setting_is_stronger_than_the_default(tmp_path: Path) -> None:
    made = stores(tmp_path, {"default": "memory:", "orders": "postgresql://host/db"})
    assert isinstance(made.make("orders", ""), PostgresStore)
    assert isinstance(made.make("payment", ""), MemoryStore)
    assert isinstance(stores(tmp_path, {"orders": "memory:"}).make("payment", ""), SqliteStore)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mysql://user:s3cret@host/db", "mysql:..."),
        ("postgresql+psycopg://user:s3cret@host/db", "postgresql+psycopg:..."),
        ("postgres:user:s3cret@host", "postgres:..."),
        ("memory", "memory:..."),
        ("sqlite", "sqlite:..."),
    ],
)
def test_what_is_no_store_is_told_without_its_password(tmp_path: Path, url: str, shown: str) -> None:
    said = refusal(tmp_path, {"orders": url})
    assert said == (
        f'settings: [stores] orders = "{shown}" is none of sqlite:, sqlite:///folder/{{service}}.db, postgresql://... '
        "and memory:"
    )


@pytest.mark.parametrize("url", ["sqlite:orders.db", "sqlite:/orders.db", "sqlite://orders.db", "sqlite:///"])
def test_a_path_without_its_three_slashes_is_told(tmp_path: Path, url: str) -> None:
    said = refusal(tmp_path, {"orders": url})
    assert f'[stores] orders = "{url}" is none of sqlite:, sqlite:///folder/{{service}}.db' in said


def test_one_file_for_all_services_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, {"default": "sqlite:///data/all.db"})
    assert "would be one file for all services" in said
    assert 'write {service} into it, for example "sqlite:///data/{service}.db"' in said


def test_a_name_that_cannot_be_a_schemas_is_told(tmp_path: Path) -> None:
    said = refusal(tmp_path, {"default": "postgresql://user:s3cret@host/db"}, service="pg_mine")
    assert "'pg_mine' cannot be the name of a PostgreSQL schema" in said


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = refusal(tmp_path, {"orders": f"sqlite:///{tmp_path}/file/orders.db"})
    assert f"cannot write in {tmp_path}/file" in said


def test_what_it_takes_is_told_where_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.startswith("minuet.adapters.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert refusal(tmp_path, {"default": "postgresql://user:s3cret@host/db"}) == (
        'settings: [stores] orders needs psycopg, which is not installed: pip install "minuet[postgres]"'
    )
