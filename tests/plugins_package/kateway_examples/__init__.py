"""One plugin for each of the six seams: the examples of ``docs/plugins.rst``."""
