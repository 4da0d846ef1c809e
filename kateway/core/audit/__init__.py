"""Audit events and the sinks that keep them."""
