"""A history checker: what writers were told and readers read while things broke, held against what is in the log."""
