"""The process: assembled, started, reloaded and stopped."""
