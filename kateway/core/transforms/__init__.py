"""Transforms, filters and schemas of records on their way: pure, no I/O, no clock of their own."""
