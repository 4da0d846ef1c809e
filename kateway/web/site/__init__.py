"""Klein's resource tree, and health."""
