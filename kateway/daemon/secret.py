"""Reads a secret that an option names the place of."""

from __future__ import annotations

import os
from pathlib import Path

from kateway.errors import ConfigError


def secret(option: str, file: str, env: str) -> str:
    """A secret from a file or the environment; empty where neither is named."""
    if file:
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError([f"{option}_file: {file}: {error.strerror or error}"]) from error
    if env:
        if env not in os.environ:
            raise ConfigError([f"{option}_env: there is no {env} in the environment"])
        return os.environ[env]
    return ""
