"""Environment variables over the file: every plain option has one, and each fault is named by its variable."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from kateway.config.environment import overlay
from kateway.config.file import from_table
from kateway.config.schema import Config, EmbeddedStorageConfig, KafkaStorageConfig, PluginStorageConfig
from kateway.errors import ConfigError


def configured(environ: dict[str, str], file: str = "") -> Config:
    return from_table(overlay(tomllib.loads(file), environ).table)


def faults(environ: dict[str, str], file: str = "") -> list[str]:
    with pytest.raises(ConfigError) as refused:
        configured(environ, file)
    return refused.value.problems


def test_without_variables_the_file_says_everything() -> None:
    assert configured({"PATH": "/bin", "KATEWAYX": "1"}) == Config()


def test_variables_of_each_kind_override_the_file() -> None:
    found = configured(
        {
            "KATEWAY_HTTP_MAX_BODY_BYTES": "4194304",
            "KATEWAY_HTTP_PUBLIC": "tcp:1, tcp:2",
            "KATEWAY_HTTP_DRAIN_SECONDS": "1.5",
            "KATEWAY_LOG_ACCESS": "false",
            "KATEWAY_LOG_FORMAT": "json",
            "KATEWAY_AUTH_JWT_AUDIENCE": "us",
            "KATEWAY_DATA_DIRECTORY": "/srv",
            "KATEWAY_AUDIT_SINKS": "",
        },
        "[http]\nmax_body_bytes = 7\nmax_header_count = 9\n",
    )
    assert (found.http.max_body_bytes, found.http.public, found.http.drain_seconds) == (
        4194304,
        ("tcp:1", "tcp:2"),
        1.5,
    )
    assert found.http.max_header_count == 9
    assert (found.log.access, found.log.format, found.auth.jwt.audience) == (False, "json", "us")
    assert (found.data_directory, found.audit.sinks) == ("/srv", ())


def test_brokers_make_the_cluster_a_kafka() -> None:
    found = configured(
        {"KATEWAY_STORAGE_DEFAULT_BROKERS": "a:1,b:2", "KATEWAY_STORAGE_DEFAULT_SASL_USERNAME": "me"}
    ).storage["default"]
    assert isinstance(found, KafkaStorageConfig)
    assert (found.brokers, found.sasl.username) == (("a:1", "b:2"), "me")


def test_option_of_the_embedded_store_leaves_it_embedded() -> None:
    found = configured({"KATEWAY_STORAGE_DEFAULT_PARTITIONS": "8"}).storage["default"]
    assert found == EmbeddedStorageConfig(partitions=8)


def test_cluster_of_the_file_is_found_by_its_name() -> None:
    file = '[storage.eu-west]\ndriver = "kafka"\n'
    found = configured({"KATEWAY_STORAGE_EU_WEST_COMPRESSION": "lz4"}, file).storage
    assert set(found) == {"eu-west"}
    assert found["eu-west"].compression == "lz4"  # type: ignore[union-attr]


def test_every_fault_is_named_by_its_variable() -> None:
    assert faults(
        {
            "KATEWAY_HTTP_MAX_BODY_BYTES": "many",
            "KATEWAY_HTTP_MAX_HEADER_COUNT": "0",
            "KATEWAY_HTTP_NO_SUCH": "1",
            "KATEWAY_LOG_ACCESS": "perhaps",
            "KATEWAY_LOG_FORMAT": "xml",
            "KATEWAY_STORAGE_OTHER_PARTITIONS": "3",
        }
    ) == [
        "KATEWAY_HTTP_MAX_BODY_BYTES: must be a whole number, is 'many'",
        "KATEWAY_HTTP_MAX_HEADER_COUNT: must be from 1 to 10000, is 0",
        "KATEWAY_HTTP_NO_SUCH: there is no such option",
        "KATEWAY_LOG_ACCESS: must be true or false, is 'perhaps'",
        "KATEWAY_LOG_FORMAT: must be one of 'text', 'json', is 'xml'",
        "KATEWAY_STORAGE_OTHER_PARTITIONS: there is no such option",
    ]


def test_driver_of_another_name_is_a_plugin() -> None:
    found = configured({"KATEWAY_STORAGE_DEFAULT_DRIVER": "redis", "KATEWAY_STORAGE_DEFAULT_PARTITIONS": "2"})
    assert found.storage["default"] == PluginStorageConfig(driver="redis", partitions=2)


def test_variables_of_other_programs_are_left_alone_and_others_are_named() -> None:
    found = overlay(
        tomllib.loads(
            '[storage.default]\ndriver = "kafka"\n[storage.default.sasl]\npassword_env = "KATEWAY_KAFKA_PW"\n'
        ),
        {
            "KATEWAY_ADMIN_URL": "http://x",
            "KATEWAY_ADMIN_TOKEN": "x",
            "KATEWAY_REQUIRE_KAFKA": "1",
            "KATEWAY_PORT_9090_TCP": "tcp://10.0.0.1:9090",
            "KATEWAY_SERVICE_HOST": "10.0.0.1",
            "KATEWAY_KAFKA_PW": "secret",
            "KATEWAY_HTPP_PUBLIC": "tcp:1",
        },
    )
    assert found.overrides == {}
    assert found.unknown == ["KATEWAY_HTPP_PUBLIC"]


def test_file_is_not_changed_and_a_faulty_table_is_the_files_fault() -> None:
    table = {"http": 7}
    laid = overlay(table, {"KATEWAY_HTTP_MAX_BODY_BYTES": "5"}).table
    assert table == {"http": 7}
    with pytest.raises(ConfigError, match="http"):
        from_table(laid)


def test_every_plain_option_of_the_documented_file_has_a_variable() -> None:
    text = (Path(__file__).parents[3] / "conf" / "kateway.toml").read_text()
    table = ""
    for line in text.splitlines():
        if line.startswith("[") or line.startswith("#["):
            table = line.strip("#[] ").upper().replace(".", "_").replace("-", "_")
        name, equals, value = line.lstrip("#").partition(" = ")
        if not equals or " " in name or value.startswith("{") or table.endswith(("OPTIONS", "SUBJECTS")) or not table:
            continue
        variable = f"KATEWAY_{table}_{name.upper()}"
        found = []
        try:
            overlay({"storage": {"main": {}, "other": {}}}, {variable: "?"})
        except ConfigError as error:
            found = error.problems
        assert not [problem for problem in found if "no such option" in problem]
