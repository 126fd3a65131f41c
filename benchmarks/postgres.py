"""Databases on the benchmark's PostgreSQL server: a new one for each measurement."""

from __future__ import annotations

import os
import uuid
from urllib.parse import urlsplit, urlunsplit

import psycopg


def new_database() -> str:
    """Make one; its URL. The server is thrown away at the end, and its databases with it."""
    server = os.environ["POSTGRES_URL"]
    name = f"bench_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
