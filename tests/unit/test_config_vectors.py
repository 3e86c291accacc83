"""The section `vectors`: what stops a start, in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from aistack.aidb.parts import Parts
from aistack.config import Config, load_config
from aistack.service.errors import StartError


def load(directory: Path, vectors: dict[str, Any]) -> Config:
    path = directory / "aidb.json"
    path.write_text(json.dumps({"vectors": vectors}))
    return load_config(path)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ({"engine": "milvus"}, "vectors.engine: input should be 'pgvector' or 'qdrant'"),
        ({"engin": "qdrant"}, "vectors.engin: no such key; remove it or use one of: engine, "),
        ({"qdrant": {"shard": 2}}, "vectors.qdrant.shard: no such key"),
        ({"qdrant": {"url": "qdrant:6333"}}, "vectors.qdrant.url: "),
        ({"qdrant": {"url": "http://key@host:6333"}}, "vectors.qdrant.url: "),
        ({"qdrant": {"prefix": "Ours/"}}, "vectors.qdrant.prefix: "),
        ({"qdrant": {"timeout_seconds": 0}}, "vectors.qdrant.timeout_seconds: "),
        (
            {"qdrant": {"replication_factor": 2, "write_consistency_factor": 3}},
            "vectors.qdrant.write_consistency_factor: value error, more than"
            " vectors.qdrant.replication_factor can never be reached",
        ),
    ],
)
def test_a_wrong_key_is_one_line(tmp_path: Path, vectors: dict[str, Any], said: str) -> None:
    with pytest.raises(StartError) as refused:
        load(tmp_path, vectors)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_the_client_the_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(tmp_path, {"engine": "qdrant"})
    for name in [one for one in sys.modules if one.startswith("aistack.aidb.qdrant")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "aistack.clients.qdrant", raising=False)
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(StartError, match=r"pip install 'aistack\[qdrant\]'"):
        Parts(config)


def test_a_key_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    config = load(tmp_path, {"engine": "qdrant", "qdrant": {"api_key_file": missing}})
    with pytest.raises(StartError, match=r"vectors\.qdrant\.api_key_file: .*cannot be read"):
        Parts(config)


def test_qdrant_is_a_need_only_where_it_is_the_engine(tmp_path: Path) -> None:
    assert "qdrant" not in {need.name for need in Parts(Config()).needs}
    chosen = {need.name: need for need in Parts(load(tmp_path, {"engine": "qdrant"})).needs}
    assert chosen["qdrant"].required is False
