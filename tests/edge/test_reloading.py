"""Reloads while the gateway runs: changes, options that stay, and clients that notice nothing."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from administered import IN_FILE, REGISTRY, Administered
from cryptography import x509
from gateways import Client, eventually
from test_tls_listener import issue, save
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import formatEvent, globalLogPublisher

from kateway.config.file import load
from kateway.core.audited_changes import By
from kateway.daemon.service import GatewayService
from kateway.errors import ConfigError, Problems
from kateway.web.tcp.tls import tls_endpoint

here = pytest_twisted.ensureDeferred
PUBLISHERS, STREAMS, RELOADS = 50, 20, 20
LOOPBACK = '["tcp:0:interface=127.0.0.1"]'


class FromFile(Administered):
    """A gateway on a configuration file and a registry file, which ``write`` changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "kateway.toml"
        self.registry = folder / "registry.toml"
        self.registry.write_text(REGISTRY)
        self.write()
        super().__init__(load(self.file))
        self.service = GatewayService(load(self.file), reactor, lambda: load(self.file))
        self.secrets = dict(IN_FILE)

    def write(self, http: str = "", tables: str = "", public: str = LOOPBACK) -> None:
        self.file.write_text(
            f"[http]\npublic = {public}\nadmin = {LOOPBACK}\ndrain_seconds = 3\n{http}\n"
            f'[storage.default]\ndriver = "embedded"\npath = "{self.folder}/data"\n'
            f'[registry]\ndriver = "file"\npath = "{self.registry}"\n{tables}\n'
        )

    async def last_reload(self) -> dict[str, Any]:
        configuration: dict[str, Any] = (await self.admin("GET", "/status")).json()["configuration"]
        return configuration


@pytest_twisted.async_yield_fixture
async def gateway(tmp_path: Path) -> AsyncIterator[FromFile]:
    made = FromFile(tmp_path)
    await made.start()
    yield made
    await made.stop()


@here
async def test_publishers_and_streams_notice_nothing_of_reloads(gateway: FromFile) -> None:
    streams = []
    for number in range(STREAMS):
        client = await Client.connect(gateway.port)
        client.send(
            f"GET /v1/topics/foo/g{number}?follow=1 HTTP/1.1\r\nHost: x\r\n"
            f"Accept: application/x-ndjson\r\n{gateway.head('app1-sub')}\r\n"
        )
        await client.until(b"\r\n\r\n")
        streams.append(client)
    over = False
    statuses: list[int] = []

    async def publish() -> None:
        client = await Client.connect(gateway.port)
        count = 0
        while not over:
            client.send(
                f"POST /v1/topics/foo HTTP/1.1\r\nHost: x\r\n{gateway.head('app1-pub')}Content-Length: 1\r\n\r\nx"
            )
            count += 1
            await eventually(lambda count=count: client.received.count(b"HTTP/1.1 ") == count or client.lost)  # type: ignore[misc]
            assert not client.lost
            statuses.append(201 if client.received.count(b"HTTP/1.1 201") == count else 0)
        client.close()

    publishers = [Deferred.fromCoroutine(publish()) for _ in range(PUBLISHERS)]
    for number in range(RELOADS):
        gateway.write(f"max_body_bytes = {1000 + number}", f"[auth]\nmax_cached_secrets = {10 + number}")
        if number % 2:
            assert (await gateway.admin("POST", "/reload")).status == 200
        else:
            os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda number=number: gateway.service.settings.http.max_body_bytes == 1000 + number)  # type: ignore[misc]
        await deferLater(reactor, 0.02)  # type: ignore[arg-type]
    over = True
    await gatherResults(publishers)
    assert set(statuses) == {201}
    for client in streams:
        await eventually(lambda client=client: client.received.count(b'"offset"') == len(statuses), 20)  # type: ignore[misc]
        assert not client.lost
        client.close()
    configuration = await gateway.last_reload()
    assert configuration["generation"] == RELOADS + 1
    assert configuration["last_reload"]["ok"] is True


@pytest.mark.parametrize(
    ("http", "tables", "path"),
    [
        ("max_body_bytes = -1", "", "http.max_body_bytes"),
        ("no_such_option = 1", "", "http.no_such_option"),
        ("", '[auth]\nmethods = ["no-such"]', "auth.methods"),
        ("", '[auth]\nmethods = ["jwt"]', "auth.jwt"),
        ("", "[auth]\nmax_failures = 3", "auth.max_failures: cannot change while the gateway runs"),
        ("", '[admin]\ntoken_file = "/nowhere/token"', "admin.token_file"),
        ("", "[log]\naccess = false", "log.access: cannot change while the gateway runs"),
        ("", '[storage.second]\ndriver = "embedded"\npath = "x"', "storage.second: cannot change"),
        ("", '[audit]\nfile = "elsewhere"', "audit.file: cannot change"),
    ],
)
@here
async def test_fault_is_named_and_nothing_comes_into_force(
    gateway: FromFile, http: str, tables: str, path: str
) -> None:
    gateway.write(f'{http}\ncors_origins = ["https://shop.example"]', tables)
    gateway.registry.write_text(REGISTRY.replace('"app1-pub"', '"renamed"'))
    answer = await gateway.admin("POST", "/reload")
    assert (answer.status, answer.code) == (422, "unprocessable")
    assert any(path in problem for problem in answer.json()["problems"]), answer.json()
    configuration = await gateway.last_reload()
    assert configuration["generation"] == 1
    assert configuration["last_reload"]["ok"] is False
    assert any(path in problem for problem in configuration["last_reload"]["problems"])
    assert gateway.service.settings.http.cors_origins == ()
    assert (await gateway.publish("app1", "foo")).status == 201


@here
async def test_another_listener_address_takes_a_restart_and_says_so(gateway: FromFile) -> None:
    gateway.write(public='["tcp:0:interface=127.0.0.2"]')
    answer = await gateway.admin("POST", "/reload")
    assert answer.status == 422
    assert answer.json()["problems"] == ["http.public: cannot change while the gateway runs; restart it"]


@here
async def test_admin_token_and_hosts_change_in_place(gateway: FromFile, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-that-is-long-enough\n")
    gateway.write(tables=f'[admin]\ntoken_file = "{tmp_path}/token"\nhosts = ["admin.example"]')
    assert (await gateway.admin("GET", "/status", headers={"Host": "admin.example"})).status == 421
    assert (await gateway.admin("POST", "/reload")).status == 200
    assert (await gateway.admin("GET", "/status")).status == 401
    headers = {"Authorization": "Bearer a-token-that-is-long-enough", "Host": "admin.example"}
    assert (await gateway.admin("GET", "/status", headers=headers)).status == 200


def settings_memories() -> int:
    """How many descriptors this process has of configurations for a successor."""
    links = (one for one in Path("/proc/self/fd").iterdir() if one.is_symlink())
    return sum("memfd:kateway-settings" in str(one.readlink()) for one in links)


@here
async def test_upgrade_that_a_stop_overtakes_leaves_nothing_open(
    gateway: FromFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sound.py").write_text("")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "sound.py"), "-n", "kateway"])
    before = settings_memories()
    upgrading = Deferred.fromCoroutine(gateway.service.upgrade())
    gateway.service.http.listening.draining = True
    with pytest.raises(ConfigError, match="the gateway is stopping"):
        await upgrading
    assert settings_memories() == before
    assert gateway.service.upgrading.successor is None


@here
async def test_limit_changes_for_open_connections_too(gateway: FromFile) -> None:
    for _ in range(2):  # its head is known by the second
        assert (await gateway.publish("app1", "foo", b"x" * 11)).status == 201
    gateway.write("max_body_bytes = 10\nmax_unsent_bytes = 5000")
    assert (await gateway.admin("POST", "/reload")).status == 200
    (channel,) = gateway.service.http.listening.public._channels
    assert channel.transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 5000
    assert (await gateway.publish("app1", "foo", b"x" * 11)).status == 413
    assert channel.connection.closing
    assert (await gateway.publish("app1", "foo", b"x" * 10)).status == 201


@here
async def test_origins_change_for_open_connections_too(gateway: FromFile) -> None:
    async def status() -> int:
        headers = {**gateway.key("app1-pub"), "Origin": "https://shop.example"}
        return (await gateway.request("POST", "/v1/topics/foo", b"x", headers=headers)).status

    for origins, expected in (("[]", 403), ('["https://shop.example"]', 201), ("[]", 403)):
        gateway.write(f"cors_origins = {origins}")
        assert (await gateway.admin("POST", "/reload")).status == 200
        assert [await status(), await status()] == [expected, expected]
        assert gateway.service.http.listening.public.connections == 1


@here
async def test_a_listeners_certificate_is_read_again_and_a_client_certificate_is_an_application(
    tmp_path: Path,
) -> None:
    authority = issue("CN=authority", authority=True)
    save(tmp_path, "ca", authority)
    save(tmp_path, "server", issue("CN=server"))
    mine = save(tmp_path, "mine", issue("CN=app1,O=Example", authority))
    other = save(tmp_path, "other", issue("CN=nobody", authority))
    tables = (
        '[auth]\nmethods = ["client-certificate", "key-secret"]\n'
        '[auth.client_certificate.subjects]\n"CN=app1,O=Example" = "app1"'
    )
    tls = (
        f"ssl:0:interface=127.0.0.1:privateKey={tmp_path}/server.key:certKey={tmp_path}/server.pem"
        f":clientCa={tmp_path}/ca.pem"
    )
    gateway = FromFile(tmp_path)
    gateway.write(tables=tables, public=f'["{tls}"]')
    gateway.service = GatewayService(load(gateway.file), reactor, lambda: load(gateway.file))
    await gateway.start()
    try:
        assert await deferToThread(post, gateway.port, mine) == 201
        assert await deferToThread(post, gateway.port, other) == 401
        assert await deferToThread(post, gateway.port, None) == 401
        assert (await deferToThread(served_by, gateway.port)) == "CN=server"
        save(tmp_path, "server", issue("CN=renewed"))
        assert (await gateway.admin("POST", "/reload")).status == 200
        assert (await deferToThread(served_by, gateway.port)) == "CN=renewed"
        listening = gateway.service.http.listening
        candidates = listening.candidates(Problems())
        # of a listener in another process's place, while the registry was read
        listening._certificates.append(tls_endpoint(reactor, tls)[1])
        listening.take(candidates)
        listening._certificates.pop()
        await deferToThread((tmp_path / "server.pem").write_text, "broken")
        answer = await gateway.admin("POST", "/reload")
        assert answer.status == 422
        assert "server.pem: holds no certificate" in answer.json()["problems"][0]
        assert (await deferToThread(served_by, gateway.port)) == "CN=renewed"
        assert await deferToThread(post, gateway.port, mine) == 201
    finally:
        await gateway.stop()


def post(port: int, client: tuple[Path, Path] | None) -> int:
    """The status of a publish over TLS."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusting(client))
    try:
        connection.request("POST", "/v1/topics/foo", b"x")
        return connection.getresponse().status
    finally:
        connection.close()


def trusting(client: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if client is not None:
        context.load_cert_chain(*client)
    return context


def served_by(port: int) -> str:
    """The subject of the certificate that a listener shows."""
    with socket.create_connection(("127.0.0.1", port), 10) as raw, trusting(None).wrap_socket(raw) as wrapped:
        return x509.load_der_x509_certificate(wrapped.getpeercert(True) or b"").subject.rfc4514_string()


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    lines: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if event["log_level"].name == "warn":
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


@here
async def test_reload_by_the_admin_api_that_fails_is_in_the_log(gateway: FromFile, warnings: list[str]) -> None:
    gateway.write(http="max_body_bytes = -1\nnever_heard_of = 1")
    refused = await gateway.admin("POST", "/reload")
    assert refused.status >= 400
    (line,) = [line for line in warnings if "nothing was reloaded" in line]
    assert "never_heard_of" in line
    assert "max_body_bytes" in line


@here
async def test_use_of_a_key_just_before_a_reload_is_noted(gateway: FromFile) -> None:
    assert (await gateway.publish("app1", "foo")).status == 201
    gateway.write(http="keepalive_idle_seconds = 50")
    assert (await gateway.admin("POST", "/reload")).status == 200
    assert "app1-pub" in gateway.service.parts.admitting.just_used()


@here
async def test_reload_holds_though_registered_topics_cannot_be_made(
    gateway: FromFile, logged_errors: list[dict[str, Any]]
) -> None:
    async def breaks() -> None:
        raise ZeroDivisionError

    gateway.service.parts.administration.make_topics = breaks  # type: ignore[method-assign]
    await gateway.service.reload()
    assert gateway.service.status()["configuration"]["last_reload"]["ok"]
    assert logged_errors[0]["log_failure"].check(ZeroDivisionError)
    logged_errors.clear()


@here
async def test_breaker_opened_by_hand_is_audited_once_and_stays_open_over_a_reload(gateway: FromFile) -> None:
    events: list[tuple[str, str]] = []
    gateway.service.parts.audit.record = lambda actor, action, *_, **__: events.append((actor, action))  # type: ignore[method-assign]
    breakers, by = gateway.service.parts.storing.breakers, By("admin")
    await gateway.service.parts.administration.set_breaker("default", "open", by)
    await gateway.service.reload()
    assert breakers["default"].state == "open"
    await gateway.service.parts.administration.set_breaker("default", "closed", by)
    assert events == [("admin", "breaker.open"), ("admin", "breaker.closed")]
    breakers["default"]._open(0.0)
    breakers._tell("default")
    assert events[2:] == [("gateway", "breaker.open")]
    breakers.set_by_hand("default", "closed")


@here
async def test_reload_whose_caller_has_gone_comes_into_force_all_the_same(gateway: FromFile) -> None:
    gateway.write("max_body_bytes = 1234")
    reloading = Deferred.fromCoroutine(gateway.service.reload())
    reloading.addErrback(lambda failure: failure.trap(CancelledError) and None)
    reloading.cancel()
    await eventually(lambda: gateway.service.settings.http.max_body_bytes == 1234)
    assert (await gateway.last_reload())["last_reload"]["ok"] is True
