"""The manager's pure modules, by node's own test runner."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import kateway.web

HERE = Path(__file__).parent
FOLDER = Path(kateway.web.__file__).parent / "ui"


def test_pure_modules_pass_under_node(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    shutil.copy(HERE / "pure.test.js", tmp_path)
    # else node takes .js for CommonJS
    (tmp_path / "package.json").write_text('{"type": "module"}')
    done = subprocess.run(["node", "--test", "pure.test.js"], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
