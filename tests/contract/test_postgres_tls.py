"""PostgreSQL behind TLS and a password, as libpq's URL says; and what errors say of it."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.servers.base import Server
from minuet.adapters.postgres import Limits, migrate
from minuet.core.errors import ConfigurationError
from minuet.testing.store_contract.examples import adding, found
from tests.contract.postgres_server import PATIENCE_S, opening, query
from tests.servers import private_server

pytestmark = pytest.mark.server

PASSWORD = "s3cret p@ss:/?#%"
IN_URL = "s3cret%20p%40ss%3A%2F%3F%23%25"
HASTY = Limits(patience_s=0.3, connect_s=2)
RULES = """
host    all postgres 127.0.0.1/32 trust
hostssl all shop     127.0.0.1/32 scram-sha-256
"""


@pytest.fixture
def server(servers_path: Path, tmp_path: Path) -> Iterator[Server]:
    with private_server("postgres", servers_path / "postgres") as server:
        query(server.url, f"CREATE ROLE shop LOGIN PASSWORD '{PASSWORD}'")
        query(server.url, "GRANT CREATE ON DATABASE postgres TO shop")
        data = server.folder / "data"
        _make_certificate(tmp_path, data)
        (data / "pg_hba.conf").write_text(RULES)
        query(server.url, "ALTER SYSTEM SET ssl = on")
        server.stop()
        server.start()
        yield server


def _make_certificate(folder: Path, data: Path) -> None:
    """For 127.0.0.1, signed by itself."""
    key, certificate = folder / "server.key", folder / "server.crt"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    out = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *out],
        check=True,
        capture_output=True,
    )
    owner = data.stat()
    for made in (key, certificate):
        copy = data / made.name
        shutil.copy(made, copy)
        copy.chmod(0o600)
        os.chown(copy, owner.st_uid, owner.st_gid)


def url_of(server: Server, password: str = IN_URL, mode: str = "verify-full", root: str | None = None) -> str:
    root = root if root is not None else str(server.folder / "data" / "server.crt")
    return f"postgresql://shop:{password}@127.0.0.1:{server.port}/postgres?sslmode={mode}&sslrootcert={root}"


async def test_the_server_is_checked_and_the_password_is_read(server: Server) -> None:
    store = opening(url_of(server), "checked")
    listens = asyncio.Event()
    store.disturbed = listens.set
    await store.start()
    await asyncio.wait_for(listens.wait(), PATIENCE_S)
    await store.transact(adding("a"))
    await found(store, "a")
    encrypted = query(
        server.url,
        """SELECT bool_and(ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE application_name LIKE 'minuet checked%'""",
    )
    await store.close()
    assert encrypted == [(True, 2)]


@pytest.mark.parametrize("case", ["wrong password", "no TLS", "unknown authority"])
async def test_what_does_not_let_us_in_is_told_without_the_password(server: Server, case: str) -> None:
    url = {
        "wrong password": url_of(server, password="other-s3cret"),
        "no TLS": url_of(server, mode="disable"),
        "unknown authority": url_of(server, root="/nowhere.crt"),
    }[case]
    for attempt in (opening(url, "refused", limits=HASTY).start, lambda: migrate(url, "refused")):
        with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:\d+/postgres cannot be") as caught:
            await attempt()
        said = "".join(map(repr, (caught.value, caught.value.__cause__)))
        assert "s3cret" not in said
        assert "p@ss" not in said
