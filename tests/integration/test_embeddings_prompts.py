"""Prompts and fewer dimensions over HTTP, on a model that declares both."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from aistack.models import EmbeddingSet
from fix_embeddings import EmbeddingsProcess, ValkeyProcess, new_embeddings

DECLARED = {
    "prompts": {"query": "query: ", "passage": "passage: "},
    "default_prompt_name": "passage",
    "matryoshka_dims": [16],
}


@pytest.fixture(scope="module")
def declaring(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with prompts, and with vectors that may be cut to 16."""
    directory = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "declaring"))
    path = directory / "config_sentence_transformers.json"
    path.write_text(json.dumps(DECLARED), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def service(
    declaring: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddingsProcess]:
    """Without a cache; 8 dimensions by the configuration."""
    directory = Path(tempfile.mkdtemp(prefix="aie-"))
    settings = {"model": str(declaring), "dimension": 32, "dimensions": [8]}
    process = new_embeddings(directory, tmp_path_factory.mktemp("graph"), embeddings=settings)
    process.start()
    yield process
    process.stop()
    shutil.rmtree(directory)


def ask(service: EmbeddingsProcess, text: str, **more: Any) -> httpx.Response:
    body = {"model": "declaring", "input": text, "encoding_format": "base64", **more}
    with service.client() as client:
        return client.post("/v1/embeddings", json=body)


def vector(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.frombuffer(base64.b64decode(answer.json()["data"][0]["embedding"]), dtype="<f4")


@pytest.mark.parametrize(
    ("more", "same_as"),
    [
        ({"prompt_name": "query"}, "query: a lake"),
        ({"input_type": "query"}, "query: a lake"),
        ({"input_type": "document"}, "passage: a lake"),
        ({}, "passage: a lake"),
    ],
)
def test_a_prompt_goes_before_the_text(
    service: EmbeddingsProcess, tiny_service: EmbeddingsProcess, more: dict[str, str], same_as: str
) -> None:
    answer = ask(service, "a lake", **more)
    # The same weights, where nothing is put before a text.
    plain = ask(tiny_service, same_as, model="tiny")
    np.testing.assert_allclose(vector(answer), vector(plain), atol=1e-6)
    assert answer.json()["usage"] == plain.json()["usage"]
    with service.client() as client:
        rows = client.post("/embed", json={"inputs": "a lake", **more}).json()
    np.testing.assert_allclose(rows[0], vector(plain), atol=1e-6)


@pytest.fixture(scope="module")
def tiny_service(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddingsProcess]:
    """The model without prompts."""
    directory = Path(tempfile.mkdtemp(prefix="aie-"))
    settings = {"model": str(tiny_model), "dimension": 32}
    process = new_embeddings(directory, tmp_path_factory.mktemp("graph"), embeddings=settings)
    process.start()
    yield process
    process.stop()
    shutil.rmtree(directory)


def test_a_model_without_prompts_takes_the_kind_of_input_and_no_name(
    tiny_service: EmbeddingsProcess,
) -> None:
    plain = vector(ask(tiny_service, "a lake", model="tiny"))
    kind = vector(ask(tiny_service, "a lake", model="tiny", input_type="query"))
    np.testing.assert_array_equal(plain, kind)
    refused = ask(tiny_service, "a lake", model="tiny", prompt_name="query")
    assert refused.status_code == 400
    assert "has no prompt 'query'; it has none" in refused.json()["error"]["message"]


def test_unknown_and_twofold_prompts_are_refused(service: EmbeddingsProcess) -> None:
    unknown = ask(service, "a", prompt_name="summary")
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "prompt_name")
    assert "it has 'query', 'passage'" in unknown.json()["error"]["message"]
    both = ask(service, "a", prompt_name="query", input_type="query")
    assert (both.status_code, both.json()["error"]["param"]) == (400, "prompt_name")
    assert ask(service, "a", input_type="image").status_code in (400, 422)


@pytest.mark.parametrize("dimension", [8, 16])
def test_fewer_dimensions_are_the_first_ones_at_unit_length(
    service: EmbeddingsProcess, dimension: int
) -> None:
    whole, answer = ask(service, "a lake"), ask(service, "a lake", dimensions=dimension)
    first = vector(whole)[:dimension]
    cut = vector(answer)
    np.testing.assert_allclose(cut, first / np.linalg.norm(first), atol=1e-6)
    with service.client() as client:
        described = client.get("/v1/models").json()["data"][0]["aistack"]
        row = client.post("/embed", json={"inputs": "a lake", "dimensions": dimension}).json()[0]
    np.testing.assert_allclose(row, cut, atol=1e-6)
    assert described["dimensions"] == [8, 16]
    assert described["prompts"] == ["query", "passage"]
    fields = dict(described["embedding_set"])
    given = EmbeddingSet(**{name: value for name, value in fields.items() if name != "id"})
    # Vectors of another length are another set, and are never compared with whole ones.
    assert answer.json()["aistack"]["embedding_set"] == replace(given, dimension=dimension).id
    assert whole.json()["aistack"]["embedding_set"] == given.id


@pytest.mark.parametrize("dimension", [0, -8, 12, 33, 10**9])
def test_other_dimensions_are_refused_with_those_that_there_are(
    service: EmbeddingsProcess, dimension: int
) -> None:
    answer = ask(service, "a lake", dimensions=dimension)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "dimensions")
    assert "32 dimensions or 8, 16" in answer.json()["error"]["message"]
    with service.client() as client:
        refused = client.post("/embed", json={"inputs": "a lake", "dimensions": dimension})
    assert refused.status_code == 400


def test_a_cached_vector_is_of_its_prompt_and_is_kept_whole(
    declaring: Path, valkey: ValkeyProcess, tmp_path: Path
) -> None:
    directory = Path(tempfile.mkdtemp(prefix="aie-"))
    settings = {"model": str(declaring), "dimension": 32, "cache_seconds": 60}
    process = new_embeddings(
        directory, tmp_path / "graph", embeddings=settings, redis={"url": valkey.url}
    )
    process.start()
    try:
        short = vector(ask(process, "a lake", dimensions=16, prompt_name="query"))
        assert process.metric("aistack_embeddings_texts_total", source="encoded") == 1
        whole = vector(ask(process, "a lake", prompt_name="query"))
        assert process.metric("aistack_embeddings_texts_total", source="cache") == 1
        np.testing.assert_allclose(short, whole[:16] / np.linalg.norm(whole[:16]), atol=1e-6)
        other = vector(ask(process, "a lake", prompt_name="passage"))
        assert process.metric("aistack_embeddings_texts_total", source="encoded") == 2
        assert float(other @ whole) < 0.9999
    finally:
        process.stop()
        shutil.rmtree(directory)
