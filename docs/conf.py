"""How Sphinx makes the documents; they read well without it."""

import re
from pathlib import Path

project = "kateway"
project_copyright = "the kateway contributors, Apache-2.0"
release = re.search(
    r'__version__ = "([^"]+)"', (Path(__file__).parents[1] / "kateway/__init__.py").read_text(encoding="utf-8")
)[1]
html_theme = "alabaster"
exclude_patterns = ["_build"]
highlight_language = "none"
