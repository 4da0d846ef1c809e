"""Runs transactions of SQLite, makes a file's schema, and words its errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kateway.errors import ConfigError


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits at the end of the block; an exception in it, or in the commit, leaves everything as it was."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # a full disk has rolled back already
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def make_schema(connection: sqlite3.Connection, schema: str, version: int, path: Path, where: str) -> None:
    """Makes the tables of a file that is new. ``ConfigError`` where it is a newer kateway's; ``where`` names the option
    that led to it.
    """
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > version:
        raise ConfigError([f"{where}: {path} is a newer kateway's (schema {found}, this one knows {version})"])
    if found == 0:
        with transaction(connection):
            for statement in schema.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version}")


def words(error: sqlite3.Error) -> str:
    """Names an error as SQLite does, for a person."""
    return f"{error} ({getattr(error, 'sqlite_errorname', 'SQLite')})"
