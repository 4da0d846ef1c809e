"""Links gateways, and finds in a directory which gateway holds what."""
