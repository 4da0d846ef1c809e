"""Sockets, TLS, and how the peer of a connection ended it."""
