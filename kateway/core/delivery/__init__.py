"""Delivery state of a partition: pure, without I/O and without a clock."""
