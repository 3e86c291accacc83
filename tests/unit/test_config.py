"""The typed configuration: every fault is one line with the key, the file and the fix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aistack.clients.redis import Redis
from aistack.config import Config, RedisConfig, load_config
from aistack.service.errors import StartError


def write(tmp_path: Path, content: object, name: str = "c.json") -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def fault(path: Path) -> str:
    with pytest.raises(StartError) as error:
        load_config(path)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_defaults_need_no_file() -> None:
    assert load_config(None) == Config()


def test_json_and_toml_say_the_same(tmp_path: Path) -> None:
    as_json = write(tmp_path, {"embeddings": {"threads": 3}})
    as_toml = write(tmp_path, "[embeddings]\nthreads = 3\n", "c.toml")
    assert load_config(as_json) == load_config(as_toml)
    assert load_config(as_json).embeddings.threads == 3


def test_unknown_key_is_named_with_the_known_ones(tmp_path: Path) -> None:
    path = write(tmp_path, {"embeddings": {"thread": 3}})
    text = fault(path)
    assert str(path) in text
    assert "embeddings.thread:" in text
    assert "threads" in text


def test_unknown_section_is_named(tmp_path: Path) -> None:
    text = fault(write(tmp_path, {"embedings": {}}))
    assert "embedings" in text
    assert "embeddings" in text


def test_wrong_type_is_named_with_the_value(tmp_path: Path) -> None:
    path = write(tmp_path, {"aidb": {"dimension": "many"}})
    text = fault(path)
    assert str(path) in text
    assert "aidb.dimension" in text
    assert "'many'" in text


@pytest.mark.parametrize("dimension", [0, -1, 5000, 3.5])
def test_wrong_dimension_is_named(tmp_path: Path, dimension: float) -> None:
    assert "embeddings.dimension" in fault(
        write(tmp_path, {"embeddings": {"dimension": dimension}})
    )


def test_two_faults_are_still_one_line(tmp_path: Path) -> None:
    assert "(1 more)" in fault(write(tmp_path, {"aidb": {"dimension": 0, "workers": 0}}))


@pytest.mark.parametrize("content", ["{", "[]", "null"])
def test_broken_file_is_named(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, content)
    assert str(path) in fault(path)


def test_broken_toml_is_named(tmp_path: Path) -> None:
    assert "TOML" in fault(write(tmp_path, "[x", "c.toml"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "none.json" in fault(tmp_path / "none.json")


def test_variable_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISTACK__AIDB__WORKERS", "7")
    path = write(tmp_path, {"aidb": {"workers": 2, "candidates": 50}})
    config = load_config(path)
    assert (config.aidb.workers, config.aidb.candidates) == (7, 50)


def test_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISTACK__AIDB__WORKERS", "lots")
    with pytest.raises(StartError, match="AISTACK__AIDB__WORKERS"):
        load_config(None)
    monkeypatch.delenv("AISTACK__AIDB__WORKERS")
    monkeypatch.setenv("AISTACK__AIBD__WORKERS", "1")
    with pytest.raises(StartError, match="no section 'aibd'"):
        load_config(None)


def test_missing_password_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"postgres": {"password_file": str(tmp_path / "none")}})
    with pytest.raises(StartError, match=r"postgres\.password_file"):
        load_config(path).postgres.conninfo()


def test_password_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("s3cret\n")
    path = write(
        tmp_path, {"postgres": {"host": "db.example", "password_file": str(tmp_path / "pw")}}
    )
    info = load_config(path).postgres.conninfo()
    assert "password=s3cret" in info
    assert "sslmode=prefer" in info


async def test_password_of_redis_comes_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    client = Redis(RedisConfig(url="redis://127.0.0.1:1/0", password_file=file))
    assert client._client.connection_pool.connection_kwargs["password"] == "s3cret"
    await client.aclose()
    with pytest.raises(StartError, match=r"redis\.password_file: .* cannot be read"):
        Redis(RedisConfig(password_file=tmp_path / "none"))
