"""What several integration tests need."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.certificate import self_signed


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A folder with a self-signed certificate and its key: ``cert.pem`` and ``key.pem``."""
    return self_signed(tmp_path)
