"""A history checker: the answers to writers and the records read while things broke, held against the log."""
