"""Reads the tokens of the admin listener, each with its name and role, from their files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from twisted.logger import Logger

from kateway.config.schema import AdminConfig
from kateway.errors import ConfigError, Problems
from kateway.web.admin.actors import ADMIN_NAME, Actor, digest
from kateway.web.tcp.endpoints import is_loopback

SAFE_TOKEN_BYTES: Final = 16
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_log = Logger()

Tokens = Mapping[bytes, Actor]
"""By the tokens' digests."""


def read_tokens(config: AdminConfig, endpoints: Iterable[str]) -> Tokens:
    """Reads every token; none where none is set and every endpoint is loopback. ``ConfigError`` names each fault."""
    if not config.token_file and not config.tokens:
        exposed = [endpoint for endpoint in endpoints if not is_loopback(endpoint)]
        if exposed:
            raise ConfigError([f"admin.token_file: is required, because {', '.join(exposed)} is not loopback"])
    problems = Problems()
    found: dict[bytes, Actor] = {}
    if config.token_file:
        token = problems.take(read_token, "admin.token_file", config.token_file)
        if token is not None:
            found[digest(token)] = Actor(ADMIN_NAME, "admin", proof=digest(token))
    for name, one in config.tokens.items():
        option = f"admin.tokens.{name}"
        if not NAME.fullmatch(name) or name == ADMIN_NAME:
            problems.found.append(f"{option}: a token's name is 1 to 64 of A-Z a-z 0-9 _ -, and not {ADMIN_NAME}")
        token = problems.take(read_token, f"{option}.file", one.file)
        if token is None:
            continue
        proof = digest(token)
        if proof in found:
            problems.found.append(f"{option}.file: {one.file}: is the token of {found[proof].name} too")
        found[proof] = Actor(name, one.role, proof=proof)
    problems.refuse()
    return found


def read_token(option: str, file: str) -> bytes:
    """Reads one token. ``ConfigError`` where there is none."""
    if not file:
        raise ConfigError([f"{option}: a file is needed"])
    try:
        token = Path(file).read_bytes().strip()
    except OSError as error:
        raise ConfigError([f"{option}: {file}: {error.strerror or error}"]) from error
    if not token or not token.isascii() or len(token.split()) > 1:
        raise ConfigError([f"{option}: {file}: needs one line of letters, digits and signs"])
    if len(token) < SAFE_TOKEN_BYTES:
        _log.warn(
            "{option}: {n} characters can be guessed: make it {safe}",
            option=option,
            n=len(token),
            safe=SAFE_TOKEN_BYTES,
        )
    return token
