"""Reranking without HTTP: what a pair is, how it is cut, and how documents are put into order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from aistack.config import Config, EmbeddingsConfig
from aistack.embeddings.app import create
from aistack.embeddings.cut import Cost
from aistack.embeddings.encoder import EncoderError, Tokens, Vectors
from aistack.embeddings.rerank import Reranker, ranked, sigmoid, warm_up
from aistack.embeddings.rerank_engines import (
    PairTokenizer,
    RerankEngine,
    Scorer,
    open_scorer,
)
from aistack.embeddings.rerank_model import RerankFiles, read_reranker
from aistack.embeddings.scheduler import Scheduler
from aistack.service.errors import Overloaded, TooLarge, Unavailable
from fix_reranker import POSITIONS
from fix_scheduler import Gate, MakeScheduler, hold
from fix_wait import until

QUERY = "a lake in the mountains"
DOCUMENTS = ["An alpine tarn.", "A tax form, in three copies.", "word " * 300, "Tarns.", "x"]


@pytest.fixture(scope="module")
def files(tiny_reranker: Path) -> RerankFiles:
    return read_reranker(tiny_reranker)


@pytest.fixture(scope="module")
def tokenizer(files: RerankFiles) -> PairTokenizer:
    return PairTokenizer(files.tokenizer, files.max_tokens)


@pytest.fixture(scope="module", params=["onnx", "torch"])
def scorer(
    request: pytest.FixtureRequest, files: RerankFiles, tmp_path_factory: pytest.TempPathFactory
) -> Scorer:
    config = EmbeddingsConfig(
        rerank_encoder=request.param, state_dir=tmp_path_factory.mktemp("state")
    )
    return open_scorer(files, "1" * 64, config)


# -- pairs -------------------------------------------------------------------------------------


def test_a_pair_is_what_transformers_makes_of_it(
    files: RerankFiles, tokenizer: PairTokenizer
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(files.directory))
    for pair, document in zip(tokenizer.tokenize(QUERY, DOCUMENTS), DOCUMENTS, strict=True):
        wanted = theirs(QUERY, document, truncation="only_second", max_length=POSITIONS)
        assert pair.ids.tolist() == wanted["input_ids"]
        assert pair.types is not None
        assert pair.types.tolist() == wanted["token_type_ids"]


def test_only_the_document_is_cut_and_said_to_be(tokenizer: PairTokenizer) -> None:
    query = "lake " * tokenizer.query_tokens
    count = tokenizer.count(query)
    assert count == tokenizer.query_tokens == POSITIONS // 2
    short, long = tokenizer.tokenize(query, ["tarn", "tarn " * POSITIONS])
    assert (short.truncated, long.truncated) == (False, True)
    assert len(long) == POSITIONS
    for pair in (short, long):
        assert pair.types is not None
        # The query whole, between its two special tokens.
        assert int((pair.types == 0).sum()) == count + 2


def test_a_document_that_just_fits_is_not_said_to_be_cut(tokenizer: PairTokenizer) -> None:
    (fits,) = tokenizer.tokenize("lake", ["tarn " * 62])
    assert not fits.truncated
    room = POSITIONS - 3 - tokenizer.count("lake")
    words = room // tokenizer.count("tarn")
    assert words * tokenizer.count("tarn") == room, "the word fills the room exactly"
    (full, over) = tokenizer.tokenize("lake", ["tarn " * words, "tarn " * words + "lake"])
    assert (len(full), full.truncated) == (POSITIONS, False)
    assert (len(over), over.truncated) == (POSITIONS, True)


# -- scores ------------------------------------------------------------------------------------


def test_every_engine_gives_the_logits_of_transformers(
    files: RerankFiles, tokenizer: PairTokenizer, scorer: Scorer
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(str(files.directory))
    pairs = tokenizer.tokenize(QUERY, DOCUMENTS)
    wanted = []
    for pair in pairs:
        assert pair.types is not None
        with torch.inference_mode():
            wanted.append(
                model(
                    input_ids=torch.tensor([pair.ids.tolist()]),
                    token_type_ids=torch.tensor([pair.types.tolist()]),
                ).logits.item()
            )
    assert max(wanted) - min(wanted) > 0.1, "a model that tells the documents apart"
    # All in one pass, padded, where theirs were one by one and bare.
    np.testing.assert_allclose(scorer.score(pairs)[:, 0], wanted, atol=2e-5)


def test_the_types_of_the_tokens_reach_the_model(tokenizer: PairTokenizer, scorer: Scorer) -> None:
    (pair,) = tokenizer.tokenize(QUERY, DOCUMENTS[:1])
    untyped = Tokens(pair.ids, False, np.zeros_like(pair.ids))
    with_types, without = scorer.score([pair, untyped])[:, 0]
    assert abs(with_types - without) > 1e-3


def test_an_id_beyond_the_vocabulary_is_an_error_of_the_pass(scorer: Scorer) -> None:
    with pytest.raises(EncoderError):
        scorer.score([Tokens(np.array([10**6], dtype=np.int32))])


def test_warm_up_runs_every_shape_and_refuses_what_is_no_score(
    tokenizer: PairTokenizer, scorer: Scorer
) -> None:
    seen: list[tuple[int, int]] = []

    class Recording:
        engine: RerankEngine = "onnx"
        cost = Cost(1)
        answer = 0.0

        def score(self, batch: Sequence[Tokens]) -> Vectors:
            seen.append((len(batch), len(batch[0])))
            assert all(one.types is not None and len(one.types) == len(one) for one in batch)
            return np.full((len(batch), 1), self.answer, dtype=np.float32)

    warm_up(scorer, tokenizer, 256)
    recording = Recording()
    warm_up(recording, tokenizer, 256)
    assert seen == [(1, 16), (16, 16), (4, 64), (2, 128)]
    recording.answer = float("nan")
    with pytest.raises(EncoderError, match="1 pairs of 16 tokens"):
        warm_up(recording, tokenizer, 256)


def test_sigmoid_of_any_size() -> None:
    logits = np.array([0.0, 2.0, -2.0, 3e38, -3e38, -40.0], dtype=np.float32)
    scores = sigmoid(logits)
    assert scores[:2] == pytest.approx([0.5, 0.8807970779778823])
    assert scores[1] + scores[2] == pytest.approx(1.0)
    assert scores[3:5] == [1.0, 0.0]
    assert scores[5] == pytest.approx(4.248354255291589e-18)
    with pytest.raises(Unavailable):
        sigmoid(np.array([0.0, np.nan], dtype=np.float32))


def test_highest_first_and_equal_ones_by_index() -> None:
    assert ranked([0.2, 0.9, 0.2, 1.0, 0.9]) == (3, 1, 4, 0, 2)
    assert ranked([]) == ()


# -- requests ----------------------------------------------------------------------------------


class Lengths:
    """Scores a pair by how long it is, once it may."""

    def __init__(self) -> None:
        self.passes: list[list[int]] = []

    def __call__(self, batch: Sequence[Tokens]) -> Vectors:
        self.passes.append([len(tokens) for tokens in batch])
        return np.array([[len(tokens) / 100] for tokens in batch], dtype=np.float32)


@pytest.fixture
async def parts(tokenizer: PairTokenizer) -> AsyncIterator[tuple[Reranker, Scheduler, Lengths]]:
    lengths = Lengths()
    scheduler = Scheduler(lengths, batch_tokens=256, queue_texts=6, cost=Cost(4))
    await scheduler.start()
    reranker = Reranker(tokenizer, scheduler)
    yield reranker, scheduler, lengths
    reranker.close()
    await scheduler.stop(10)


async def test_scores_come_back_in_the_order_of_the_documents(
    parts: tuple[Reranker, Scheduler, Lengths], tokenizer: PairTokenizer
) -> None:
    reranker, scheduler, _ = parts
    scored = await reranker.score(QUERY, DOCUMENTS)
    pairs = tokenizer.tokenize(QUERY, DOCUMENTS)
    assert scored.scores == pytest.approx([1 / (1 + np.exp(-len(p) / 100)) for p in pairs])
    assert scored.order[0] == 2
    assert scored.tokens == sum(map(len, pairs))
    assert scored.truncated == (2,)
    assert scored.timings.tokenize > 0
    assert (scheduler.depth, scheduler.reserved) == (0, 0)


async def test_a_query_that_is_too_long_is_refused_and_keeps_no_place(
    parts: tuple[Reranker, Scheduler, Lengths],
) -> None:
    reranker, scheduler, lengths = parts
    with pytest.raises(TooLarge, match=r"query has 65 tokens; at most 64"):
        await reranker.score("lake " * 65, DOCUMENTS)
    assert (scheduler.depth, scheduler.reserved, lengths.passes) == (0, 0, [])


async def test_more_than_the_queue_holds_is_refused_before_any_work(
    parts: tuple[Reranker, Scheduler, Lengths], monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker, scheduler, lengths = parts

    def never(*_: object) -> list[Tokens]:
        pytest.fail("tokenized")

    monkeypatch.setattr(PairTokenizer, "tokenize", never)
    with pytest.raises(Overloaded) as raised:
        await reranker.score(QUERY, ["x"] * 7)
    assert raised.value.retry_after is not None
    assert (scheduler.reserved, lengths.passes) == (0, [])


async def test_a_request_that_is_given_up_costs_no_pass(
    gate: Gate, make: MakeScheduler, tokenizer: PairTokenizer
) -> None:
    scheduler = await make()
    reranker = Reranker(tokenizer, scheduler)
    first = await hold(gate, scheduler)
    waiting = asyncio.create_task(reranker.score(QUERY, DOCUMENTS))
    await until(lambda: scheduler.depth == len(DOCUMENTS))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (scheduler.depth, scheduler.reserved) == (0, 0)
    gate.open.set()
    await first
    reranker.close()
    assert gate.batches == [[1]]


def test_its_lane_is_watched_where_there_is_one(tiny_reranker: Path) -> None:
    watched = EmbeddingsConfig(rerank_model=tiny_reranker)
    without, with_one = (create(Config(embeddings=e)) for e in (EmbeddingsConfig(), watched))
    assert len(with_one.heartbeats) == len(without.heartbeats) + 1
    # Not loaded: nothing that could hang yet, and nothing to be asked.
    assert [beat() for beat in with_one.heartbeats] == [0, 0]
