"""The message plane: publish, subscribe, and questions about topics and groups."""
