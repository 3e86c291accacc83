"""The embedded servers: made, used, killed, damaged."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psycopg
import pytest
import redis

from aistack.dev.embedded import running
from aistack.dev.llama_server import Llama
from aistack.dev.postgres import Postgres
from aistack.dev.process import alive
from aistack.dev.unit import Unit
from aistack.dev.valkey import Valkey
from aistack.service.errors import StartError


def again(unit: Unit, old: int | None) -> int:
    """Wait until `unit` runs as another process than `old`, and is ready."""
    deadline = time.monotonic() + 30
    while unit.pid in (None, old) or not unit.ready.is_set():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert unit.pid is not None
    return unit.pid


def rows(server: Postgres) -> int:
    with psycopg.connect(server.conninfo()) as connection:
        found = connection.execute("SELECT count(*) FROM t").fetchone()
    assert found is not None
    return int(found[0])


def test_postgres_keeps_what_was_committed_through_kills_and_restarts(
    tmp_path: Path, short: Path
) -> None:
    server = Postgres(tmp_path / "pg", short)
    with running(server.program()) as unit:
        with psycopg.connect(server.conninfo()) as connection:
            connection.execute("CREATE TABLE t (v vector(3))")
            connection.execute("INSERT INTO t VALUES ('[1,2,3]')")
        old = unit.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        new = again(unit, old)
        assert rows(server) == 1
    assert not alive(new)
    with running(Postgres(tmp_path / "pg", short).program()):
        assert rows(server) == 1


def test_postgres_listens_on_its_socket_alone_and_our_role_is_no_superuser(
    tmp_path: Path, short: Path
) -> None:
    server = Postgres(tmp_path / "pg", short)
    with running(server.program()), psycopg.connect(server.conninfo()) as connection:
        asked = connection.execute(
            "SELECT current_setting('listen_addresses'), current_setting('fsync'),"
            " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"
        ).fetchone()
    assert asked == ("", "on", False)


def test_a_postgres_left_by_a_killed_supervisor_is_taken_over(tmp_path: Path, short: Path) -> None:
    # One that ignores the parent-death signal stands for any that was left behind.
    server = Postgres(tmp_path / "pg", short)
    with running(server.program()):
        pass
    program = server.program()
    orphan = subprocess.Popen(
        [*program.prefix, *program.command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    while not asyncio.run(server.answers()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with running(server.program()) as unit:
        assert orphan.wait(20) == 0, "it was not asked to stop in order"
        assert unit.pid != orphan.pid
        assert asyncio.run(server.answers())


def test_a_pid_file_that_names_another_program_is_no_hindrance(tmp_path: Path, short: Path) -> None:
    server = Postgres(tmp_path / "pg", short)
    with running(server.program()):
        pass
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (server.data / "postmaster.pid").write_text(f"{other.pid}\n{server.data}\n1\n5432\n\n\n")
        with running(server.program()):
            assert other.poll() is None, "a stranger was killed"
        other.communicate(b"\n")


def test_a_damaged_data_directory_is_one_clear_line(tmp_path: Path, short: Path) -> None:
    server = Postgres(tmp_path / "pg", short)
    with running(server.program()):
        pass
    control = server.data / "global" / "pg_control"
    control.write_bytes(b"\0" * control.stat().st_size)
    with pytest.raises(StartError) as error, running(server.program()):
        pytest.fail("it started")
    text = str(error.value)
    assert "\n" not in text
    assert f"the database in {server.data} cannot be opened" in text
    assert "restore it from a backup" in text


def test_a_data_directory_without_its_version_is_not_written_over(
    tmp_path: Path, short: Path
) -> None:
    server = Postgres(tmp_path / "pg", short)
    server.data.mkdir(parents=True)
    (server.data / "precious").write_text("data")
    with (
        pytest.raises(StartError, match="PG_VERSION is missing"),
        running(server.program()),
    ):
        pytest.fail("it started")
    assert (server.data / "precious").read_text() == "data"


def test_a_database_of_another_version_is_refused_by_name(tmp_path: Path, short: Path) -> None:
    server = Postgres(tmp_path / "pg", short)
    server.data.mkdir(parents=True)
    (server.data / "PG_VERSION").write_text("9\n")
    with (
        pytest.raises(StartError, match=r"made by PostgreSQL 9 and this one is \d+"),
        running(server.program()),
    ):
        pytest.fail("it started")


def test_an_unfinished_database_is_made_anew(tmp_path: Path, short: Path) -> None:
    server = Postgres(tmp_path / "pg", short)
    (tmp_path / "pg" / "data.tmp" / "base").mkdir(parents=True)
    with running(server.program()):
        assert not (tmp_path / "pg" / "data.tmp").exists()


def test_valkey_is_a_bounded_cache_on_a_private_socket(short: Path) -> None:
    server = Valkey(short / "redis.sock", memory_megabytes=64)
    with running(server.program()) as unit:
        assert (short / "redis.sock").stat().st_mode & 0o077 == 0
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("maxmemory")["maxmemory"] == str(64 * 1024 * 1024)
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "allkeys-lru"
            assert client.config_get("port")["port"] == "0"
            assert client.config_get("save")["save"] == ""
        old = unit.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        again(unit, old)
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()


def test_llama_answers_on_a_private_socket_and_comes_back(short: Path) -> None:
    server = Llama(short / "llama.sock", threads=1, context=1024, parallel=1)
    with running(server.program()) as unit:
        assert (short / "llama.sock").stat().st_mode & 0o077 == 0
        transport = httpx.HTTPTransport(uds=str(short / "llama.sock"))
        with httpx.Client(transport=transport, base_url="http://llama", timeout=60) as client:
            models = client.get("/v1/models").json()
            assert models["data"][0]["id"] == "SmolLM2-135M-Instruct.Q4_1"
            answer = client.post(
                "/v1/chat/completions",
                json={"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4},
            ).json()
            assert answer["usage"]["completion_tokens"] > 0
            assert "llamacpp:" in client.get("/metrics").text
        old = unit.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        again(unit, old)
        assert asyncio.run(server.answers())


def test_a_model_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no language model at"):
        Llama(tmp_path / "llama.sock", model=str(tmp_path / "missing.gguf"))
