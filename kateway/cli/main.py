"""``kateway-admin``: the admin API for people and scripts.

Tables for people, the API's own JSON with ``--json``. ``put`` reads the entry first, changes what the options name
and writes it back on the condition that it was not changed meanwhile. Exit status: 0 done, 1 refused, 2 misused,
3 the gateway cannot be reached.
"""

from __future__ import annotations

import argparse
import getpass
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import shtab

from kateway import __version__
from kateway.cli.client import AdminClient, Misused, Refused, Unreachable
from kateway.cli.tables import show, table
from kateway.registry.secrets import hash_secret, new_secret

DEFAULT_URL = "http://127.0.0.1:9093"
QUOTAS = (
    "publish_records_per_second",
    "publish_bytes_per_second",
    "subscribe_bytes_per_second",
    "requests_per_second",
    "readers",
)
APP, KEY, CLUSTER = "APP", "KEY", "CLUSTER"
TOPIC = "APP/TOPIC/VERSION"
BINDING = "SUBSCRIBER/APP/TOPIC/VERSION"
"""How names are written: with so many parts."""

Act = Callable[[AdminClient, argparse.Namespace], Any]


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

    _apps(_group(commands, "apps", "applications"))
    _keys(_group(commands, "keys", "an application's keys"))
    _topics(_group(commands, "topics", "topics and their versions"))
    _bindings(_group(commands, "bindings", "the right of one application to read another's topic"))
    _breakers(_group(commands, "breakers", "the clusters' circuit breakers"))
    _handoff(_group(commands, "handoff", "records that are kept on disk while their cluster is away"))
    _command(commands, "gateways", "the live gateways", lambda client, _options: client.list("/gateways"))
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


def _apps(apps: Any) -> None:
    _listing(apps, "/applications")
    _showing(apps, APP, "/applications/{}")
    put = _command(apps, "put", "make an application or change it", _put_application)
    put.add_argument("name", metavar=APP)
    put.add_argument("--description", help="for people")
    _quota_options(put)
    _deleting(apps, APP, "/applications/{}")


def _keys(keys: Any) -> None:
    listing = _command(keys, "list", "list them; never a secret", _list_keys)
    listing.add_argument("app", metavar=APP)
    make = _command(keys, "make", "make a key; its secret is shown this once", _make_key)
    make.add_argument("app", metavar=APP)
    make.add_argument("--kind", choices=("pub", "sub"), required=True, help="to publish or to subscribe")
    make.add_argument("--key", help="its name; without, one is made up")
    _quota_options(make)
    quota = _command(keys, "quota", "give a key a quota of its own (no options: its application's again)", _key_quota)
    rotate = _command(keys, "rotate", "give a key a new secret", _rotate_key)
    rotate.add_argument("--grace-seconds", type=_finite, help="how long the old secret works on (default 3600)")
    revoke = _command(keys, "revoke", "revoke a key at once", _revoke_key)
    for command in (quota, rotate, revoke):
        command.add_argument("app", metavar=APP)
        command.add_argument("key", metavar=KEY)
    _quota_options(quota)


def _topics(topics: Any) -> None:
    _listing(topics, "/topics")
    _showing(topics, TOPIC, "/topics/{}")
    put = _command(topics, "put", "make a topic, take one over, or change it", _put_topic)
    put.add_argument("name", metavar=TOPIC)
    put.add_argument("--cluster", help="a [storage.CLUSTER] of the configuration (default: default)")
    put.add_argument("--partitions", type=int, help="they can become more, never fewer (default: 4)")
    put.add_argument("--replicas", type=int, help="of a topic that is made (default: 1)")
    put.add_argument(
        "--retention-hours", type=_limit, default=argparse.SUPPRESS, help="or none: for ever (default: 168)"
    )
    put.add_argument("--storage-name", help="take over this topic of the store")
    put.add_argument(
        "--state",
        choices=("active", "deprecated", "retired"),
        help="deprecated: responses carry a warning; retired: 410",
    )
    put.add_argument("--sunset", metavar="TIME", help="when it is to be retired: 2027-01-01T00:00:00Z")
    delete = _deleting(topics, TOPIC, "/topics/{}")
    delete.add_argument("--delete-records", action="store_true", help="delete its records in the store too")


def _bindings(bindings: Any) -> None:
    _listing(bindings, "/bindings")
    _showing(bindings, BINDING, "/bindings/{}")
    put = _command(bindings, "put", "make a binding or change it", _put_binding)
    put.add_argument("name", metavar=BINDING)
    put.add_argument("--group", action="append", dest="groups", metavar="GROUP", help="may be repeated; * is any")
    put.add_argument("--max-deliveries", type=int, help="then to the dead-letter queue; 0: never")
    put.add_argument(
        "--dead-letter", action=argparse.BooleanOptionalAction, default=None, help="whether there is such a queue"
    )
    _deleting(bindings, BINDING, "/bindings/{}")


def _breakers(breakers: Any) -> None:
    _listing(breakers, "/breakers")
    for action, state, meaning in (
        ("open", "open", "refuse publishes to a cluster at once, until it is closed by hand: for maintenance"),
        ("close", "closed", "let publishes go to a cluster again"),
    ):
        _command(breakers, action, meaning, _set_breaker(state)).add_argument("cluster", metavar="CLUSTER")


def _handoff(handoff: Any) -> None:
    _listing(handoff, "/handoff")
    for action, act, meaning in (
        ("refused", _list_refused, "list the records that the cluster refused when they were written later, with why"),
        ("retry", _change_refused("POST", "/retry"), "write the refused records again"),
        ("delete", _change_refused("DELETE", ""), "delete the refused records for good"),
    ):
        _command(handoff, action, meaning, act).add_argument("cluster", metavar="CLUSTER")


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


def _listing(commands: Any, path: str) -> None:
    _command(commands, "list", "list them all", lambda client, _options: client.list(path))


def _showing(commands: Any, metavar: str, path: str) -> None:
    def act(client: AdminClient, options: argparse.Namespace) -> Any:
        return client.call("GET", path.format(client.name(options.name, metavar))).body

    _command(commands, "show", "show one", act).add_argument("name", metavar=metavar)


def _deleting(commands: Any, metavar: str, path: str) -> argparse.ArgumentParser:
    def act(client: AdminClient, options: argparse.Namespace) -> Any:
        query = "?delete_records=true" if getattr(options, "delete_records", False) else ""
        return client.call("DELETE", path.format(client.name(options.name, metavar)) + query).body

    parser = _command(commands, "delete", "delete one", act)
    parser.add_argument("name", metavar=metavar)
    return parser


def _quota_options(parser: argparse.ArgumentParser) -> None:
    for name in QUOTAS:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=_limit, default=argparse.SUPPRESS, metavar="N", help="or none: no limit")


def _finite(text: str) -> float | int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(number) if number.is_integer() else number


def _limit(text: str) -> float | int | None:
    return None if text == "none" else _finite(text)


def _positive(text: str) -> float:
    number = _finite(text)
    if number <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


# --- what the commands do --------------------------------------------------------------------------------------


def _run(act: Act, options: argparse.Namespace) -> int:
    client = AdminClient(options.url, _token(options.token_file), ca_file=options.ca_file, timeout=options.timeout)
    found = act(client, options)
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


def _quota(options: argparse.Namespace) -> dict[str, Any]:
    """The quota members that were given; ``None`` lifts a limit."""
    return {name: getattr(options, name) for name in QUOTAS if hasattr(options, name)}


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _without_none(quota: dict[str, Any]) -> dict[str, Any]:
    return {name: limit for name, limit in quota.items() if limit is not None}


def _put_application(client: AdminClient, options: argparse.Namespace) -> Any:
    def change(now: dict[str, Any]) -> dict[str, Any]:
        quota = _without_none({**now.get("quota", {}), **_quota(options)})
        return {**now, **_given(options, "description"), "quota": quota}

    return client.change(f"/applications/{client.name(options.name, APP)}", change)


def _put_topic(client: AdminClient, options: argparse.Namespace) -> Any:
    given = _given(options, "cluster", "partitions", "replicas", "storage_name", "state", "sunset")
    if hasattr(options, "retention_hours"):
        given["retention_hours"] = options.retention_hours
    return client.change(f"/topics/{client.name(options.name, TOPIC)}", lambda now: {**now, **given})


def _put_binding(client: AdminClient, options: argparse.Namespace) -> Any:
    given = _given(options, "groups", "max_deliveries", "dead_letter")

    def change(now: dict[str, Any]) -> dict[str, Any]:
        if not now and "groups" not in given:
            raise Misused("a new binding needs --group GROUP (it may be repeated), or --group '*' for any")
        return {**now, **given}

    return client.change(f"/bindings/{client.name(options.name, BINDING)}", change)


def _set_breaker(state: str) -> Act:
    def act(client: AdminClient, options: argparse.Namespace) -> Any:
        return client.call("POST", f"/breakers/{client.name(options.cluster, CLUSTER)}", {"state": state}).body

    return act


def _list_refused(client: AdminClient, options: argparse.Namespace) -> Any:
    return client.list(f"/handoff/{client.name(options.cluster, CLUSTER)}/refused")


def _change_refused(method: str, below: str) -> Act:
    def act(client: AdminClient, options: argparse.Namespace) -> Any:
        return client.call(method, f"/handoff/{client.name(options.cluster, CLUSTER)}/refused{below}").body

    return act


def _list_keys(client: AdminClient, options: argparse.Namespace) -> Any:
    return client.list(f"/applications/{client.name(options.app, APP)}/keys")


def _make_key(client: AdminClient, options: argparse.Namespace) -> Any:
    body = {"kind": options.kind, **_given(options, "key")}
    if quota := _without_none(_quota(options)):
        body["quota"] = quota
    return client.call("POST", f"/applications/{client.name(options.app, APP)}/keys", body).body


def _key_quota(client: AdminClient, options: argparse.Namespace) -> Any:
    given = _quota(options)

    def change(now: dict[str, Any]) -> dict[str, Any]:
        return {"quota": _without_none({**(now.get("quota") or {}), **given}) or None if given else None}

    return client.change(_key_path(client, options), change)


def _rotate_key(client: AdminClient, options: argparse.Namespace) -> Any:
    return client.call("POST", f"{_key_path(client, options)}/rotate", _given(options, "grace_seconds")).body


def _revoke_key(client: AdminClient, options: argparse.Namespace) -> Any:
    return client.call("DELETE", _key_path(client, options)).body


def _key_path(client: AdminClient, options: argparse.Namespace) -> str:
    return f"/applications/{client.name(options.app, APP)}/keys/{client.name(options.key, KEY)}"


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
