"""How much one batch may hold."""

from __future__ import annotations

from kateway.errors import TooLarge

MAX_BATCH_RECORDS = 100_000
"""A body of one megabyte could hold half a million records: they would take the loop a second, and 300 MB of memory."""


def too_many_records() -> TooLarge:
    """The refusal of a batch with more records; none of it is written."""
    return TooLarge(f"a batch has at most {MAX_BATCH_RECORDS} records; nothing was written: send several")
