"""Assembles, starts, reloads and stops the process."""
