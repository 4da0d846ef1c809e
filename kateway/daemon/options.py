"""The command line of ``twistd kateway``: options over the environment and the configuration file, ``--check``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import attrs
from twisted.python import usage

from kateway import __version__
from kateway.config.environment import overlay
from kateway.config.file import from_table, read_table
from kateway.config.schema import Config, EmbeddedStorageConfig, KafkaStorageConfig
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
            self.settings = self._read()
            if self["check"] and self._unknown:
                raise ConfigError([f"{variable}: there is no such option" for variable in self._unknown])
            self._check()
        except ConfigError as error:
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

    def _read(self) -> Config:
        file = read_table(Path(self["config"])) if self["config"] else {}
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
        return attrs.evolve(settings, http=http, storage=storage)
