"""Runs equal processes behind one port: the supervisor that starts and replaces them, and their side of it."""
