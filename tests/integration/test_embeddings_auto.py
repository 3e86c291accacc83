"""The embedding set of a service with `encoder = "auto"` is the same after every restart."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fix_embeddings import EmbeddingsProcess, new_embeddings


@pytest.fixture
def service(tiny_model: Path, tmp_path: Path) -> Iterator[EmbeddingsProcess]:
    """Not started yet, with an empty state directory."""
    directory = Path(tempfile.mkdtemp(prefix="aie-"))
    settings = {"model": str(tiny_model), "dimension": 32, "encoder": "auto"}
    process = new_embeddings(directory, tmp_path / "state", embeddings=settings)
    yield process
    process.stop()
    shutil.rmtree(directory)


def described(service: EmbeddingsProcess) -> dict[str, Any]:
    with service.client() as client:
        model = client.get("/v1/models").json()["data"][0]
    found: dict[str, Any] = model["aistack"]["embedding_set"]
    return found


def events(service: EmbeddingsProcess, name: str) -> list[dict[str, Any]]:
    lines = service.log.read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in told if line.get("event") == name]


def test_a_restart_keeps_the_set_that_was_chosen(
    service: EmbeddingsProcess, tmp_path: Path
) -> None:
    service.start()
    first = described(service)
    (chosen,) = events(service, "engine_chosen")
    assert (chosen["engine"], chosen["precision"]) == (first["engine"], first["precision"])
    assert service.stop() == 0
    # As if another engine had been the fastest: what is kept decides, not what is fast today.
    path = tmp_path / "state" / "choice.json"
    text = path.read_text(encoding="utf-8")
    other = {"engine": "onnx", "precision": "fp32"}
    document = json.loads(text)
    (entry,) = document["choices"].values()
    entry.update(other)
    path.write_text(json.dumps(document), encoding="utf-8")
    service.start()
    second = described(service)
    assert {name: second[name] for name in other} == other
    assert len(events(service, "engine_chosen")) == 1


def test_a_damaged_choice_is_told_and_the_service_starts(
    service: EmbeddingsProcess, tmp_path: Path
) -> None:
    service.start()
    before = described(service)
    service.stop()
    (tmp_path / "state" / "choice.json").write_bytes(b'{"version": 1, "choi')
    service.start()
    assert len(events(service, "choice_damaged")) == 1
    assert len(events(service, "engine_chosen")) == 2
    assert described(service)["model"] == before["model"]
