"""An upgrade is refused where the new code could not listen, or not keep its records."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from kateway.config.file import from_table
from kateway.daemon.trial import try_out
from kateway.errors import ConfigError


def test_port_that_another_has_is_named_and_a_free_or_present_one_is_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_server(("127.0.0.1", 0)) as own:
        theirs, ours = (f"tcp:{each.getsockname()[1]}:interface=127.0.0.1" for each in (other, own))
        present = from_table({"data_directory": str(tmp_path), "http": {"public": [ours]}})
        free = "tcp:0:interface=127.0.0.1"
        try_out(present, from_table({"data_directory": str(tmp_path), "http": {"public": [ours, free]}}))
        with pytest.raises(ConfigError) as caught:
            try_out(present, from_table({"data_directory": str(tmp_path), "http": {"public": [ours, theirs]}}))
        (problem,) = caught.value.problems
        assert problem.startswith(f"cannot listen on {theirs}")


def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    present = from_table({"data_directory": str(tmp_path)})
    (tmp_path / "file").write_text("")
    try_out(present, from_table({"data_directory": str(tmp_path / "new" / "data")}))
    assert not (tmp_path / "new").exists()
    table = {"data_directory": str(tmp_path), "storage": {"default": {"path": str(tmp_path / "file" / "store")}}}
    with pytest.raises(ConfigError, match="is no directory"):
        try_out(present, from_table(table))


@pytest.mark.parametrize("path", ["/proc/nope", "/proc/nope/store", "/proc"])
def test_directory_where_even_root_can_make_nothing_is_named(tmp_path: Path, path: str) -> None:
    present = from_table({"data_directory": str(tmp_path)})
    for table in (
        {"storage": {"other": {"driver": "embedded", "path": path}}},
        {"registry": {"driver": "embedded", "path": path}},
    ):
        with pytest.raises(ConfigError, match=f"{path}: no file can be made in it"):
            try_out(present, from_table({"data_directory": str(tmp_path), **table}))


def test_port_of_links_that_is_taken_and_folder_of_a_unix_socket_that_is_missing_are_named(tmp_path: Path) -> None:
    present = from_table({"data_directory": str(tmp_path)})
    with socket.create_server(("127.0.0.1", 0)) as other:
        theirs = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
        tables = {"cluster": {"endpoint": theirs}}, {"http": {"admin": [f"unix:{tmp_path}/none/socket"]}}
        for table in tables:
            with pytest.raises(ConfigError, match="cannot listen on"):
                try_out(present, from_table({"data_directory": str(tmp_path), **table}))
    try_out(present, from_table({"data_directory": str(tmp_path), "http": {"admin": [f"unix:{tmp_path}/socket"]}}))
    assert list(tmp_path.iterdir()) == []


def test_two_new_endpoints_of_one_port_are_named(tmp_path: Path) -> None:
    present = from_table({"data_directory": str(tmp_path)})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    table = {"public": [f"tcp:{port}:interface=127.0.0.1"], "admin": [f"tcp:{port}:interface=localhost"]}
    with pytest.raises(ConfigError, match="interface=localhost"):
        try_out(present, from_table({"data_directory": str(tmp_path), "http": table}))
