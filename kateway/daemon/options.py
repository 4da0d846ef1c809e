"""Reads the command line of ``twistd kateway``: options over environment and configuration file, ``--check``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import attrs
from twisted.python import usage

from kateway import __version__
from kateway.config.environment import overlay
from kateway.config.file import from_table, parse_table, read_text
from kateway.config.schema import Config, EmbeddedStorageConfig, KafkaStorageConfig
from kateway.daemon.processes.inherited import tell_problems
from kateway.daemon.processes.settings_text import take_settings_text
from kateway.errors import ConfigError


class Options(usage.Options):
    """The command line; each option overrides the environment and the configuration file."""

    synopsis = "[options]"
    longdesc = (
        "An HTTP gateway to Kafka. With no options: the embedded store in ./kateway-data, open access, the public "
        "listener on 127.0.0.1:9090, the admin listener on 127.0.0.1:9093. KATEWAY_<TABLE>_<OPTION> in the environment "
        "(KATEWAY_HTTP_MAX_BODY_BYTES) overrides the file, an option here overrides both."
    )
    optParameters = [  # noqa: RUF012  # usage.Options reads it from the class
        ["config", None, None, "The configuration file (TOML)."],
        ["data", None, None, "The data directory: of the embedded store, the audit and the embedded registry."],
        ["kafka", None, None, "Kafka brokers, HOST:PORT[,HOST:PORT...]: the default cluster is that Kafka."],
    ]
    optFlags = [["check", None, "Validate the configuration, name every problem, and exit 0 or 1."]]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["public"] = []
        self["admin"] = []
        self.settings = Config()
        self.text = ""
        """Of the configuration file, as it was last read without a fault."""
        self._overrides: dict[str, str] = {}
        """Variable → option."""
        self._unknown: list[str] = []
        """Variables that are no option."""

    def opt_public(self, endpoint: str) -> None:
        """A Twisted endpoint string for the public listener (may be repeated)."""
        self["public"].append(endpoint)

    def opt_admin(self, endpoint: str) -> None:
        """A Twisted endpoint string for the admin listener (may be repeated)."""
        self["admin"].append(endpoint)

    def opt_version(self) -> None:
        """Print kateway's version and exit."""
        print(f"kateway {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        try:
            self.settings = self._read(take_settings_text(os.environ))
            if self["check"] and self._unknown:
                raise ConfigError([f"{variable}: there is no such option" for variable in self._unknown])
            self._check()
        except ConfigError as error:
            tell_problems(os.environ, error.problems)
            for problem in error.problems:
                print(f"kateway: {problem}", file=sys.stderr)
            raise SystemExit(1) from error
        if self["check"]:
            for variable, option in self._overrides.items():
                print(f"kateway: {variable} overrides {option}")
            print("kateway: the configuration is fine")
            raise SystemExit(0)
        for variable in self._unknown:
            print(f"kateway: {variable} is ignored: there is no such option", file=sys.stderr)

    def _check(self) -> None:
        # imported late: twistd makes these for --help too
        from twisted.internet import reactor

        from kateway.daemon.check import check

        check(self.settings, reactor)

    def read(self) -> Config:
        """The configuration file, as it is now, with environment and command line over it. ``ConfigError`` names every
        problem in them.
        """
        from kateway.daemon.check import across

        settings = self._read()
        problems = across(settings)
        if problems:
            raise ConfigError(problems)
        return settings

    def read_with_text(self) -> tuple[Config, str]:
        """As ``read``, and the file's text. ``ConfigError``."""
        settings = self.read()
        return settings, self.text

    def _read(self, text: str | None = None) -> Config:
        """``text`` is that of the file, where another process has read it."""
        file = {}
        if self["config"]:
            path = Path(self["config"])
            text = read_text(path) if text is None else text
            file = parse_table(path, text)
        table, self._overrides, self._unknown = overlay(file, os.environ)
        settings = from_table(table)
        http = settings.http
        if self["public"]:
            http = attrs.evolve(http, public=tuple(self["public"]))
        if self["admin"]:
            http = attrs.evolve(http, admin=tuple(self["admin"]))
        storage = dict(settings.storage)
        if self["kafka"] is not None:
            brokers = tuple(broker.strip() for broker in self["kafka"].split(",") if broker.strip())
            if not brokers:
                raise ConfigError(["--kafka: at least one HOST:PORT is needed"])
            default = storage.get("default")
            storage["default"] = (
                attrs.evolve(default, brokers=brokers)
                if isinstance(default, KafkaStorageConfig)
                else KafkaStorageConfig(driver="kafka", brokers=brokers)
            )
        if self["data"] is not None:
            default = storage.get("default")
            if isinstance(default, EmbeddedStorageConfig):
                storage["default"] = attrs.evolve(default, path=self["data"])
            settings = attrs.evolve(settings, data_directory=self["data"])
        self.text = text or ""
        return attrs.evolve(settings, http=http, storage=storage)
