"""Creates our tables, and refuses a file that a newer minuet has changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from importlib import resources

from minuet.core.errors import ConfigurationError

VERSIONS = {"schema.sql": 4, "broker.sql": 1}
"""Of each file of tables; ``schema.2.sql`` turns version 1 of ``schema.sql`` into version 2, and so on."""
META = "CREATE TABLE IF NOT EXISTS minuet_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"


def install(connection: sqlite3.Connection, file: str) -> None:
    """Create the tables of this SQL file of ours, unless they are there.

    Raises:
        ConfigurationError: the database was made by a newer version.
    """
    connection.execute(META)
    found = connection.execute("SELECT value FROM minuet_meta WHERE name = ?", (file,)).fetchone()
    newest = VERSIONS[file]
    if found is None:
        run_script(connection, _text(file))
        connection.execute("INSERT INTO minuet_meta VALUES (?, ?)", (file, str(newest)))
    elif int(found[0]) > newest:
        ((_, _, path), *_) = connection.execute("PRAGMA database_list").fetchall()
        raise ConfigurationError(
            f"{path} has version {found[0]} of {file}, and this minuet knows {newest}; "
            f"update minuet, or use another file"
        )
    elif int(found[0]) < newest:
        for version in range(int(found[0]) + 1, newest + 1):
            run_script(connection, _text(file.replace(".sql", f".{version}.sql")))
        connection.execute("UPDATE minuet_meta SET value = ? WHERE name = ?", (str(newest), file))


def _text(file: str) -> str:
    return resources.files(__package__).joinpath(file).read_text("utf-8")


def run_script(connection: sqlite3.Connection, script: str) -> None:
    """Run SQL statements within the transaction (``executescript`` would commit it)."""
    for statement in statements_of(script):
        connection.execute(statement)


def statements_of(script: str) -> Iterator[str]:
    """Split at semicolons that end a statement; those in strings, comments and triggers do not."""
    statement = ""
    for part in script.split(";"):
        statement += part
        if sqlite3.complete_statement(statement + ";"):
            if statement.strip():
                yield statement.strip()
            statement = ""
        else:
            statement += ";"
    if without_comments(statement).strip():
        yield statement.strip()


def without_comments(rest: str) -> str:
    return "\n".join(line.partition("--")[0] for line in rest.splitlines()).strip(" \n\t;")
