"""SQLite as stores use it: a thread that owns the connection, a locked directory, records as bytes, transactions."""
