"""The embeddings service as its callers meet it: a real process, a real model, a unix socket."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from aistack.clients.embeddings import EmbeddingsClient
from aistack.clients.http import PeerClient
from aistack.models import ModelFiles
from fix_embeddings import EmbeddingsProcess, Golden, MakeEmbeddings

MODEL = "all-minilm-l6-v2"


def body(given: Any, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": given, **more}


def vectors_of(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    rows = [row["embedding"] for row in response.json()["data"]]
    if isinstance(rows[0], str):
        return np.stack([np.frombuffer(base64.b64decode(row), dtype="<f4") for row in rows])
    return np.array(rows, dtype=np.float32)


# -- the wire ----------------------------------------------------------------------------------


def test_both_formats_carry_the_golden_vectors(
    embeddings_service: EmbeddingsProcess, golden: Golden
) -> None:
    with embeddings_service.client() as http:
        floats = http.post("/v1/embeddings", json=body(golden.texts))
        coded = http.post("/v1/embeddings", json=body(golden.texts, encoding_format="base64"))
        tei = http.post("/embed", json={"inputs": golden.texts})
    vectors = vectors_of(floats)
    cosines = np.einsum("nd,nd->n", vectors, golden.vectors)
    assert cosines.min() >= 1 - 1e-5
    np.testing.assert_allclose(vectors_of(coded), vectors, atol=1e-6)
    np.testing.assert_allclose(np.array(tei.json(), dtype=np.float32), vectors, atol=1e-6)


def test_openai_shape_and_exact_usage(
    embeddings_service: EmbeddingsProcess, golden: Golden
) -> None:
    with embeddings_service.client() as http:
        answer = http.post("/v1/embeddings", json=body(golden.texts, user="someone"))
    given = answer.json()
    assert set(given) == {"object", "model", "data", "usage", "aistack"}
    assert (given["object"], given["model"]) == ("list", MODEL)
    assert [row["index"] for row in given["data"]] == list(range(len(golden.texts)))
    total = sum(golden.tokens)
    assert given["usage"] == {"prompt_tokens": total, "total_tokens": total}
    assert given["aistack"]["truncated"] == [len(golden.texts) - 1]
    parts = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert set(parts) == {"cache", "tokenize", "queue", "encode"}
    assert float(parts["encode"]) > 0


def test_one_text_is_a_list_of_one(embeddings_service: EmbeddingsProcess) -> None:
    with embeddings_service.client() as http:
        assert len(http.post("/v1/embeddings", json=body("a text")).json()["data"]) == 1
        assert len(http.post("/embed", json={"inputs": "a text"}).json()) == 1


def test_models_describes_the_embedding_set(
    embeddings_service: EmbeddingsProcess, golden: Golden
) -> None:
    with embeddings_service.client() as http:
        (model,) = http.get("/v1/models").json()["data"]
        answer = http.post("/v1/embeddings", json=body("a"))
    extension = model["aistack"]
    assert model["id"] == MODEL
    assert (extension["kind"], extension["dimension"], extension["max_tokens"]) == (
        "embedding",
        384,
        256,
    )
    assert extension["embedding_set"]["revision"] == golden.revision
    assert answer.json()["aistack"]["embedding_set"] == extension["embedding_set"]["id"]


def test_the_openai_package_works(embeddings_service: EmbeddingsProcess) -> None:
    # Any: the package's type is httpx or httpx2, by its version; it takes either.
    http: Any = httpx.Client(transport=httpx.HTTPTransport(uds=str(embeddings_service.socket)))
    with openai.OpenAI(
        base_url="http://embeddings/v1", api_key=embeddings_service.key, http_client=http
    ) as client:
        # Without a format the package asks for base64 and decodes it.
        made = client.embeddings.create(model=MODEL, input=["eating food", "having a meal"])
        with pytest.raises(openai.NotFoundError) as raised:
            client.embeddings.create(model="text-embedding-3-small", input="a")
    one, two = (np.array(row.embedding) for row in made.data)
    assert 0.6 < float(one @ two) < 0.8
    assert raised.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        (body([1, 2, 3]), 400, "send the text"),
        (body([[1, 2], [3]]), 400, "send the text"),
        (body([]), 400, "empty"),
        (body(""), 400, "empty"),
        (body(["a", ""]), 400, "input[1]"),
        (body("a", dimensions=128), 400, "384"),
        (body("a", encoding_format="int8"), 400, "encoding_format"),
        (body("a", colour="red"), 400, "colour"),
        (body(None), 400, "input"),
        ({"input": "a"}, 400, "model"),
        ({"model": "other", "input": "a"}, 404, "all-minilm-l6-v2"),
        (body(["a"] * 513), 413, "512"),
        (body("a" * 1_048_577), 413, "1048576"),
    ],
)
def test_refusals_have_openai_shape(
    embeddings_service: EmbeddingsProcess, given: dict[str, Any], status: int, words: str
) -> None:
    with embeddings_service.client() as http:
        answer = http.post("/v1/embeddings", json=given)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert words in error["message"]
    assert {"message", "type", "param", "code", "error_id"} <= set(error)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"{", 400),
        (b'{"model":"all-minilm-l6-v2","input":"\xff\xfe"}', 400),
        (b'{"model":"all-minilm-l6-v2","input":"\\ud800"}', 400),
        (b'{"model":"\\ud800","input":"a"}', 400),
        (b'{"model":"all-minilm-l6-v2","input":"a","\\ud800":1}', 400),
        (b'{"model":"all-minilm-l6-v2","input":"a\\u0000b"}', 200),
    ],
    ids=["cut", "broken-utf8", "lone-surrogate", "in-model", "in-field-name", "nul"],
)
def test_odd_bytes_never_end_in_a_500(
    embeddings_service: EmbeddingsProcess, raw: bytes, status: int
) -> None:
    with embeddings_service.client() as http:
        answer = http.post(
            "/v1/embeddings", content=raw, headers={"content-type": "application/json"}
        )
    assert answer.status_code == status, answer.text


def test_embed_refuses_what_is_too_long_when_told_so(
    embeddings_service: EmbeddingsProcess,
) -> None:
    texts = ["fits", "does not fit " * 200]
    with embeddings_service.client() as http:
        refused = http.post("/embed", json={"inputs": texts, "truncate": False})
        cut = http.post("/embed", json={"inputs": texts})
        unnormalised = http.post("/embed", json={"inputs": texts, "normalize": False})
    assert refused.status_code == 413
    assert refused.headers["content-type"] == "application/problem+json"
    assert "inputs[1]" in refused.json()["detail"]
    assert cut.status_code == 200
    assert unnormalised.status_code == 422


# -- the client of the other services ----------------------------------------------------------


@pytest.fixture
async def peer(embeddings_service: EmbeddingsProcess) -> AsyncIterator[EmbeddingsClient]:
    client = EmbeddingsClient(
        PeerClient("embeddings", embeddings_service.address, key=embeddings_service.key)
    )
    yield client
    await client.aclose()


async def test_client_gives_checked_vectors(peer: EmbeddingsClient, golden: Golden) -> None:
    vectors = await peer.embed(golden.texts)
    assert vectors.dtype == np.float32
    assert np.einsum("nd,nd->n", vectors, golden.vectors).min() >= 1 - 1e-5
    assert (await peer.embed([])).shape == (0, 384)


async def test_client_splits_what_one_request_may_not_hold(peer: EmbeddingsClient) -> None:
    texts = [f"t{i % 40}" for i in range(1100)]
    vectors = await peer.embed(texts)
    assert vectors.shape == (1100, 384)
    np.testing.assert_allclose(vectors[:40], vectors[1080 - 40 : 1080], atol=1e-6)


async def test_client_knows_the_embedding_set(peer: EmbeddingsClient, golden: Golden) -> None:
    identity = await peer.embedding_set()
    assert (identity.model, identity.revision, identity.engine) == (MODEL, golden.revision, "onnx")
    described = await peer.describe()
    assert (described.max_tokens, described.client_batch) == (256, 512)


# -- life --------------------------------------------------------------------------------------


def test_answers_503_with_advice_while_loading(
    make_embeddings: MakeEmbeddings, tmp_path: Path
) -> None:
    # An empty state directory: the graph is made first, which is the slowest start there is.
    service = make_embeddings(embeddings={"state_dir": str(tmp_path)}, limits={"hold_seconds": 0})
    service.start(wait=False)
    service.wait_listening()
    seen: list[httpx.Response] = []
    end = time.monotonic() + 60
    with service.client() as http:
        while time.monotonic() < end and (not seen or seen[-1].status_code == 503):
            seen.append(http.post("/v1/embeddings", json=body("a")))
            time.sleep(0.005)
    assert seen[-1].status_code == 200
    assert seen[0].status_code == 503
    assert int(seen[0].headers["retry-after"]) >= 1
    assert "loading" in seen[0].json()["error"]["message"]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"dimension": 768}, "embeddings.dimension"),
        ({"model": "/nowhere/model"}, "embeddings.model"),
        ({"client_batch": 4096}, "embeddings.client_batch"),
        ({"lanes": 2, "lane_cores": [0]}, "embeddings.lane_cores"),
        ({"lane_cores": [1022]}, "embeddings.lane_cores: core 1022 cannot be used"),
        ({"revision": "0" * 64}, "embeddings.revision"),
    ],
)
def test_bad_configuration_ends_the_start_with_one_line(
    make_embeddings: MakeEmbeddings, section: dict[str, Any], words: str
) -> None:
    service = make_embeddings(embeddings=section)
    service.start(wait=False)
    assert service.process is not None
    assert service.process.wait(60) == 78
    lines = [line for line in service.log.read_text().splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert words in lines[0]


def test_a_disk_that_does_not_answer_ends_the_start_with_one_line(
    make_embeddings: MakeEmbeddings, tmp_path: Path
) -> None:
    # A pipe that nobody writes into holds its reader as a dead disk does.
    os.mkfifo(tmp_path / "config.json")
    service = make_embeddings(
        embeddings={"model": str(tmp_path)}, limits={"start_seconds": 1, "drain_seconds": 1}
    )
    service.start(wait=False)
    assert service.process is not None
    assert service.process.wait(60) == 78
    lines = [line for line in service.log.read_text().splitlines() if not line.startswith("{")]
    assert lines == ["aistack embeddings: not ready within 1 s; last: loading the model"]


def test_two_lanes_give_the_golden_vectors(make_embeddings: MakeEmbeddings, golden: Golden) -> None:
    cores = sorted(os.sched_getaffinity(0))
    service = make_embeddings(embeddings={"lanes": 2, "lane_cores": [cores[0], cores[-1]]})
    service.start()
    assert service.metric("aistack_embeddings_lanes") == 2
    with ThreadPoolExecutor(4) as pool, service.client() as http:
        answers = list(
            pool.map(lambda _: http.post("/v1/embeddings", json=body(golden.texts)), range(4))
        )
    for answer in answers:
        cosines = np.einsum("nd,nd->n", vectors_of(answer), golden.vectors)
        assert cosines.min() >= 1 - 1e-5
    for phase in ("tokenize", "queue", "encode"):
        assert service.metric("aistack_embeddings_phase_seconds_count", phase=phase) >= 1


def test_sigterm_answers_what_was_accepted(make_embeddings: MakeEmbeddings) -> None:
    service = make_embeddings()
    service.start()
    texts = [f"{i} " + "a long text for the encoder " * 30 for i in range(40)]
    with service.client() as http, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(http.post, "/v1/embeddings", json=body(texts))
        while service.metric("aistack_embeddings_queue_texts") == 0:
            assert not answer.done()
        service.stop(signal.SIGTERM)
        assert answer.result().status_code == 200
    assert service.process is not None
    assert service.process.returncode == 0


def test_full_queue_is_429_with_advice(make_embeddings: MakeEmbeddings) -> None:
    service = make_embeddings(embeddings={"queue_texts": 40, "client_batch": 40})
    service.start()

    def post(number: int) -> httpx.Response:
        texts = [f"{number} {i} " + "a long text for the encoder " * 30 for i in range(20)]
        with service.client() as http:
            return http.post("/v1/embeddings", json=body(texts))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert post(9).status_code == 200


async def test_client_that_leaves_frees_the_queue(make_embeddings: MakeEmbeddings) -> None:
    service = make_embeddings()
    await asyncio.to_thread(service.start)
    transport = httpx.AsyncHTTPTransport(uds=str(service.socket))
    headers = {"authorization": f"Bearer {service.key}"}
    texts = [f"{i} " + "a long text for the encoder " * 30 for i in range(300)]
    async with httpx.AsyncClient(
        transport=transport, base_url="http://embeddings", headers=headers, timeout=60
    ) as http:
        leaving = asyncio.create_task(http.post("/v1/embeddings", json=body(texts)))
        while await _queue(http) == 0:
            assert not leaving.done()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        async with asyncio.timeout(5):
            while await _queue(http) > 0:
                pass
        passes = await _sample(http, "aistack_embeddings_tokens_total")
    # 300 texts of 180 tokens were asked for; most of them were never encoded.
    assert passes < 300 * 180 / 2


async def _queue(http: httpx.AsyncClient) -> float:
    return await _sample(http, "aistack_embeddings_queue_texts")


async def _sample(http: httpx.AsyncClient, name: str) -> float:
    for line in (await http.get("/metrics")).text.splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    return 0.0


def test_configured_model_directory_is_used(
    make_embeddings: MakeEmbeddings, model_files: ModelFiles
) -> None:
    service = make_embeddings(embeddings={"model": str(model_files.directory)})
    service.start()
    with service.client() as http:
        (model,) = http.get("/v1/models").json()["data"]
    assert model["id"] == model_files.directory.name
