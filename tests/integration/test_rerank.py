"""`POST /v1/rerank` as its callers meet it: a real process, a real cross-encoder, a unix socket."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from aistack.embeddings.rerank_engines import PairTokenizer
from aistack.embeddings.rerank_model import read_reranker
from aistack.embeddings.rerank_service import RERANK_EXAMPLE
from fix_embeddings import EmbeddingsProcess, MakeEmbeddings, new_embeddings

QUERY = "a lake in the mountains"
DOCUMENTS = [
    "An alpine tarn.",
    "A tax form, in three copies.",
    "word " * 300,
    "An alpine tarn.",
    "Tarns.",
]


@pytest.fixture(scope="module", params=["onnx", "torch"])
def service(
    request: pytest.FixtureRequest, tiny_reranker: Path, graph_state: Path
) -> Iterator[EmbeddingsProcess]:
    directory = Path(tempfile.mkdtemp(prefix="aie-"))
    settings = {
        "state_dir": str(graph_state),
        "rerank_model": str(tiny_reranker),
        "rerank_encoder": request.param,
        "rerank_documents": 32,
        "text_bytes": 4096,
    }
    process = new_embeddings(directory, graph_state, embeddings=settings)
    process.start()
    yield process
    process.stop()
    shutil.rmtree(directory)


def post(service: EmbeddingsProcess, given: dict[str, Any]) -> httpx.Response:
    with service.client() as http:
        return http.post("/v1/rerank", json=given)


def results(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def logits_of(directory: Path, pairs: list[tuple[str, str]]) -> list[float]:
    """By transformers, one pair at a time."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(str(directory))
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(directory))
    with torch.inference_mode():
        return [
            model(
                **tokenizer(*pair, truncation="only_second", max_length=128, return_tensors="pt")
            ).logits.item()
            for pair in pairs
        ]


# -- the wire ----------------------------------------------------------------------------------


def test_shape_order_and_exact_usage(service: EmbeddingsProcess, tiny_reranker: Path) -> None:
    answer = post(service, {"model": "tiny-reranker", "query": QUERY, "documents": DOCUMENTS})
    found = results(answer)
    given = answer.json()
    assert set(given) == {"id", "model", "results", "usage", "meta", "aistack"}
    assert given["model"] == "tiny-reranker"
    assert all(set(result) == {"index", "relevance_score"} for result in found)
    # By the sigmoid of the logits of transformers; the two equal documents by their index.
    logits = logits_of(tiny_reranker, [(QUERY, document) for document in DOCUMENTS])
    wanted = sorted(range(5), key=lambda index: (-round(logits[index], 4), index))
    assert [result["index"] for result in found] == wanted
    torch = pytest.importorskip("torch")
    for result in found:
        score = torch.sigmoid(torch.tensor(logits[result["index"]])).item()
        assert result["relevance_score"] == pytest.approx(score, abs=1e-5)
    scores = {result["index"]: result["relevance_score"] for result in found}
    assert scores[0] == scores[3]
    files = read_reranker(tiny_reranker)
    pairs = PairTokenizer(files.tokenizer, files.max_tokens).tokenize(QUERY, DOCUMENTS)
    total = sum(map(len, pairs))
    assert given["usage"] == {"prompt_tokens": total, "total_tokens": total}
    assert given["meta"] == {"tokens": {"input_tokens": total}}
    assert given["aistack"] == {"truncated": [2]}
    parts = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert set(parts) == {"tokenize", "queue", "encode"}
    assert float(parts["encode"]) > 0


def test_the_best_few_with_their_texts(service: EmbeddingsProcess) -> None:
    mixed: list[Any] = [*DOCUMENTS[:3], {"text": DOCUMENTS[3]}, DOCUMENTS[4]]
    whole = results(post(service, {"query": QUERY, "documents": mixed}))
    few = results(
        post(
            service,
            {"query": QUERY, "documents": mixed, "top_n": 2, "return_documents": True},
        )
    )
    assert [one["index"] for one in few] == [one["index"] for one in whole[:2]]
    for result in few:
        assert result["document"] == {"text": DOCUMENTS[result["index"]]}
    more = results(post(service, {"query": QUERY, "documents": mixed, "top_n": 100}))
    assert [one["index"] for one in more] == [one["index"] for one in whole]


def test_the_example_of_the_api_pages_works(service: EmbeddingsProcess) -> None:
    body = json.loads(RERANK_EXAMPLE.split("-d '", 1)[1].rsplit("'", 1)[0])
    assert len(results(post(service, body))) == 1


REFUSALS: dict[str, tuple[dict[str, Any], int, str]] = {
    "no query": ({"documents": ["a"]}, 422, "query"),
    "no documents": ({"query": "a"}, 422, "documents"),
    "empty list": ({"query": "a", "documents": []}, 400, "documents"),
    "empty query": ({"query": "", "documents": ["a"]}, 400, "query is an empty"),
    "blank query": ({"query": " \n", "documents": ["a"]}, 400, "query is an empty"),
    "empty document": ({"query": "a", "documents": ["a", ""]}, 400, "documents[1] is an empty"),
    "empty object": ({"query": "a", "documents": [{}]}, 422, "documents"),
    "numbers": ({"query": "a", "documents": [1]}, 422, "documents"),
    "text alone": ({"query": "a", "documents": "a"}, 422, "documents"),
    "more fields": ({"query": "a", "documents": [{"text": "a", "title": "b"}]}, 422, "title"),
    "unknown field": ({"query": "a", "documents": ["a"], "colour": 1}, 422, "colour"),
    "top_n of 0": ({"query": "a", "documents": ["a"], "top_n": 0}, 422, "top_n"),
    "top_n below 0": ({"query": "a", "documents": ["a"], "top_n": -1}, 422, "top_n"),
    "top_n true": ({"query": "a", "documents": ["a"], "top_n": True}, 422, "top_n"),
    "many": ({"query": "a", "documents": ["a"] * 33}, 413, "at most 32"),
    "large": ({"query": "a", "documents": ["a", "ä" * 2049]}, 413, "documents[1] is over 4096"),
    "large query": ({"query": "a" * 4097, "documents": ["a"]}, 413, "query is over 4096 bytes"),
    "long query": ({"query": "lake " * 65, "documents": ["a"]}, 413, "query has 65 tokens; at"),
    "model": ({"model": "rerank-v3.5", "query": "a", "documents": ["a"]}, 404, "tiny-reranker"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_say_what_is_wrong(service: EmbeddingsProcess, case: str) -> None:
    given, status, words = REFUSALS[case]
    answer = post(service, given)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"{", 400),
        (b'{"query":"\xff\xfe","documents":["a"]}', 400),
        (b'{"query":"\\ud800","documents":["a"]}', 400),
        (b'{"query":"a","documents":["\\ud800"]}', 400),
        (b'{"query":"a","documents":[{"text":"\\ud800"}]}', 400),
        (b'{"model":"\\ud800","query":"a","documents":["a"]}', 422),
        (b'{"query":"a","documents":["a\\u0000b"]}', 200),
        (b'{"query":"\\u0000","documents":["a"]}', 200),
    ],
)
def test_odd_bytes_never_end_in_a_500(service: EmbeddingsProcess, raw: bytes, status: int) -> None:
    with service.client() as http:
        answer = http.post("/v1/rerank", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text


def test_a_key_without_the_scope_is_refused(service: EmbeddingsProcess) -> None:
    from aistack.service.keys import KeyEditor

    editor = KeyEditor(service.keys.keys_file, service.keys.pepper_file)
    _, token = editor.create("embeds", frozenset({"embed"}))
    status = 401
    while status == 401:  # known within a quarter of a second
        with service.client(headers={"authorization": f"Bearer {token}"}) as http:
            answer = http.post("/v1/rerank", json={"query": "a", "documents": ["a"]})
        status = answer.status_code
    assert status == 403
    assert answer.json()["scope"] == "rerank"


def test_its_metrics_are_its_own(service: EmbeddingsProcess) -> None:
    before = service.metric("aistack_rerank_pairs_total")
    texts = service.metric("aistack_embeddings_tokens_total")
    post(service, {"query": QUERY, "documents": DOCUMENTS})
    assert service.metric("aistack_rerank_pairs_total") == before + len(DOCUMENTS)
    assert service.metric("aistack_embeddings_tokens_total") == texts
    assert service.metric("aistack_rerank_passes_total", outcome="ok") >= 1
    assert service.metric("aistack_rerank_lanes") == 1
    for phase in ("tokenize", "queue", "encode"):
        assert service.metric("aistack_rerank_phase_seconds_count", phase=phase) >= 1
    assert service.metric("aistack_rerank_model_info", model="tiny-reranker") == 1


# -- life --------------------------------------------------------------------------------------


def test_without_a_model_it_is_501_and_names_the_option(
    embeddings_service: EmbeddingsProcess,
) -> None:
    answer = post(embeddings_service, {"query": "a", "documents": ["a"]})
    assert answer.status_code == 501
    problem = answer.json()
    assert problem["code"] == "no_rerank_model"
    assert "embeddings.rerank_model" in problem["detail"]
    assert "services.aistack.rerankModel" in problem["detail"]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"rerank_model": "/nowhere/model"}, "embeddings.rerank_model: /nowhere/model is not"),
        ({"rerank_revision": "0" * 64}, "embeddings.rerank_revision"),
        ({"rerank_documents": 4096}, "embeddings.rerank_documents"),
    ],
)
def test_bad_configuration_ends_the_start_with_one_line(
    make_embeddings: MakeEmbeddings, tiny_reranker: Path, section: dict[str, Any], words: str
) -> None:
    service = make_embeddings(embeddings={"rerank_model": str(tiny_reranker), **section})
    assert words in ended(service)


def test_a_damaged_model_ends_the_start_with_one_line(
    make_embeddings: MakeEmbeddings, tiny_reranker: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_reranker, tmp_path / "copy"))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    service = make_embeddings(embeddings={"rerank_model": str(copy)})
    assert f"{weights}: damaged" in ended(service)


def ended(service: EmbeddingsProcess) -> str:
    """The one line with which the start ends."""
    service.start(wait=False)
    assert service.process is not None
    assert service.process.wait(60) == 78
    lines = [line for line in service.log.read_text().splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    return lines[0]


def test_a_full_queue_is_429_with_advice(
    make_embeddings: MakeEmbeddings, tiny_reranker: Path
) -> None:
    limits = {"queue_texts": 24, "client_batch": 24, "rerank_documents": 24, "batch_tokens": 256}
    service = make_embeddings(embeddings={"rerank_model": str(tiny_reranker), **limits})
    service.start()
    given = {"query": QUERY, "documents": ["word " * 300] * 20}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(service, given), range(40)))
    assert {answer.status_code for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    # The encoder's queue is another one.
    with service.client() as http:
        body = {"model": "all-minilm-l6-v2", "input": "a"}
        assert http.post("/v1/embeddings", json=body).status_code == 200
    assert post(service, given).status_code == 200
