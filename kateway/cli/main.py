"""Runs ``kateway-admin``: the admin API for people and scripts.

Tables for people, the API's own JSON with ``--json``. ``put`` reads the entry first, changes what the options name
and writes it back on the condition that it was not changed meanwhile. Exit status: 0 done, 1 refused, 2 misused,
3 the gateway cannot be reached.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import shtab

from kateway import __version__
from kateway.cli.client import AdminClient, Misused, Refused, Unreachable
from kateway.cli.clusters import add_breakers, add_handoff
from kateway.cli.commands import Act
from kateway.cli.elastic import add_elastic
from kateway.cli.entries import finite
from kateway.cli.groups import add_groups
from kateway.cli.history import add_history
from kateway.cli.portal_links import add_portal_links
from kateway.cli.process import add_process
from kateway.cli.records import add_records
from kateway.cli.registry_entries import add_apps, add_bindings, add_keys, add_topics
from kateway.cli.tables import show, table
from kateway.cli.tail import add_tail
from kateway.cli.top import add_top
from kateway.cli.transforms import add_transforms
from kateway.cli.troubles import add_troubles
from kateway.registry.secrets import hash_secret, new_secret

DEFAULT_URL = "http://127.0.0.1:9093"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; answers the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except Refused as error:
        print(f"kateway-admin: {error}", file=sys.stderr)
        return 1
    except Misused as error:
        print(f"kateway-admin: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except (Unreachable, OSError) as error:
        print(f"kateway-admin: {error}", file=sys.stderr)
        return 3


def console() -> None:
    """The console script."""
    sys.exit(main())


# --- the command line ------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kateway-admin",
        description="Administers a kateway gateway: applications, keys, topics, bindings, and its state.",
        epilog="The token comes from --token-file, KATEWAY_ADMIN_TOKEN_FILE or KATEWAY_ADMIN_TOKEN.",
    )
    parser.add_argument("--version", action="version", version=f"kateway-admin {__version__}")
    shtab.add_argument_to(parser, "--print-completion", help="print a shell's completion script")
    _common(parser, top=True)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    add_apps(_group(commands, "apps", "applications"), _command)
    add_keys(_group(commands, "keys", "an application's keys"), _command)
    add_portal_links(_group(commands, "portal-link", "lets a person see one application in the manager"), _command)
    add_topics(_group(commands, "topics", "topics and their versions"), _command)
    add_bindings(_group(commands, "bindings", "the right of one application to read another's topic"), _command)
    records = _group(commands, "records", "a topic's records, as an operator sees them")
    add_records(records, _command)
    add_tail(records, _command)
    add_groups(_group(commands, "groups", "groups of readers: how far they are"), _command)
    add_top(commands, _command)
    add_transforms(_group(commands, "transforms", "what happens to a topic's records on their way"), _command)
    add_breakers(_group(commands, "breakers", "the clusters' circuit breakers"), _command)
    add_handoff(_group(commands, "handoff", "records that are kept on disk while their cluster is away"), _command)
    _command(
        commands,
        "plugins",
        "the plugins of all seams, and their state",
        lambda client, _options: client.list("/plugins"),
    )
    add_history(commands, _command)
    add_troubles(commands, _command)
    add_process(commands, _command)
    add_elastic(commands, _command)
    _command(commands, "gateways", "the live gateways", lambda client, _options: client.list("/gateways"))
    drain = _command(
        commands,
        "drain",
        "drain a gateway and end it, as TERM does",
        lambda client, options: client.call("POST", f"/gateways/{quote(options.name)}/drain").body,
    )
    drain.add_argument("name", help="as the list of gateways has it")
    _command(commands, "status", "the gateway's state", lambda client, _options: client.call("GET", "/status").body)
    _command(
        commands, "reload", "re-read configuration and registry", lambda client, _: client.call("POST", "/reload").body
    )

    hashing = commands.add_parser("hash-secret", help="the hash of a secret, for a registry file")
    hashing.add_argument("secret", nargs="?", help="better on standard input: others see a command line")
    hashing.add_argument("--new", action="store_true", help="make a secret, and print it before its hash")
    _json(hashing)
    hashing.set_defaults(run=_hash_secret)
    return parser


def _common(parser: argparse.ArgumentParser, *, top: bool = False) -> None:
    """Options that may stand before the command and after it."""

    def default(value: Any) -> Any:
        return value if top else argparse.SUPPRESS

    url = os.environ.get("KATEWAY_ADMIN_URL", DEFAULT_URL)
    parser.add_argument("--url", default=default(url), help=f"the admin listener (KATEWAY_ADMIN_URL; now {url})")
    token = os.environ.get("KATEWAY_ADMIN_TOKEN_FILE", "")
    token_file = parser.add_argument(
        "--token-file", default=default(token), metavar="FILE", help="holds the admin token"
    )
    ca_file = parser.add_argument(
        "--ca-file", default=default(""), metavar="FILE", help="CA of the listener's certificate"
    )
    for each in (token_file, ca_file):
        each.complete = shtab.FILE  # type: ignore[attr-defined]
    parser.add_argument(
        "--timeout", type=_positive, default=default(30.0), metavar="SECONDS", help="for an answer (default: 30)"
    )
    _json(parser, default(False))


def _json(parser: argparse.ArgumentParser, default: Any = argparse.SUPPRESS) -> None:
    parser.add_argument("--json", action="store_true", default=default, help="print JSON")


def _group(commands: Any, name: str, help: str) -> Any:
    return commands.add_parser(name, help=help, description=help).add_subparsers(metavar="ACTION", required=True)


def _command(commands: Any, name: str, help: str, act: Act) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    _common(parser)
    parser.set_defaults(run=lambda options: _run(act, options))
    return parser


def _positive(text: str) -> float:
    number = finite(text)
    if number <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


# --- what the commands do --------------------------------------------------------------------------------------


def _run(act: Act, options: argparse.Namespace) -> int:
    client = AdminClient(options.url, _token(options.token_file), ca_file=options.ca_file, timeout=options.timeout)
    found = act(client, options)
    if found != "":  # what is printed bit by bit is printed already
        print(show(found, as_json=options.json))
    return 0


def _token(token_file: str) -> str:
    if not token_file:
        return os.environ.get("KATEWAY_ADMIN_TOKEN", "").strip()
    try:
        with open(token_file, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misused(f"the token file {token_file}: {getattr(error, 'strerror', None) or error}") from error


def _hash_secret(options: argparse.Namespace) -> int:
    if options.new:
        secret = new_secret()
        made = {"secret": secret, "secret_hash": hash_secret(secret)}
        print(show(made, as_json=True) if options.json else table([made]))
        return 0
    secret = options.secret
    if secret is None:
        secret = getpass.getpass("Secret: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not secret:
        print("kateway-admin: the secret is empty", file=sys.stderr)
        return 2
    hashed = hash_secret(secret)
    print(show({"secret_hash": hashed}, as_json=True) if options.json else hashed)
    return 0


if __name__ == "__main__":
    console()
