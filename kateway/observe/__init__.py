"""Counts what flows and shows it: cells on the hot path, families, and their text forms."""
