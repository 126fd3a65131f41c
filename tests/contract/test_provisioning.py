"""Topology and tables made beforehand, on real servers: who may make them, and what runs without the right to."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aio_pika
import nats
import pytest
from nats.js import JetStreamContext
from typer.testing import CliRunner, Result

from minuet import Settings, running
from minuet.bootstrap.tables import migrate_stores
from minuet.bootstrap.topology import apply_topology
from minuet.cli.main import app as minuet
from minuet.core.coordinator import Status
from minuet.core.errors import ConfigurationError
from tests.acceptance.processes import MINUET
from tests.contract.postgres_server import query
from tests.faults import FaultProxy
from tests.servers import server_url
from tests.unit.cli import tiny

pytestmark = [pytest.mark.server, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
GROUPS = ["people", "fairy", "press", "orchestrator"]
READY_S = 60.0
TOLD_S_MAX = 25.0  # with a busy machine in mind; a start would take longer than that to give up
T = TypeVar("T")

Minuet = Callable[..., Result]


@pytest.fixture
def name() -> str:
    """Of what this test makes on servers that it shares with others."""
    return f"test-{uuid.uuid4().hex[:16]}"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Minuet:
    """Run `minuet` with these arguments in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    return lambda *arguments: CliRunner().invoke(minuet, [str(one) for one in arguments])


@pytest.fixture
def database(postgres_url: str, name: str) -> Iterator[str]:
    """The URL of a database of this test's own: a service's schema has the service's name."""
    query(postgres_url, f'CREATE DATABASE "{name}" ENCODING UTF8 TEMPLATE template0')
    try:
        yield urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
    finally:
        query(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def stream(nats_url: str, name: str) -> Iterator[str]:
    """The URL of a stream of this test's own, which is not there yet."""
    yield f"{nats_url}/{name}"
    asyncio.run(with_jetstream(nats_url, lambda jetstream: _forgotten(jetstream, name)))


@pytest.fixture
def exchange(rabbitmq_url: str, name: str) -> Iterator[str]:
    """The URL of an exchange of this test's own, and of queues with a name of their own; they are not there yet."""
    yield f"{rabbitmq_url}/{name}?prefix={name}."
    asyncio.run(with_rabbitmq(rabbitmq_url, lambda channel: _forgotten_on_rabbitmq(channel, name)))


async def with_jetstream(url: str, work: Callable[[JetStreamContext], Awaitable[T]]) -> T:
    client = await nats.connect(url)
    try:
        return await work(client.jetstream())
    finally:
        await client.close()


async def with_rabbitmq(url: str, work: Callable[[Any], Awaitable[T]]) -> T:
    async with await aio_pika.connect(url) as connection:
        return await work(await connection.channel())


async def _forgotten(jetstream: JetStreamContext, name: str) -> None:
    if name in await _streams(jetstream):
        await jetstream.delete_stream(name)


async def _streams(jetstream: JetStreamContext) -> list[str]:
    return [info.config.name or "" for info in await jetstream.streams_info()]


async def _forgotten_on_rabbitmq(channel: Any, name: str) -> None:
    for group in GROUPS:
        await channel.queue_delete(f"{name}.{group}")
    await channel.exchange_delete(name)


def settings_file(folder: Path, **tables: Mapping[str, str] | bool) -> None:
    """A ``minuet.toml`` there."""
    lines = [f"{name} = {str(value).lower()}" for name, value in tables.items() if isinstance(value, bool)]
    for name, table in tables.items():
        if isinstance(table, Mapping):
            lines += [f"[{name}]", *(f'"{key}" = "{value}"' for key, value in table.items())]
    (folder / "minuet.toml").write_text("\n".join(lines) + "\n")


def brokers(result: Result, exit_code: int) -> dict[str, Any]:
    """What was said of each broker, by its scheme."""
    assert result.exit_code == exit_code, result.output
    facts = json.loads(result.stdout)
    assert facts["ok"] is (exit_code == 0)
    return {one["broker"].partition(":")[0]: one for one in facts["brokers"]}


# -- brokers -----------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_told_then_made_then_there(
    run: Minuet, tmp_path: Path, stream: str, exchange: str, nats_url: str, name: str
) -> None:
    settings_file(tmp_path, channels={"wishes": exchange, "*": stream}, provision=False)
    before = brokers(run("topology", "check", tiny.APP, "--json"), 1)
    assert before["nats"]["missing"] == [f"there is no stream {name}"]
    assert [one.partition(" is missing")[0] for one in before["amqp"]["missing"]] == [
        f"exchange {name}",
        *(f"queue {name}.{group}" for group in ("fairy", "press", "orchestrator")),
    ]
    assert name not in asyncio.run(with_jetstream(nats_url, _streams))

    made = brokers(run("topology", "apply", tiny.APP, "--json"), 0)
    assert made["nats"]["made"] == [
        f"there is no stream {name}",
        f"stream {name} has no consumer minuet-people",
        f"stream {name} has no consumer minuet-fairy",  # which wants to hear of sagas that are cancelled
        f"stream {name} has no consumer minuet-press",  # and that one of what operators say
    ]
    assert made["amqp"]["made"] == before["amqp"]["missing"]
    assert made["nats"]["groups"] == ["people", "fairy", "press"]
    assert made["amqp"]["groups"] == ["fairy", "press", "orchestrator"]
    assert made["amqp"]["destinations"] == [f"{name}/wishes"]

    assert all(one["missing"] == [] for one in brokers(run("topology", "check", tiny.APP, "--json"), 0).values())
    assert all(one["made"] == [] for one in brokers(run("topology", "apply", tiny.APP, "--json"), 0).values())
    assert run("topology", "apply", tiny.APP).stdout.count("everything was there") == 2


def test_what_somebody_took_away_or_changed_is_told_and_mended(
    run: Minuet, tmp_path: Path, stream: str, exchange: str, nats_url: str, rabbitmq_url: str, name: str
) -> None:
    settings_file(tmp_path, channels={"wishes": exchange, "*": stream})
    brokers(run("topology", "apply", tiny.APP, "--json"), 0)

    async def narrow(jetstream: JetStreamContext) -> None:
        found = await jetstream.consumer_info(name, "minuet-people")
        changed = replace(found.config, ack_wait=7, filter_subject=f"{name}.elsewhere", filter_subjects=None)
        await jetstream.add_consumer(name, changed)

    asyncio.run(with_rabbitmq(rabbitmq_url, lambda channel: channel.queue_delete(f"{name}.press")))
    asyncio.run(with_jetstream(nats_url, lambda jetstream: jetstream.delete_consumer(name, "minuet-people")))
    missing = brokers(run("topology", "check", tiny.APP, "--json"), 1)
    assert missing["nats"]["missing"] == [f"stream {name} has no consumer minuet-people"]
    assert [one.partition(" is missing")[0] for one in missing["amqp"]["missing"]] == [f"queue {name}.press"]
    brokers(run("topology", "apply", tiny.APP, "--json"), 0)
    asyncio.run(with_jetstream(nats_url, narrow))
    different = brokers(run("topology", "check", tiny.APP, "--json"), 1)["nats"]["missing"]
    assert any(f"consumer minuet-people listens to {name}.elsewhere, not to" in one for one in different)
    assert any("ack_wait 7" in one for one in different)
    assert brokers(run("topology", "apply", tiny.APP, "--json"), 0)["nats"]["made"] == different
    brokers(run("topology", "check", tiny.APP, "--json"), 0)


def test_what_cannot_be_used_at_all_is_refused_by_name(
    run: Minuet, tmp_path: Path, stream: str, nats_url: str, name: str
) -> None:
    async def in_memory(jetstream: JetStreamContext) -> None:
        await jetstream.add_stream(name=name, subjects=[f"{name}.>"], storage="memory")

    asyncio.run(with_jetstream(nats_url, in_memory))
    settings_file(tmp_path, channels={"*": stream})
    checked = brokers(run("topology", "check", tiny.APP, "--json"), 1)
    assert f"stream {name} cannot be used: it is kept in memory" in checked["nats"]["missing"]
    refused = run("topology", "apply", tiny.APP)
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"minuet: {nats_url}/{name}: stream {name} cannot be used")


@pytest.mark.parametrize(
    ("server", "place"),
    [
        ("kafka", "{url}/{name}.{{channel}}"),
        ("rabbitmq", "{url}/{name}?prefix={name}.&queue=quorum"),
        ("redis", "{url}?prefix={name}:"),
        ("aws", "sns://arn:aws:sns:us-east-1:123456789012:{name}-{{channel}}?endpoint={url}&filter=types"),
    ],
    ids=["kafka", "rabbitmq", "redis", "aws"],
)
def test_every_broker_is_compared_and_made_the_same_way(
    run: Minuet, tmp_path: Path, name: str, server: str, place: str
) -> None:
    settings_file(tmp_path, channels={"*": place.format(url=server_url(server), name=name)})
    (before,) = brokers(run("topology", "check", tiny.APP, "--json"), 1).values()
    (made,) = brokers(run("topology", "apply", tiny.APP, "--json"), 0).values()
    (after,) = brokers(run("topology", "check", tiny.APP, "--json"), 0).values()
    (again,) = brokers(run("topology", "apply", tiny.APP, "--json"), 0).values()
    assert before["missing"]
    assert set(made["made"]) >= set(before["missing"])
    assert after["missing"] == again["made"] == []
    assert after["groups"] == GROUPS


# -- stores ------------------------------------------------------------------------------------------------------------


def test_each_service_gets_a_schema_with_its_tables(run: Minuet, tmp_path: Path, database: str) -> None:
    settings_file(tmp_path, stores={"default": database}, provision=False)
    pending = run("store", "check", "minuet_shop:app", "--json")
    assert pending.exit_code == 1
    wanted = {one["service"]: one["pending"] for one in json.loads(pending.stdout)["stores"]}
    assert wanted["payment"][-1] == "table payments"
    assert not query(database, "SELECT FROM pg_namespace WHERE nspname = 'payment'")

    alone = run("store", "migrate", "minuet_shop:app", "--service", "payment", "--json")
    (payment,) = json.loads(alone.stdout)["stores"]
    assert payment["applied"] == wanted["payment"]
    assert payment["store"].endswith(f"{urlsplit(database).path} schema payment")
    assert not query(database, "SELECT FROM pg_namespace WHERE nspname = 'orders'")

    rest = run("store", "migrate", "minuet_shop:app", "--json")
    applied = {one["service"]: one["applied"] for one in json.loads(rest.stdout)["stores"]}
    assert applied == wanted | {"payment": []}
    assert query(database, "SELECT * FROM payments", "payment") == []
    assert run("store", "check", "minuet_shop:app").exit_code == 0

    query(database, "DROP TABLE payments", "payment")
    checked = run("store", "check", "minuet_shop:app", "--json")
    assert checked.exit_code == 1
    assert [one["pending"] for one in json.loads(checked.stdout)["stores"] if one["pending"]] == [["table payments"]]


def test_who_may_not_create_tables_is_told(run: Minuet, tmp_path: Path, database: str, name: str) -> None:
    with_role = poor(database, name)
    try:
        settings_file(tmp_path, stores={"default": with_role})
        result = run("store", "migrate", tiny.APP)
        assert result.exit_code == 1
        assert result.stderr.startswith("minuet: the tables in schema people cannot be created: permission denied")
        assert "s3cret" not in result.output
    finally:
        forget_role(database, name)


def poor(database: str, name: str) -> str:
    """The URL for a new role that may do nothing yet."""
    query(database, f"""CREATE ROLE "{name}" LOGIN PASSWORD 's3cret'""")
    parts = urlsplit(database)
    return parts._replace(netloc=f"{name}:s3cret@{parts.netloc.rpartition('@')[2]}").geturl()


def forget_role(database: str, name: str) -> None:
    query(database, f'DROP OWNED BY "{name}"; DROP ROLE "{name}"')


def grant(database: str, role: str) -> None:
    """What docs/deployment.md says that services need."""
    for schema in GROUPS:
        query(
            database,
            f'GRANT USAGE ON SCHEMA "{schema}" TO "{role}"; '
            f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{schema}" TO "{role}"',
        )


# -- running without the right to make anything ------------------------------------------------------------------------


async def test_a_role_that_may_not_create_runs_what_an_admin_has_made(
    tmp_path: Path, database: str, nats_url: str, name: str
) -> None:
    role_url = poor(database, name)
    place = {"*": f"{nats_url}/{name}"}

    def settings(url: str) -> Settings:
        return Settings(data=tmp_path / "data", stores={"default": url}, channels=place, provision=False)

    try:
        await refused(settings(role_url), r"lacks 0001_tables.*`minuet store migrate`")
        await migrate_stores(tiny.app, settings(database))
        await refused(settings(role_url), r"schema people at .* may not be used: permission denied")
        grant(database, name)
        await refused(settings(role_url), rf"/{name} is not as it has to be: there is no stream .*`minuet topology app")
        await apply_topology(tiny.app, settings(database))
        async with running(tiny.app, settings(role_url)) as system:
            await system.send(tiny.Wish(wish_id="w-1", text="a pony"))
            async with asyncio.timeout(READY_S):
                assert await system.ended("Wishes", "w-1") is Status.COMPLETED
                await system.drained()
        assert query(database, "SELECT count(*) FROM minuet_inbox", "fairy") == [(1,)]
    finally:
        forget_role(database, name)
        await with_jetstream(nats_url, lambda jetstream: _forgotten(jetstream, name))


async def refused(settings: Settings, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        async with running(tiny.app, settings):
            pass
    assert "s3cret" not in str(caught.value)


def test_a_start_without_provisioning_says_what_to_do_first(
    run: Minuet, tmp_path: Path, database: str, stream: str, name: str
) -> None:
    settings_file(tmp_path, stores={"default": database}, channels={"*": stream}, provision=False)
    lacks = r"minuet: schema people at .* lacks 0001_tables, 0002_audit, 0003_instructions; run `minuet store migrate`"
    assert re.search(lacks, start(tmp_path))
    assert run("store", "migrate", tiny.APP).exit_code == 0
    said = start(tmp_path)
    assert f"there is no stream {name}. `minuet topology apply` makes it so" in said
    assert "Traceback" not in said
    assert run("topology", "apply", tiny.APP, "--service", "people").exit_code == 0
    assert f"stream {name} has no consumer minuet-fairy" in start(tmp_path)
    assert run("topology", "apply", tiny.APP).exit_code == 0
    assert start(tmp_path) == ""


def start(folder: Path) -> str:
    """Run the tiny app as a process; what it says was wrong, or nothing once it was ready and was stopped."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [MINUET, "run", tiny.APP, "--port", "0", "--json"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment, cwd=folder,
    )  # fmt: skip
    try:
        assert process.stdout
        ready = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=READY_S)
    finally:
        process.kill()
        process.wait()
    assert bool(ready) == (process.returncode == 0)
    return errors


# -- servers that are away ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["refuse", "black_hole"])
@pytest.mark.parametrize("server", ["nats", "rabbitmq", "postgres"])
def test_a_server_that_is_away_is_told_within_seconds(run: Minuet, tmp_path: Path, server: str, fault: str) -> None:
    parts = urlsplit(server_url(server))
    with FaultProxy(parts.hostname or "", parts.port or 0) as proxy:
        url = parts._replace(netloc=f"user:s3cret@{proxy.host}:{proxy.port}").geturl()
        places = {"stores": {"default": url}} if server == "postgres" else {"channels": {"*": url}}
        settings_file(tmp_path, **places)
        getattr(proxy, fault)()
        began = time.monotonic()
        result = run(*(("store", "check") if server == "postgres" else ("topology", "apply")), tiny.APP)
        took_s = time.monotonic() - began
    assert result.exit_code == 1
    assert f"{parts.scheme}://{proxy.host}:{proxy.port}" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "s3cret" not in result.output
    assert took_s < TOLD_S_MAX
