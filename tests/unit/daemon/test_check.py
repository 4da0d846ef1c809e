"""``--check``: every fault that would refuse the start is named with its path; nothing is made or taken by looking."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from kateway.config.file import from_table
from kateway.daemon.check import check
from kateway.errors import ConfigError


def problems(table: dict[str, Any]) -> list[str]:
    from twisted.internet import reactor

    try:
        check(from_table(table), reactor)
    except ConfigError as error:
        return error.problems
    return []


KAFKA = {"driver": "kafka", "brokers": ["127.0.0.1:9092"]}
REGISTERED = {"driver": "embedded"}


def influx(**changes: Any) -> dict[str, Any]:
    return {"metrics": {"influx": {"url": "http://127.0.0.1:8086", "database": "d", **changes}}}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"http": {"public": ["tcp:0", "tcp:0"], "admin": ["unix:admin.socket"]}},
        {"http": {"public": ["tcp:0:127.0.0.1", "tcp6:0:interface=\\:\\:1", "systemd:domain=INET:index=0"]}},
        {"http": {"public": ["tcp:9090:interface=127.0.0.1"], "admin": ["tcp:9090:interface=127.0.0.2"]}},
        {"http": {"proxies": ["10.0.0.7", "10.1.0.0/16", "fd00::/8", "unix"]}},
        {"http": {"cors_origins": ["https://pages.example", "http://localhost:8080", "http://[::1]:8080", "null"]}},
        {"storage": {"default": KAFKA, "other": {"path": "elsewhere"}}, "registry": REGISTERED},
        {"storage": {"default": {"driver": "kafka", "brokers_from_zookeeper": "zk1:2181,zk2/kafka"}}},
        {"tracing": {"otlp_endpoint": "https://collector.example/otlp", "sample_ratio": 1}},
        {"metrics": {"influx": {"url": "http://[::1]:8086/below/", "database": "d", "tags": {"site": "Graz, 1"}}}},
        {"metrics": {"influx": {"url": "https://influx.example", "org": "o", "bucket": "b", "token_env": "HOME"}}},
        {"log": {"access_file": "access.log"}, "audit": {"sinks": ["file", "topic"], "topic": "audit"}},
    ],
)
def test_configuration_that_can_start_has_no_problem_and_leaves_nothing_behind(
    table: dict[str, Any], tmp_path: Path
) -> None:
    assert problems(table) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"http": {"public": ["9090"]}}, "http.public: '9090' is no endpoint"),
        ({"http": {"public": ["tcp:70000"]}}, "http.public: tcp:70000: port must be"),
        ({"http": {"public": ["tcp:http"]}}, "http.public: tcp:http: port must be"),
        ({"http": {"public": ["tcp:0:colour=red"]}}, "http.public: tcp:0:colour=red is not an endpoint"),
        ({"http": {"public": ["tcp:0:interface=192.0.2.1"]}}, "http.public: 192.0.2.1 is no address of this machine"),
        (
            {"http": {"public": ["unix:/no/such/folder/socket"]}},
            "http.public: no socket can be made in /no/such/folder",
        ),
        ({"http": {"public": ["ssl:0:privateKey=none.pem"]}}, "http.public: ssl:0: none.pem: No such file"),
        (
            {"http": {"public": ["tcp:9000:interface=127.0.0.1", "tcp:9000"]}},
            "http: tcp:9000: port 9000 is there twice",
        ),
        ({"http": {"admin": ["unix:one", "unix:one"]}}, "http: unix:one: this socket is there twice"),
        ({"http": {"cors_origins": ["*"]}}, "http.cors_origins: '*' is no origin"),
        ({"http": {"cors_origins": ["https://pages.example/"]}}, "http.cors_origins: 'https://pages.example/' is no"),
        ({"http": {"proxies": ["10.0.0.1/8"]}}, "http.proxies: '10.0.0.1/8' is no address and no network such as"),
        ({"http": {"drain_seconds": 5, "drain_delay_seconds": 6}}, "http.drain_delay_seconds: is part of"),
        ({"http": {"admin": ["tcp:0"]}}, "admin.token_file: is required, because tcp:0 is not loopback"),
        ({"admin": {"token_file": "none"}}, "admin.token_file: none: No such file"),
        ({"storage": {"default": {"path": ""}}}, "storage.default.path: a directory is needed"),
        ({"storage": {"default": {"path": "/dev/null/data"}}}, "storage.default.path: /dev/null is no directory"),
        (
            {"storage": {"default": {}, "two": {"path": "./kateway-data/"}}},
            "storage: two embedded clusters have the same",
        ),
        ({"storage": {"default": {**KAFKA, "brokers": ["x:9092:1"]}}}, "storage.default.brokers: 'x:9092:1' is not"),
        ({"storage": {"default": {**KAFKA, "brokers": ["x:70000"]}}}, "storage.default.brokers: 'x:70000' is not"),
        (
            {"storage": {"default": {"driver": "kafka", "brokers_from_zookeeper": "zk:x"}}},
            "storage.default.brokers_from",
        ),
        (
            {"storage": {"default": {**KAFKA, "tls": {"enabled": True, "ca_file": "none.pem"}}}},
            "storage.default.tls.ca_file: none.pem: No such file",
        ),
        (
            {"storage": {"default": {**KAFKA, "sasl": {"mechanism": "PLAIN", "username": "u"}}}},
            "storage.default.sasl: password_file, or password_env",
        ),
        ({"registry": {"driver": "file", "path": "none.toml"}}, "none.toml: No such file"),
        ({"registry": {"driver": "embedded", "path": "/dev/null/x"}}, "registry.path: /dev/null is no directory"),
        (
            {"registry": {"driver": "zookeeper", "hosts": "h:1", "credentials_env": "NOT_SET_ANYWHERE"}},
            "registry.credentials_env: there is no NOT_SET_ANYWHERE",
        ),
        ({"registry": REGISTERED, "auth": {"methods": ["magic"]}}, "auth.methods: there is no 'magic'"),
        (
            {"registry": REGISTERED, "auth": {"methods": ["jwt"], "jwt": {"jwks_file": "none"}}},
            "auth.jwt.jwks_file: none",
        ),
        ({"registry": REGISTERED, "auth": {"authorizer": "magic"}}, "auth.authorizer: there is no 'magic'"),
        (
            {"storage": {"default": {"driver": "redis"}}},
            "storage.default.driver: there is no 'redis' among the entry points kateway.stores (embedded, kafka)",
        ),
        ({"metrics": {"sinks": ["pigeon"]}}, "metrics.sinks: there is no 'pigeon'"),
        ({"metrics": {"sinks": ["pigeon"], "enabled": False}}, "metrics.sinks: without metrics.enabled"),
        (
            {"tracing": {"otlp_endpoint": "collector:4318"}},
            "tracing.otlp_endpoint: 'collector:4318' is not http://HOST:PORT",
        ),
        ({"tracing": {"sample_ratio": 1.5}}, "tracing.sample_ratio"),
        (influx(database=""), "metrics.influx.database: a database, or org and bucket, is needed"),
        (influx(database="", bucket="b"), "metrics.influx.database: a database, or org and bucket, is needed"),
        (influx(bucket="b", org="o"), "metrics.influx.database: it is of version 1, org and bucket are of"),
        (influx(url="ftp://h"), "metrics.influx.url: 'ftp://h' is not http://HOST:PORT"),
        (influx(url="http://h:x"), "metrics.influx.url: 'http://h:x' is not http://HOST:PORT"),
        (influx(url="http://a:b@h"), "metrics.influx.url: user and password have options of their own"),
        (influx(url="http://h/write?db=d"), "metrics.influx.url: it has a query"),
        (influx(user="u"), "metrics.influx.user: it needs a password"),
        (influx(user="u", password_file="none"), "metrics.influx.password_file: none: No such file"),
        (influx(token_env="NOT_SET_ANYWHERE"), "metrics.influx.token_env: there is no NOT_SET_ANYWHERE"),
        (influx(ca_file="none.pem"), "metrics.influx.ca_file: none.pem: No such file"),
        (influx(ca_file="/dev/null"), "metrics.influx.ca_file: /dev/null: holds no certificate"),
        (influx(tags={"topic": "x"}), "metrics.influx.tags.topic: metrics have such a tag"),
        (influx(tags={"a b": "x"}), "metrics.influx.tags.a b: must be letters"),
        (influx(tags={"a": ""}), "metrics.influx.tags.a: a text of one line"),
        ({"metrics": {"influx": {"tags": {"a": 1}}}}, "metrics.influx.tags: must be a table of texts"),
        ({"metrics": {**influx()["metrics"], "enabled": False}}, "metrics.influx.url: without metrics.enabled"),
        ({"audit": {"sinks": ["carrier-pigeon"]}}, "audit.sinks: there is no 'carrier-pigeon'"),
        ({"audit": {"sinks": ["topic"], "topic": "t", "cluster": "none"}}, "audit.cluster: there is no [storage.none]"),
        ({"log": {"access_file": "no/such/access.log"}}, "log.access_file: "),
        (
            {"storage": {"default": {"driver": "embedded", "path": "/proc/kateway/data"}}},
            "storage.default.path: /proc ",
        ),
    ],
)
def test_option_that_refuses_the_start_is_named_by_its_path(table: dict[str, Any], told: str) -> None:
    found = problems(table)
    assert len(found) == 1, found
    assert found[0].startswith(told)


def test_problems_of_every_part_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_text('[applications."a b"]\n[topics.x]\ncolour = 1\n')
    found = problems(
        {
            "http": {"public": ["tcp:70000"], "cors_origins": ["x"]},
            "admin": {"token_file": "none"},
            "storage": {"default": {**KAFKA, "brokers": ["x"], "tls": {"enabled": True, "ca_file": "none"}}},
            "registry": {"driver": "file", "path": str(tmp_path / "registry.toml")},
            "auth": {"methods": ["magic"], "authorizer": "magic"},
            "audit": {"sinks": ["magic", "topic"], "topic": "t"},
        }
    )
    assert len(found) == len(set(found))
    for path in (
        "http.public:",
        "http.cors_origins:",
        "admin.token_file:",
        "storage.default.brokers:",
        "storage.default.tls.ca_file:",
        "auth.methods:",
        "auth.authorizer:",
        "audit.sinks:",
    ):
        assert [one for one in found if one.startswith(path)], path
    assert len([one for one in found if "registry.toml" in one]) >= 2, found


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"process": {"count": 2}}, "with [process] count there are several processes"),
        ({"cluster": {"endpoint": "tcp:9095", "secret_file": "secret"}}, "with [cluster] endpoint there are several"),
    ],
)
def test_elastic_topics_of_a_file_that_several_go_by_are_a_fault(
    tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    file = tmp_path / "registry.toml"
    file.write_text('[applications.a]\n[topics."a/t/v1"]\nelastic = {}\n')
    settings = {"storage": {"default": KAFKA}, "registry": {"driver": "file", "path": str(file)}}
    assert problems(settings) == []
    (found,) = [one for one in problems({**settings, **options}) if "elastic" in one]
    assert found.startswith(f"{file}: topics.a/t/v1.elastic: {told}")
    assert 'set [registry] driver = "zookeeper"' in found


def test_a_taken_port_is_no_fault_of_the_configuration() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert problems({"http": {"public": [f"tcp:{port}:interface=127.0.0.1"]}}) == []
