"""Connections to the brokers of one cluster, and questions about it."""
