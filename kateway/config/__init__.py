"""The configuration: its tables as classes, the file, listening addresses."""
