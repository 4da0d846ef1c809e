"""Memberships of consumer groups, their readers, commits and rebalances."""
