"""Makes the plan by which figures go to InfluxDB, out of ``[metrics.influx]``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kateway.config.addresses import url_fault
from kateway.config.schema import Config, InfluxConfig
from kateway.daemon.secret import secret
from kateway.errors import ConfigError, Problems
from kateway.observe.families import FAMILIES
from kateway.observe.influx import Plan

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_OPTION = "metrics.influx"


def build_push(settings: Config, reactor: Any) -> Plan | None:
    """``None`` where nothing is to be sent. ``ConfigError`` names every fault by its path."""
    config = settings.metrics.influx
    problems = Problems()
    problems.found += _faults(config)
    password = problems.take(secret, f"{_OPTION}.password", config.password_file, config.password_env) or ""
    token = problems.take(secret, f"{_OPTION}.token", config.token_file, config.token_env) or ""
    if config.url and not settings.metrics.enabled:
        problems.found.append(f"{_OPTION}.url: without metrics.enabled there are no figures to send")
    trusted = problems.take(_trusted, config.ca_file) if config.ca_file else []
    problems.refuse()
    if not config.url:
        return None
    # with its HTTP client it is loaded only where it is used
    from kateway.observe.influx_client import InfluxClient, by_password, by_token, v1_target, v2_target

    url = config.url.rstrip("/")
    target = v1_target(url, config.database) if config.database else v2_target(url, config.org, config.bucket)
    credentials = by_token(token) if token else by_password(config.user, password) if config.user else {}
    return Plan(
        client=InfluxClient(reactor, target, credentials, config.timeout_seconds, trusted or []),
        interval_seconds=config.interval_seconds,
        max_request_lines=config.max_request_lines,
        max_queue_bytes=config.max_queue_bytes,
        tags=config.tags,
    )


def _trusted(file: str) -> list[Any]:
    from kateway.observe.influx_client import certificates

    try:
        return certificates(Path(file).read_bytes())
    except OSError as error:
        raise ConfigError([f"{_OPTION}.ca_file: {file}: {error.strerror or error}"]) from error
    except ValueError as error:
        raise ConfigError([f"{_OPTION}.ca_file: {file}: {error}"]) from error


def _faults(config: InfluxConfig) -> list[str]:
    problems = _of_tags(config.tags)
    with_token = bool(config.token_file or config.token_env)
    with_password = bool(config.password_file or config.password_env)
    if config.password_file and config.password_env:
        problems.append("password_env: there is a password_file already")
    if config.token_file and config.token_env:
        problems.append("token_env: there is a token_file already")
    if config.user and with_token:
        problems.append("user: there is a token already")
    if bool(config.user) != with_password:
        problems.append("user: it needs a password, and a password needs it")
    if ":" in config.user:
        problems.append("user: a name has no colon")
    if not config.url:
        return _named(problems)
    fault = url_fault(config.url)
    if fault:
        problems.append(f"url: {fault}")
    if config.database and (config.bucket or config.org):
        problems.append("database: it is of version 1, org and bucket are of version 2")
    elif not config.database and not (config.bucket and config.org):
        problems.append("database: a database, or org and bucket, is needed")
    elif config.bucket and config.user:
        problems.append("user: a bucket needs a token")
    return _named(problems)


def _named(problems: list[str]) -> list[str]:
    return [f"{_OPTION}.{problem}" for problem in problems]


def _of_tags(tags: dict[str, str]) -> list[str]:
    taken = {"time", *(label for family in FAMILIES.values() for label in family.labels)}
    problems = []
    for name, value in tags.items():
        if not _TAG.fullmatch(name):
            problems.append(f"tags.{name}: must be letters, digits and _ . -, at most 64, and begin with none of these")
        elif name in taken:
            problems.append(f"tags.{name}: metrics have such a tag of their own")
        elif not value or not value.isprintable():
            problems.append(f"tags.{name}: a text of one line is needed, is {value!r}")
    return problems
