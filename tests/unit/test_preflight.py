"""What is known to fail before anything starts: one clear line each."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from aistack.dev.paths import LONGEST_SOCKET_PATH, Paths, run_directory
from aistack.dev.preflight import (
    check_data_directory,
    lock_data_directory,
    open_port,
    open_unix,
)
from aistack.service.errors import StartError


def one_line(error: pytest.ExceptionInfo[StartError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_taken_port_is_named_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError) as error:
            open_port(port)
    text = one_line(error)
    assert f"port {port} is taken" in text
    assert "--port" in text


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(StartError, match="port 70000 cannot be opened"):
        open_port(70000)


def test_port_zero_takes_a_free_one_on_loopback() -> None:
    with open_port(0) as listening:
        host, port = listening.getsockname()
    assert host == "127.0.0.1"
    assert port > 0


def test_the_second_lock_names_the_first_holder(tmp_path: Path) -> None:
    with lock_data_directory(tmp_path / "lock"):
        with pytest.raises(StartError) as error:
            lock_data_directory(tmp_path / "lock")
        text = one_line(error)
        assert f"process {os.getpid()}" in text
        assert str(tmp_path) in text
    with lock_data_directory(tmp_path / "lock"):
        pass  # free again, although the file is still there


def test_too_little_space_is_said_in_numbers(tmp_path: Path) -> None:
    with pytest.raises(StartError) as error:
        check_data_directory(tmp_path, least_free=10**18)
    text = one_line(error)
    assert "is full" in text
    assert "MB" in text
    assert "--data-dir" in text


def test_a_missing_data_directory_is_made_private(tmp_path: Path) -> None:
    check_data_directory(tmp_path / "a" / "b", least_free=0)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_in_the_place_of_the_data_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="is not a directory"):
        check_data_directory(tmp_path / "file")
    with pytest.raises(StartError, match=r"cannot be written \(Not a directory\)"):
        check_data_directory(tmp_path / "file" / "below")


def test_a_data_directory_without_write_access_is_refused() -> None:
    # The kernel's own: not even root writes there.
    with pytest.raises(StartError, match="cannot be written"):
        check_data_directory(Path("/proc/aistack"))


def test_the_run_directory_is_private_short_and_the_same_each_time(short: Path) -> None:
    deep = short / ("x" * 150) / "data"
    directory = run_directory(deep, bases=(short,))
    assert directory == run_directory(deep, bases=(short,))
    assert directory != run_directory(short, bases=(short,))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    longest = Paths(deep, directory).postgres_socket / ".s.PGSQL.5432"
    assert len(os.fsencode(longest)) <= LONGEST_SOCKET_PATH


def test_a_run_directory_open_to_others_is_closed(short: Path) -> None:
    directory = run_directory(short / "data", bases=(short,))
    directory.chmod(0o777)
    run_directory(short / "data", bases=(short,))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_run_directory_that_somebody_else_prepared_is_refused(short: Path) -> None:
    directory = run_directory(short / "data", bases=(short,))
    directory.rmdir()
    (short / "trap").mkdir()
    directory.symlink_to(short / "trap")
    with pytest.raises(StartError, match="belongs to somebody else"):
        run_directory(short / "data", bases=(short,))


def test_no_place_for_sockets_is_said(tmp_path: Path) -> None:
    long = tmp_path / ("y" * 100)
    long.mkdir()
    with pytest.raises(StartError, match="no place for the sockets"):
        run_directory(tmp_path / "data", bases=(long, tmp_path / "missing"))


def test_a_unix_socket_is_its_owners_alone_and_replaces_a_left_one(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    open_unix(path).close()
    with open_unix(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
