"""Shows and changes the registry's entries: ``kateway-admin apps``, ``keys``, ``topics``, ``bindings``."""

from __future__ import annotations

import argparse
from typing import Any

from kateway.cli.client import AdminClient, Misused
from kateway.cli.commands import APP, BINDING, KEY, TOPIC, Command
from kateway.cli.elastic import elastic_option
from kateway.cli.entries import add_deleting, add_listing, add_showing, finite, limit

QUOTAS = (
    "publish_records_per_second",
    "publish_bytes_per_second",
    "subscribe_bytes_per_second",
    "requests_per_second",
    "readers",
)


def add_apps(apps: Any, command: Command) -> None:
    """Adds the commands for applications."""
    add_listing(apps, command, "/applications")
    add_showing(apps, command, APP, "/applications/{}")
    put = command(apps, "put", "make an application or change it", _put_application)
    put.add_argument("name", metavar=APP)
    put.add_argument("--description", help="for people")
    _quota_options(put)
    add_deleting(apps, command, APP, "/applications/{}")


def add_keys(keys: Any, command: Command) -> None:
    """Adds the commands for an application's keys."""
    listing = command(keys, "list", "list them; never a secret", _list_keys)
    listing.add_argument("app", metavar=APP)
    make = command(keys, "make", "make a key; its secret is shown this once", _make_key)
    make.add_argument("app", metavar=APP)
    make.add_argument("--kind", choices=("pub", "sub"), required=True, help="to publish or to subscribe")
    make.add_argument("--key", help="its name; without, one is made up")
    _quota_options(make)
    quota = command(keys, "quota", "give a key a quota of its own (no options: its application's again)", _key_quota)
    rotate = command(keys, "rotate", "give a key a new secret", _rotate_key)
    rotate.add_argument("--grace-seconds", type=finite, help="how long the old secret works on (default 3600)")
    revoke = command(keys, "revoke", "revoke a key at once", _revoke_key)
    for each in (quota, rotate, revoke):
        each.add_argument("app", metavar=APP)
        each.add_argument("key", metavar=KEY)
    _quota_options(quota)


def add_topics(topics: Any, command: Command) -> None:
    """Adds the commands for topics."""
    add_listing(topics, command, "/topics")
    add_showing(topics, command, TOPIC, "/topics/{}")
    put = command(topics, "put", "make a topic, take one over, or change it", _put_topic)
    put.add_argument("name", metavar=TOPIC)
    put.add_argument("--cluster", help="a [storage.CLUSTER] of the configuration (default: default)")
    put.add_argument("--partitions", type=int, help="they can become more, never fewer (default: 4)")
    put.add_argument("--replicas", type=int, help="of a topic that is made (default: 1)")
    put.add_argument(
        "--retention-hours", type=limit, default=argparse.SUPPRESS, help="or none: for ever (default: 168)"
    )
    put.add_argument(
        "--elastic",
        type=elastic_option,
        default=argparse.SUPPRESS,
        metavar="JSON",
        help='its partitions grow by themselves: {"max_partitions":8}; or none',
    )
    put.add_argument("--storage-name", help="take over this topic of the store")
    put.add_argument(
        "--state",
        choices=("active", "deprecated", "retired"),
        help="deprecated: responses carry a warning; retired: 410",
    )
    put.add_argument("--sunset", metavar="TIME", help="when it is to be retired: 2027-01-01T00:00:00Z")
    delete = add_deleting(topics, command, TOPIC, "/topics/{}")
    delete.add_argument("--delete-records", action="store_true", help="delete its records in the store too")


def add_bindings(bindings: Any, command: Command) -> None:
    """Adds the commands for bindings."""
    add_listing(bindings, command, "/bindings")
    add_showing(bindings, command, BINDING, "/bindings/{}")
    put = command(bindings, "put", "make a binding or change it", _put_binding)
    put.add_argument("name", metavar=BINDING)
    put.add_argument("--group", action="append", dest="groups", metavar="GROUP", help="may be repeated; * is any")
    put.add_argument("--max-deliveries", type=int, help="then to the dead-letter queue; 0: never")
    put.add_argument("--filter", metavar="EXPRESSION", help="true of the records that the subscriber may see")
    put.add_argument(
        "--dead-letter", action=argparse.BooleanOptionalAction, default=None, help="whether there is such a queue"
    )
    add_deleting(bindings, command, BINDING, "/bindings/{}")


def _quota_options(parser: argparse.ArgumentParser) -> None:
    for name in QUOTAS:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=limit, default=argparse.SUPPRESS, metavar="N", help="or none: no limit")


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
    if hasattr(options, "elastic"):
        given["elastic"] = options.elastic
    return client.change(f"/topics/{client.name(options.name, TOPIC)}", lambda now: {**now, **given})


def _put_binding(client: AdminClient, options: argparse.Namespace) -> Any:
    given = _given(options, "groups", "max_deliveries", "dead_letter", "filter")

    def change(now: dict[str, Any]) -> dict[str, Any]:
        if not now and "groups" not in given:
            raise Misused("a new binding needs --group GROUP (it may be repeated), or --group '*' for any")
        return {**now, **given}

    return client.change(f"/bindings/{client.name(options.name, BINDING)}", change)


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
