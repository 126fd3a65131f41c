"""Schemas on PostgreSQL: how they come about, who may be asked to, and what is refused."""

import asyncio
from collections.abc import Iterator

import pytest
import sqlalchemy

from minuet.adapters.postgres import migrate, migrations, pending
from minuet.adapters.postgres.connection import Address
from minuet.core.errors import ConfigurationError
from minuet.ports import Entry
from minuet.testing.store_contract.examples import adding, an_envelope, finding
from tests.contract.postgres_server import fresh_schema, opening, query

pytestmark = pytest.mark.server

ALL = [one.name for one in migrations.known()]


@pytest.fixture
def schema_name(postgres_url: str) -> Iterator[str]:
    with fresh_schema(postgres_url) as name:
        yield name


async def test_what_is_missing_is_applied_once(postgres_url: str, schema_name: str) -> None:
    assert ALL
    assert await pending(postgres_url, schema_name) == ALL
    assert await migrate(postgres_url, schema_name) == ALL
    assert await pending(postgres_url, schema_name) == []
    assert await migrate(postgres_url, schema_name) == []
    assert [name for (name,) in query(postgres_url, "SELECT name FROM minuet_migrations", schema_name)] == ALL


async def test_several_at_once_apply_it_once(postgres_url: str, schema_name: str) -> None:
    applied = await asyncio.gather(*(migrate(postgres_url, schema_name) for _ in range(4)))
    assert sorted(map(len, applied)) == [0, 0, 0, len(ALL)]
    stores = [opening(postgres_url, schema_name) for _ in range(3)]
    await asyncio.gather(*(store.start() for store in stores))
    await asyncio.gather(*(store.close() for store in stores))


async def test_without_provisioning_a_schema_that_lacks_something_is_refused(
    postgres_url: str, schema_name: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"lacks {ALL[0]}.*minuet store migrate"):
        await opening(postgres_url, schema_name, provision=False).start()
    assert not query(postgres_url, f"SELECT FROM pg_namespace WHERE nspname = '{schema_name}'")
    schema = "CREATE TABLE IF NOT EXISTS own (id TEXT)"
    await migrate(postgres_url, schema_name, schema=schema)
    store = opening(postgres_url, schema_name, provision=False)
    await store.start()
    await store.transact(adding("a"))
    await store.close()
    assert query(postgres_url, "SELECT * FROM own", schema_name) == []


async def test_a_schema_of_a_newer_version_is_refused(postgres_url: str, schema_name: str) -> None:
    await migrate(postgres_url, schema_name)
    query(postgres_url, "INSERT INTO minuet_migrations VALUES ('9999_future', 'x')", schema_name)
    for provision in (True, False):
        with pytest.raises(ConfigurationError, match=r"newer minuet \(9999_future\); update minuet"):
            await opening(postgres_url, schema_name, provision=provision).start()


async def test_a_migration_that_was_another_one_is_refused(postgres_url: str, schema_name: str) -> None:
    await migrate(postgres_url, schema_name)
    query(postgres_url, "UPDATE minuet_migrations SET checksum = 'x'", schema_name)
    with pytest.raises(ConfigurationError, match=rf"what was applied as {ALL[0]} is not"):
        await opening(postgres_url, schema_name).start()


async def test_a_schema_that_cannot_be_applied_leaves_nothing(postgres_url: str, schema_name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be created: .*TABEL"):
        await opening(postgres_url, schema_name, schema="CREATE TABEL x (y)").start()
    assert not query(postgres_url, f"SELECT FROM pg_namespace WHERE nspname = '{schema_name}'")


async def test_own_tables_are_created_in_the_schema_if_they_are_missing(postgres_url: str, schema_name: str) -> None:
    metadata = sqlalchemy.MetaData()
    sqlalchemy.Table("own", metadata, sqlalchemy.Column("id", sqlalchemy.Text, primary_key=True))
    for _ in range(2):
        store = opening(postgres_url, schema_name, schema=metadata)
        await store.start()
        await store.close()
    assert query(postgres_url, "SELECT * FROM own", schema_name) == []


async def test_a_user_who_may_not_create_is_told(postgres_url: str, schema_name: str) -> None:
    role = f"role_{schema_name.removeprefix('test-')}"
    query(postgres_url, f"CREATE ROLE {role} LOGIN PASSWORD 's3cret'")
    try:
        poor = postgres_url.replace("postgres@", f"{role}:s3cret@")
        with pytest.raises(ConfigurationError, match="permission denied") as caught:
            await opening(poor, schema_name).start()
        assert "s3cret" not in str(caught.value)
        await migrate(postgres_url, schema_name)
        query(postgres_url, f'GRANT USAGE ON SCHEMA "{schema_name}" TO {role}')
        with pytest.raises(ConfigurationError, match="may not be used: permission denied"):
            await opening(poor, schema_name, provision=False).start()
        query(
            postgres_url,
            f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{schema_name}" TO {role}',
        )
        store = opening(poor, schema_name, provision=False)
        await store.start()
        await store.transact(adding("a"))
        await store.close()
    finally:
        query(postgres_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("name", ["", "pg_mine", "x" * 64, "a\0b"])
def test_what_cannot_be_a_schemas_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name of a PostgreSQL schema"):
        opening("postgresql://localhost/x", name)


@pytest.mark.parametrize("name", ["Inventory", "with space", 'quo"te', "drop table;--", "\u00e9\u4e2d", "x" * 63])
async def test_any_other_name_will_do(postgres_url: str, name: str) -> None:
    try:
        store = opening(postgres_url, name)
        await store.start()
        await store.transact(adding("a"))
        assert await store.transact(finding("a"))
        await store.close()
    finally:
        quoted = name.replace('"', '""')
        query(postgres_url, f'DROP SCHEMA IF EXISTS "{quoted}" CASCADE')


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:s3cret@host/x",
        "postgresql+psycopg://user:s3cret@host/x",
        "postgresql://user:s3cret@host/x?s3cret",
        "postgresql://user:s3cret@[host/x",
        "postgresql://user:s3cret%zz@host/x",
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="postgresql://user:password@host") as caught:
        Address(url)
    assert "s3cret" not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_an_address_shows_no_password() -> None:
    address = Address("postgresql://user:s3cret@host:1234/orders?sslmode=require&password=s3cret")
    assert repr(address) == "Address(postgresql://host:1234/orders)"


async def test_an_empty_character_is_kept(postgres_url: str, schema_name: str) -> None:
    store = opening(postgres_url, schema_name)
    await store.start()
    names = ["a\0b", "a\u2400b", "a\u24000b", "a\u2400.b"]
    for name in names:
        entry = Entry(key=name, handler="h", envelope=an_envelope(name), error=f"bad {name}", waits_for=name)
        assert await store.transact(lambda tx, entry=entry: tx.inbox.add(entry))  # type: ignore[misc]
        assert await store.transact(finding(name)) == entry
    await store.close()
