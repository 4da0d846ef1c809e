"""Passes on what another gateway holds: readers, acknowledgements, questions about a group."""
