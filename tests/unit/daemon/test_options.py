"""The command line: what it overrides, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from kateway import __version__
from kateway.config.schema import Config, EmbeddedStorageConfig, KafkaStorageConfig
from kateway.daemon.assembly import data_directory
from kateway.daemon.options import Options


def settings(*arguments: str) -> Config:
    options = Options()
    options.parseOptions(list(arguments))
    return options.settings


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        settings(*arguments)
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_without_options_everything_is_as_configured_by_default() -> None:
    assert settings() == Config()


def test_endpoints_replace_the_files(tmp_path: Path) -> None:
    file = tmp_path / "kateway.toml"
    file.write_text('[http]\npublic = ["tcp:1111"]\nadmin = ["tcp:2222:interface=127.0.0.1"]\n')
    found = settings("--config", str(file), "--public", "tcp:3333", "--public", "unix:/run/kateway")
    assert found.http.public == ("tcp:3333", "unix:/run/kateway")
    assert found.http.admin == ("tcp:2222:interface=127.0.0.1",)


def test_command_line_overrides_the_environment_and_that_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kateway.toml"
    file.write_text('[http]\npublic = ["tcp:1111"]\nadmin = ["tcp:2222:interface=127.0.0.1"]\n')
    monkeypatch.setenv("KATEWAY_HTTP_PUBLIC", "tcp:4444")
    monkeypatch.setenv("KATEWAY_HTTP_ADMIN", "tcp:5555:interface=127.0.0.1")
    found = settings("--config", str(file), "--public", "tcp:3333")
    assert (found.http.public, found.http.admin) == (("tcp:3333",), ("tcp:5555:interface=127.0.0.1",))


def test_check_prints_the_variables_that_are_in_force(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KATEWAY_HTTP_MAX_BODY_BYTES", "5000")
    with pytest.raises(SystemExit) as ended:
        settings("--check", "--public", "tcp:0:interface=127.0.0.1", "--admin", "tcp:0:interface=127.0.0.1")
    assert ended.value.code == 0
    assert "KATEWAY_HTTP_MAX_BODY_BYTES overrides http.max_body_bytes" in capsys.readouterr().out


def test_variable_of_no_table_is_a_fault_for_check_and_named_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KATEWAY_HTPP_PUBLIC", "tcp:1")
    assert refused(capsys, "--check") == "kateway: KATEWAY_HTPP_PUBLIC: there is no such option\n"
    settings("--public", "tcp:0:interface=127.0.0.1", "--admin", "tcp:0:interface=127.0.0.1")
    assert "KATEWAY_HTPP_PUBLIC is ignored" in capsys.readouterr().err


def test_data_is_the_default_stores_folder() -> None:
    default = settings("--data", "/srv/kateway").storage["default"]
    assert isinstance(default, EmbeddedStorageConfig)
    assert default.path == "/srv/kateway"


def test_kafka_is_the_default_cluster() -> None:
    default = settings("--kafka", "a:9092, b:9093").storage["default"]
    assert isinstance(default, KafkaStorageConfig)
    assert default.brokers == ("a:9092", "b:9093")


def test_kafka_keeps_what_the_file_says_of_that_cluster(tmp_path: Path) -> None:
    file = tmp_path / "kateway.toml"
    file.write_text('[storage.default]\ndriver = "kafka"\ncompression = "lz4"\n')
    default = settings("--config", str(file), "--kafka", "a:9092").storage["default"]
    assert isinstance(default, KafkaStorageConfig)
    assert (default.brokers, default.compression) == (("a:9092",), "lz4")


def test_data_beside_kafka_is_where_audit_and_registry_are() -> None:
    given = settings("--kafka", "a:9092", "--data", "here")
    assert isinstance(given.storage["default"], KafkaStorageConfig)
    assert data_directory(given) == Path("here")


def test_kafka_without_a_broker_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "--kafka", "") == "kateway: --kafka: at least one HOST:PORT is needed\n"


def test_every_fault_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "--kafka", "nowhere", "--public", "9090", "--admin", "tcp:")
    assert [line.split()[1] for line in told.splitlines()] == [
        "storage.default.brokers:",
        "http.public:",
        "http.admin:",
    ]


def test_a_host_and_a_port_are_refused_with_what_they_should_be(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "--public", "127.0.0.1:9090", "--admin", "9091", "--public", "[::1]:9090")
    assert "such as tcp:9090:interface=127.0.0.1\n" in told
    assert "such as tcp:9091\n" in told
    assert told.count("such as") == 2


def test_a_file_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "No such file" in refused(capsys, "--config", str(tmp_path / "none.toml"))


def test_check_ends_with_0_where_nothing_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        settings("--check")
    assert ended.value.code == 0
    assert "fine" in capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        settings("--version")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"kateway {__version__}\n"


def test_a_later_read_sees_the_file_as_it_is_then(tmp_path: Path) -> None:
    file = tmp_path / "kateway.toml"
    file.write_text("[http]\nmax_body_bytes = 1000\n")
    options = Options()
    options.parseOptions(["--config", str(file), "--public", "tcp:3333"])
    file.write_text("[http]\nmax_body_bytes = 2000\n")
    again = options.read()
    assert (again.http.max_body_bytes, again.http.public) == (2000, ("tcp:3333",))
    assert options.settings.http.max_body_bytes == 1000
