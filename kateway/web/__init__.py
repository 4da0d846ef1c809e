"""The HTTP edge; nothing else knows HTTP."""
