"""A model with prompts: chunks are embedded as documents, queries as queries, nothing is cut."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from aistack.aidb.parts import prompt_tokens
from aistack.models import ModelFiles, find_model
from fix_aidb import AidbProcess, aidb_factory
from fix_embeddings import EmbeddingsProcess, new_embeddings
from fix_postgres import PostgresServer

PROMPTS = {"query": "the question that is asked: ", "document": "a passage of some document: "}


@pytest.fixture(scope="module")
def prompted(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "prompted"))
    path = directory / "config_sentence_transformers.json"
    path.write_text(json.dumps({"prompts": PROMPTS}), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def embeddings(
    prompted: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddingsProcess]:
    directory = Path(tempfile.mkdtemp(prefix="aie-"))
    settings = {"model": str(prompted), "dimension": 32}
    process = new_embeddings(directory, tmp_path_factory.mktemp("graph"), embeddings=settings)
    process.start()
    yield process
    process.stop()
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def service(
    embeddings: EmbeddingsProcess,
    prompted: Path,
    postgres_server: PostgresServer,
    migrated_template: str,
) -> Iterator[AidbProcess]:
    with aidb_factory(postgres_server, migrated_template, embeddings) as make:
        # All that the model reads: the chunks must leave its prompt's tokens free.
        most = find_model(prompted).max_tokens
        options = {"embedding_model": str(prompted), "dimension": 32, "chunk_tokens": most}
        made = make(aidb=options)
        made.start()
        yield made


def vector(client: httpx.Client, text: str) -> np.ndarray:
    body = {"model": "prompted", "input": text}
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["aistack"]["truncated"] == []
    return np.array(answer.json()["data"][0]["embedding"])


def test_chunks_have_the_documents_prompt_and_queries_theirs(
    service: AidbProcess, embeddings: EmbeddingsProcess, prompted: Path
) -> None:
    text = " ".join(f"Lake {n} lies below hill {n % 7}." for n in range(120))
    with service.client() as client:
        made = client.post("/v1/documents", json={"source": "s", "text": text})
        assert made.status_code == 202, made.text
        assert service.settled(made.json()["id"])["state"] == "ready"
        found = client.post("/v1/search", json={"query": "small lake", "mode": "dense"})
    hits = found.json()["hits"]
    assert len(hits) > 3
    with embeddings.client() as client:
        query = vector(client, PROMPTS["query"] + "small lake")
        for hit in hits:
            stored = vector(client, PROMPTS["document"] + hit["text"])
            assert hit["legs"]["dense"]["score"] == pytest.approx(query @ stored, abs=1e-4)
    files = find_model(prompted)
    longest = service.rows("SELECT max(token_count) FROM chunks")[0][0]
    assert files.max_tokens - 12 <= longest + prompt_tokens(files) <= files.max_tokens


def test_a_model_without_prompts_keeps_all_of_its_tokens(model_files: ModelFiles) -> None:
    assert prompt_tokens(model_files) == 0
