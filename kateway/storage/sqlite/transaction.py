"""Transactions of SQLite, and the words for its errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


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


def words(error: sqlite3.Error) -> str:
    """Names an error as SQLite does, for a person."""
    return f"{error} ({getattr(error, 'sqlite_errorname', 'SQLite')})"
