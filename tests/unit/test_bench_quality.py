"""The bars of `make bench-retrieval` on quality, over rankings whose metrics are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from aistack.evaluation.metrics import METRICS
from bench.cranfield import Cranfield
from bench.embeddings.bars import Figure
from bench.retrieval import __main__ as program
from bench.retrieval import quality
from bench.retrieval.quality import PEER, RERANKED, Quality, figures, table
from bench.retrieval.reranker import VARIABLE, named

GOOD, BAD = ["a", "x"], ["x", "a"]


def judged(queries: int = 40) -> Cranfield:
    numbers = range(1, queries + 1)
    return Cranfield(
        {"a": ("", "a"), "x": ("", "x")},
        {number: f"q{number}" for number in numbers},
        {number: {"a": 1.0} for number in numbers},
    )


def measured(**even: Sequence[str]) -> Quality:
    """Every leg answers the even queries as given, or well; the odd ones always badly."""
    collection = judged()
    legs = ("lexical", "dense", "hybrid", PEER)
    rankings: Mapping[str, Mapping[int, Sequence[str]]] = {
        leg: {n: BAD if n % 2 else even.get(leg, GOOD) for n in collection.queries} for leg in legs
    }
    return Quality(collection, 2, rankings)


def missed(found: Sequence[Figure]) -> list[str]:
    return [figure.name for figure in found if not figure.good]


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "RECORDED", {"dense": ((0.9, 0.1),) * len(METRICS)})


def test_good_rankings_are_over_every_bar_whatever_the_odd_queries_say() -> None:
    found = figures(measured())
    assert missed(found) == []
    assert len(found) == 2 + len(METRICS)


def test_fusion_worse_than_the_best_leg_misses_its_bar() -> None:
    assert missed(figures(measured(hybrid=BAD, lexical=BAD, bm25s=BAD))) == [
        "hybrid - dense, nDCG@10, lower bound"
    ]


def test_a_lexical_leg_apart_from_its_peer_misses_its_bar() -> None:
    assert missed(figures(measured(bm25s=BAD))) == ["lexical and bm25s apart, nDCG@10"]


def test_a_leg_under_its_recorded_mean_less_its_interval_misses_its_bar() -> None:
    # nDCG@10 of BAD is 1 / log2(3) = .63 and its MRR .5; .8 is the floor.
    assert missed(figures(measured(dense=BAD))) == ["dense ndcg@10", "dense mrr"]


def test_the_table_says_that_there_is_no_model_to_rerank_with() -> None:
    lines = table(measured(hybrid=BAD)).splitlines()
    assert "+ rerank    not measured: AISTACK_RERANK_MODEL names no reranking model" in lines
    assert lines[0].endswith("20 even queries (95 % intervals)")
    assert lines[-1].startswith("hybrid - lexical, nDCG@10, paired: -0.369")


def test_what_was_reranked_is_a_row_like_the_others() -> None:
    plain = measured()
    rankings = {**plain.rankings, RERANKED: plain.rankings["hybrid"]}
    lines = table(Quality(plain.collection, 2, rankings)).splitlines()
    (row,) = [line for line in lines if line.startswith("+ rerank")]
    (fused,) = [line for line in lines if line.startswith("hybrid  ")]
    assert row.removeprefix("+ rerank").split() == fused.removeprefix("hybrid").split()


async def test_a_reranker_in_this_process_scores_as_the_service_does(
    tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert named() is None
    monkeypatch.setenv(VARIABLE, str(tiny_reranker))
    judge = named()
    assert judge is not None
    documents = ["a tarn", "word " * 200, "tarns", "a tax form in three copies", "word " * 90]
    scores = await judge.scores("a lake", documents)
    alone = [(await judge.scores("a lake", [document]))[0] for document in documents]
    assert scores == pytest.approx(alone, abs=1e-5)
    assert len(set(scores)) == len(documents)


@pytest.mark.parametrize(("value", "status"), [(0.1, 0), (0.0, 1), (float("nan"), 1)])
def test_a_missed_bar_is_the_exit_status_and_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    value: float,
    status: int,
) -> None:
    (tmp_path / "cran.all.1400.xml").touch()
    monkeypatch.setattr(
        program, "measure_quality", lambda _, *, tuned: [Figure("gain", value, at_least=0.1)]
    )
    monkeypatch.setattr(
        "sys.argv", ["x", str(tmp_path), "--only", "quality", "--json", str(tmp_path / "out.json")]
    )
    assert program.main() == status
    said = capsys.readouterr()
    assert "bar >= 0.1" in said.out
    assert said.err == ("missed: quality on Cranfield: gain\n" if status else "")
    assert '"name": "gain"' in (tmp_path / "out.json").read_text()


def test_without_cranfield_quality_is_left_out_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path), "--only", "quality"])
    assert program.main() == 0
    assert "no Cranfield" in capsys.readouterr().out
