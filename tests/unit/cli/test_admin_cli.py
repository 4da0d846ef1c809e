"""``kateway-admin`` against a gateway's admin API on a loopback port."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_twisted
from klein import Klein
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.web.server import Site

from kateway.cli.client import AdminClient, Refused
from kateway.cli.main import main
from kateway.cli.tables import show, table
from kateway.config.schema import AdminConfig, AuthConfig, EmbeddedStorageConfig
from kateway.core.access.failures import build_failures
from kateway.core.administration import Administration
from kateway.core.audit.events import Audit
from kateway.core.transforms.in_force import TransformsInForce
from kateway.errors import ConfigError
from kateway.registry.secrets import matches
from kateway.registry.sqlite import EmbeddedRegistry
from kateway.storage.embedded import EmbeddedStore
from kateway.web.admin.access import Guard
from kateway.web.admin.actors import Actor, digest
from kateway.web.admin.api import AdminEdge
from kateway.web.admin.resources import Resources
from kateway.web.admin.sessions import Sessions
from kateway.web.admin.tokens import read_token, read_tokens
from kateway.web.site.tree import Tree
from kateway.web.tcp.endpoints import is_loopback

TOKEN = "a-long-enough-token"


class Running:
    def status(self) -> dict[str, Any]:
        return {
            "version": "1.2",
            "uptime_seconds": 5.5,
            "configuration": {"generation": 1, "last_reload": {"ok": False, "problems": ["a: b", "c: d"]}},
            "stores": {"default": {"driver": "embedded", "healthy": True}},
        }

    async def reload(self) -> None:
        raise ConfigError(["http.max_body_bytes: must be at least 1", "registry.path: no such file"])


class Told(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Gateway:
    """Runs commands in a thread against a gateway in this one."""

    def __init__(self, url: str, registry: EmbeddedRegistry, read: Callable[[], Any]) -> None:
        self.url = url
        self.registry = registry
        self._read = read

    async def __call__(self, *arguments: str) -> Told:
        status = await deferToThread(main, ["--url", self.url, *arguments])
        return Told(status, *self._read())


@pytest_twisted.async_yield_fixture
async def gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Gateway]:
    monkeypatch.setenv("KATEWAY_ADMIN_TOKEN", TOKEN)
    registry = EmbeddedRegistry(reactor, tmp_path)
    store = EmbeddedStore(EmbeddedStorageConfig(path=str(tmp_path)), reactor)  # type: ignore[arg-type]
    await registry.start()
    await store.start()
    proof = digest(TOKEN.encode())
    seconds = reactor.seconds  # type: ignore[attr-defined]
    guard = Guard(
        {proof: Actor("admin", "admin", proof=proof)},
        Sessions(seconds, AdminConfig),
        endpoints=["tcp:0:interface=127.0.0.1"],
        hosts=(),
        failures=build_failures(AuthConfig(), seconds),
    )
    audit = Audit({}, now=lambda: 0.0)
    administration = Administration(registry, {"default": store}, audit, lambda: 1_767_225_600.0)
    resources = Resources(administration, TransformsInForce(lambda: registry.snapshot, lambda: 0.0))
    edge = AdminEdge(
        Running(),
        administration,
        guard,
        [resources],
    )
    app, tree = Klein(), Tree(reactor)  # type: ignore[arg-type]
    app.route("/admin/v1", branch=True)(lambda _request: tree.hand_over(edge.handle))
    port = reactor.listenTCP(0, Site(app.resource()), interface="127.0.0.1")  # type: ignore[attr-defined]
    yield Gateway(f"http://127.0.0.1:{port.getHost().port}", registry, capsys.readouterr)
    await port.stopListening()
    await store.stop(0)
    await registry.stop()


@pytest_twisted.ensureDeferred
async def test_a_service_is_set_up_from_nothing(gateway: Gateway) -> None:
    assert (await gateway("apps", "put", "app1", "--description", "the shop", "--readers", "5")).status == 0
    assert (await gateway("apps", "put", "app2")).status == 0
    assert (await gateway("topics", "put", "app1/foo/v1", "--partitions", "2")).status == 0
    assert (await gateway("bindings", "put", "app2/app1/foo/v1", "--group", "g1", "--group", "g2")).status == 0
    made = (await gateway("keys", "make", "app1", "--kind", "pub", "--key", "mypubkey", "--json")).json
    snapshot = gateway.registry.snapshot
    assert matches(made["secret"], snapshot.keys["mypubkey"].secret_hash)
    assert snapshot.topics["app1", "foo", "v1"].partitions == 2
    assert snapshot.bindings["app2", "app1", "foo", "v1"].groups == {"g1", "g2"}
    listed = (await gateway("apps", "list")).out
    assert listed.splitlines() == ["NAME  DESCRIPTION  QUOTA", "app1  the shop     readers=5", "app2"]
    assert "mypubkey  pub   2026-01-01T00:00:00Z" in (await gateway("keys", "list", "app1")).out
    assert (await gateway("bindings", "list", "--json")).json["items"][0]["name"] == "app2/app1/foo/v1"
    assert (await gateway("topics", "show", "app1/foo/v1")).out.splitlines()[:2] == [
        "cluster: default",
        "partitions: 2",
    ]


@pytest_twisted.ensureDeferred
async def test_put_changes_what_the_options_name_and_keeps_the_rest(gateway: Gateway) -> None:
    await gateway("apps", "put", "app1", "--description", "x", "--readers", "5", "--requests-per-second", "2.5")
    await gateway("apps", "put", "app1", "--readers", "none", "--publish-records-per-second", "10")
    application = (await gateway("--json", "apps", "show", "app1")).json
    assert application == {
        "description": "x",
        "quota": {"requests_per_second": 2.5, "publish_records_per_second": 10},
    }
    await gateway("topics", "put", "app1/foo/v1", "--retention-hours", "none", "--storage-name", "legacy")
    await gateway("topics", "put", "app1/foo/v1", "--state", "deprecated", "--sunset", "2027-01-01T00:00:00Z")
    topic = (await gateway("topics", "show", "app1/foo/v1", "--json")).json
    assert (topic["retention_hours"], topic["storage_name"], topic["state"]) == (None, "legacy", "deprecated")
    await gateway("bindings", "put", "app1/app1/foo/v1", "--group", "*", "--no-dead-letter")
    binding = (await gateway("bindings", "put", "app1/app1/foo/v1", "--max-deliveries", "2", "--json")).json
    assert binding == {"groups": ["*"], "dead_letter": False, "max_deliveries": 2}


@pytest_twisted.ensureDeferred
async def test_a_key_is_rotated_given_a_quota_and_revoked(gateway: Gateway) -> None:
    await gateway("apps", "put", "app1")
    first = (await gateway("keys", "make", "app1", "--kind", "sub", "--key", "k", "--readers", "3", "--json")).json
    second = (await gateway("keys", "rotate", "app1", "k", "--grace-seconds", "0", "--json")).json
    assert first["secret"] != second["secret"]
    assert gateway.registry.snapshot.keys["k"].rotated_hash is None
    shown = (await gateway("keys", "quota", "app1", "k", "--requests-per-second", "1", "--json")).json
    assert shown["quota"] == {"readers": 3, "requests_per_second": 1}
    assert (await gateway("keys", "quota", "app1", "k", "--json")).json["quota"] is None
    assert (await gateway("keys", "revoke", "app1", "k")).out == "done\n"
    assert (await gateway("keys", "list", "app1")).out == "none\n"


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_told_in_the_gateways_words(gateway: Gateway) -> None:
    told = await gateway("apps", "show", "nobody")
    assert told == Told(1, "", "kateway-admin: there is no application nobody (404 not-found)\n")
    await gateway("apps", "put", "app1")
    await gateway("topics", "put", "app1/foo/v1")
    told = await gateway("apps", "delete", "app1")
    assert told.status == 1
    assert "app1/foo/v1" in told.err
    told = await gateway("reload")
    assert told.status == 1
    assert "\n  registry.path: no such file" in told.err
    assert told.err.count("registry.path: no such file") == 2, "among all in one line, and in a line of its own"
    assert (await gateway("topics", "delete", "app1/foo/v1", "--delete-records")).status == 0
    assert (await gateway("apps", "delete", "app1")).status == 0


@pytest_twisted.ensureDeferred
async def test_names_cannot_lead_elsewhere(gateway: Gateway) -> None:
    for name in ("..", "app1?x=1", "app1#", "{}", "ü"):
        assert (await gateway("apps", "put", name)).status == 1
    assert gateway.registry.snapshot.applications == {}


@pytest_twisted.ensureDeferred
async def test_a_name_of_too_few_or_many_parts_is_told_before_anybody_is_asked(gateway: Gateway) -> None:
    for like, arguments in (
        ("APP", ["apps", "put", "../status"]),
        ("APP", ["apps", "show", ""]),
        ("APP", ["keys", "list", "app1/"]),
        ("APP/TOPIC/VERSION", ["topics", "put", "app1/foo"]),
        ("APP/TOPIC/VERSION", ["topics", "delete", "app1//v1"]),
        ("SUBSCRIBER/APP/TOPIC/VERSION", ["bindings", "show", "app1/foo/v1"]),
    ):
        told = await gateway(*arguments)
        assert (told.status, told.out) == (2, "")
        assert told.err.endswith(f" is not {like}\n")


@pytest_twisted.ensureDeferred
async def test_a_new_binding_without_groups_is_told_how_to_give_them(gateway: Gateway) -> None:
    told = await gateway("bindings", "put", "app2/app1/foo/v1", "--max-deliveries", "3")
    assert told.status == 2
    assert "--group" in told.err


@pytest_twisted.ensureDeferred
async def test_status_is_readable(gateway: Gateway) -> None:
    assert (await gateway("status")).out.splitlines() == [
        "version: 1.2",
        "uptime_seconds: 5.5",
        "configuration:",
        "  generation: 1",
        "  last_reload:",
        "    ok: no",
        "    problems: a: b,c: d",
        "stores:",
        "  default: driver=embedded healthy=yes",
    ]
    assert (await gateway("gateways")).out == "none\n"


@pytest_twisted.ensureDeferred
async def test_the_token_comes_from_a_file_too(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KATEWAY_ADMIN_TOKEN")
    told = await gateway("apps", "list")
    assert told.status == 1
    assert "401 unauthorized" in told.err
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN + "\n")
    assert (await gateway("apps", "list", "--token-file", str(token_file))).status == 0
    told = await gateway("apps", "list", "--token-file", str(tmp_path / "missing"))
    assert told.status == 2
    assert f"the token file {tmp_path}/missing: No such file" in told.err
    assert "missing" in told.err


@pytest_twisted.ensureDeferred
async def test_change_that_came_second_is_made_again_on_the_first(gateway: Gateway) -> None:
    client = AdminClient(gateway.url, TOKEN)

    def slowly(now: dict[str, Any]) -> dict[str, Any]:
        if not seen:
            client.call("PUT", "/applications/app1", {"description": "theirs"})
        seen.append(now)
        return {**now, "quota": {"readers": 1}}

    seen: list[dict[str, Any]] = []
    changed = await deferToThread(client.change, "/applications/app1", slowly)
    assert changed == {"description": "theirs", "quota": {"readers": 1}}
    assert len(seen) == 2


@pytest_twisted.ensureDeferred
async def test_long_lists_are_read_whole(gateway: Gateway) -> None:
    client = AdminClient(gateway.url, TOKEN, page=5)

    def fill() -> Any:
        for number in range(12):
            client.call("PUT", f"/applications/app{number:02}", {})
        return client.list("/applications")

    listed = await deferToThread(fill)
    assert [item["name"] for item in listed["items"]] == [f"app{number:02}" for number in range(12)]


def test_a_gateway_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        assert main(["--url", url, "status"]) == 3
    assert url in capsys.readouterr().err
    assert main(["--url", "gopher://x", "status"]) == 3


@pytest_twisted.ensureDeferred
async def test_server_that_is_no_gateway_is_told_apart() -> None:
    port = reactor.listenTCP(0, Site(Klein().resource()), interface="127.0.0.1")  # type: ignore[attr-defined]
    client = AdminClient(f"http://127.0.0.1:{port.getHost().port}", "")
    refused: Deferred[Any] = deferToThread(client.call, "GET", "/status")
    with pytest.raises(Refused, match="not one of kateway's"):
        await refused
    await port.stopListening()


# --- without a gateway -----------------------------------------------------------------------------------------


def test_the_hash_of_a_secret_is_what_a_registry_file_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("s3cret\n"))
    assert main(["hash-secret"]) == 0
    assert matches("s3cret", capsys.readouterr().out.strip())
    assert main(["hash-secret", "other"]) == 0
    assert matches("other", capsys.readouterr().out.strip())
    assert main(["hash-secret", "--new"]) == 0
    secret, hashed = capsys.readouterr().out.splitlines()[1].split()
    assert matches(secret, hashed)
    assert main(["hash-secret", ""]) == 2


@pytest.mark.parametrize("arguments", [[], ["apps"], ["apps", "grow"], ["keys", "make", "app1"], ["topics", "put"]])
def test_misuse_says_how_to_use_it(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: kateway-admin" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["x", "nan", "inf", "-inf", ""])
def test_text_that_is_no_number_is_named(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["apps", "put", "a", f"--readers={number}"], ["status", f"--timeout={number}"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert f"{number!r} is not a number" in capsys.readouterr().err


def test_every_option_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [
        *(["apps", action] for action in ("list", "show", "put", "delete")),
        *(["keys", action] for action in ("list", "make", "quota", "rotate", "revoke")),
        *([group, action] for group in ("topics", "bindings") for action in ("list", "show", "put", "delete")),
        *([command] for command in ("gateways", "status", "reload", "hash-secret")),
        [],
    ]
    for command in commands:
        with pytest.raises(SystemExit) as left:
            main([*command, "--help"])
        assert left.value.code == 0
        shown = capsys.readouterr().out
        options = shown.partition("options:")[2].splitlines()
        for line, following in zip(options, [*options[1:], ""], strict=True):
            if line.startswith("  -"):
                # the help stands behind the option, or on the next line where that is long
                assert "  " in line.strip() or following.startswith("        "), (command, line)


def test_an_object_is_shown_without_what_it_has_not() -> None:
    found = {"quota": {}, "sunset": None, "description": "", "last": {"ok": True, "reason": "", "at": "now"}}
    shown = "quota: none\nsunset: none\ndescription:\nlast: ok=yes at=now"
    assert show(found, as_json=False) == shown


def test_table_leaves_out_empty_columns_and_drives_no_terminal() -> None:
    rows = [{"name": "a", "x": None, "y": True}, {"name": "bb", "x": None, "description": "\x1b[2J"}]
    assert table(rows) == "NAME  Y    DESCRIPTION\na     yes\nbb         ?[2J"
    assert show({"items": []}, as_json=False) == "none"
    assert show(None, as_json=True) == "null"


@pytest.mark.parametrize(
    ("endpoint", "loopback"),
    [
        ("tcp:9093:interface=127.0.0.1", True),
        ("tcp:9093:interface=127.1.2.3", True),
        (r"tcp:9093:interface=\:\:1", True),
        ("tcp:9093:interface=localhost", True),
        ("unix:/run/kateway.sock", True),
        ("tcp:9093", False),
        ("tcp:9093:interface=0.0.0.0", False),
        ("ssl:9093:privateKey=x.pem:interface=192.0.2.1", False),
        ("tcp:9093:interface=example.org", False),
    ],
)
def test_an_exposed_admin_listener_needs_a_token(endpoint: str, loopback: bool) -> None:
    assert is_loopback(endpoint) is loopback
    if loopback:
        assert read_tokens(AdminConfig(), [endpoint]) == {}
    else:
        with pytest.raises(ConfigError, match=r"admin\.token_file"):
            read_tokens(AdminConfig(), ["unix:/x", endpoint])


def test_a_token_file_holds_one_word(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token("admin.token_file", str(tmp_path / "token")) == TOKEN.encode()
    (tmp_path / "token").write_text("short")
    assert read_token("admin.token_file", str(tmp_path / "token")) == b"short"
    for bad in ("", "\n", "two words", "two\nlines", "wörd"):
        (tmp_path / "token").write_text(bad)
        with pytest.raises(ConfigError):
            read_token("admin.token_file", str(tmp_path / "token"))
    with pytest.raises(ConfigError, match="No such file"):
        read_token("admin.token_file", str(tmp_path / "missing"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_is_printed_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    assert ended.value.code == 0
    script = capsys.readouterr().out
    assert "kateway-admin" in script
    assert "hash-secret" in script


def test_completion_in_bash_offers_commands_actions_and_options(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    with script.open("w") as file, pytest.raises(SystemExit), contextlib.redirect_stdout(file):
        main(["--print-completion", "bash"])

    def offered(line: str) -> list[str]:
        words = line.split(" ")
        program = (
            f"source {script}; COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}; "
            "$(complete -p kateway-admin | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo \"${COMPREPLY[@]}\""
        )
        return subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert offered("kateway-admin ap") == ["apps"]
    assert offered("kateway-admin apps pu") == ["put"]
    assert "--json" in offered("kateway-admin apps list --js")


def test_hashed_secret_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hash-secret", "other", "--json"]) == 0
    assert matches("other", json.loads(capsys.readouterr().out)["secret_hash"])
    assert main(["hash-secret", "--new", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert matches(made["secret"], made["secret_hash"])


@pytest_twisted.ensureDeferred
async def test_a_list_is_filtered_and_sorted(gateway: Gateway) -> None:
    await gateway("apps", "put", "app1")
    for name, partitions in (("alpha", 2), ("beta", 1), ("alphabet", 1)):
        await gateway("topics", "put", f"app1/{name}/v1", "--partitions", str(partitions))

    async def names(*options: str) -> list[str]:
        found = (await gateway("topics", "list", *options, "--json")).json
        return [item["name"] for item in found["items"]]

    assert await names("--contains", "alpha") == ["app1/alpha/v1", "app1/alphabet/v1"]
    assert await names("--sort", "partitions", "--desc") == ["app1/alpha/v1", "app1/alphabet/v1", "app1/beta/v1"]
    assert (await gateway("topics", "list", "--sort", "color")).status == 1
