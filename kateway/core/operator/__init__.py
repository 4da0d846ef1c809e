"""An operator's own look at topics and groups, and moves of both: no application's rights or quotas are asked."""
