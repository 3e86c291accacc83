"""`aistack eval`: what is asked, what is said, and what is compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from fix_cli import Edge, Ended

Cli = Callable[..., Ended]
ID = "01234567-89ab-cdef-0123-456789abcdef"


def hit(source: str, identifier: str = str(UUID(int=1))) -> dict[str, Any]:
    return {"source": source, "document_id": identifier}


def page(hits: list[dict[str, Any]], *, after: int | None = None, **more: Any) -> dict[str, Any]:
    said = {"took_ms": 5.0, "cached": False, "epoch": 3, "embedding_set": "m", **more}
    return {"hits": hits, "next_offset": after, **said}


class Shelf:
    """Answers by mode; the documents of `there` exist."""

    def __init__(self, answers: Mapping[str, Any], there: tuple[str, ...] = ()) -> None:
        self.answers = answers
        self.there = there

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/documents":
            known = request.url.params["source"] in self.there
            return httpx.Response(200, json={"data": [{}] * known, "next_cursor": None})
        if request.url.path.startswith("/v1/documents/"):
            return httpx.Response(404, json={"detail": "no"})
        body = json.loads(request.content)
        answer = self.answers[body["mode"]]
        return httpx.Response(200, json=answer(body) if callable(answer) else answer)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.jsonl"
    path.write_text(
        '{"query": "q", "relevant": {"a": 2, "b": 1}}\n{"query": "r", "relevant": {"c": 1}}\n'
    )
    return path


ANSWERS = {
    "dense": page([hit("x"), hit("a"), hit("x"), hit("c")]),
    "lexical": page([hit("b")]),
    "hybrid": page([hit("a"), hit("b"), hit("c")]),
}


def test_each_leg_and_both_are_scored_by_the_best_chunk(
    edge: Edge, aistack: Cli, labels: Path
) -> None:
    edge.answer = Shelf(ANSWERS)
    ended = aistack("eval", "run", str(labels), "-c", "notes", "--json")
    assert ended.code == 0, ended.err
    searches = [body for body in edge.bodies() if body]
    assert {(b["collection"], b["limit"]) for b in searches} == {("notes", 100)}
    assert [(b["query"], b["mode"]) for b in searches] == [
        (query, mode) for query in ("q", "r") for mode in ("dense", "lexical", "hybrid")
    ]
    legs = ended.json["legs"]
    # q: a is second; r: c is third, because x counts once.
    assert legs["dense"]["mrr"]["mean"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert legs["lexical"]["recall@10"]["mean"] == pytest.approx((1 / 2 + 0) / 2)
    assert legs["hybrid"]["mrr"]["mean"] == pytest.approx((1 + 1 / 3) / 2)
    assert legs["hybrid"]["latency_ms"] == {"p50": 5.0, "p95": 5.0}
    assert ended.json["missing"] == []
    assert ended.json["fused_minus_best"]["best"] == "dense"


def test_reranking_is_asked_for_in_every_search_and_kept_with_the_run(
    edge: Edge, aistack: Cli, labels: Path, tmp_path: Path
) -> None:
    edge.answer = Shelf(ANSWERS)
    out = tmp_path / "run.json"
    ended = aistack("eval", "run", str(labels), "--rerank", "--out", str(out))
    assert ended.code == 0
    asked = [json.loads(r.content) for r in edge.requests if r.url.path == "/v1/search"]
    assert asked
    assert all(body["rerank"] is True for body in asked)
    assert json.loads(out.read_text())["about"]["rerank"] is True


def test_people_get_a_table_with_intervals(edge: Edge, aistack: Cli, labels: Path) -> None:
    edge.answer = Shelf(ANSWERS)
    ended = aistack("eval", "run", str(labels))
    lines = ended.out.splitlines()
    assert lines[0].split() == [
        "nDCG@10",
        "recall@10",
        "recall@100",
        "MRR",
        "p50",
        "ms",
        "p95",
        "ms",
    ]
    assert [line.split()[0] for line in lines[1:4]] == ["dense", "lexical", "hybrid"]
    assert "0.417 [0.333, 0.500]" in lines[1]
    assert lines[4].startswith("hybrid minus dense, nDCG@10: +")


def test_pages_are_read_until_there_are_100_documents(
    edge: Edge, aistack: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"query": "q", "relevant": {"far": 1}}\n')

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        if body["offset"] == 0:
            return page([hit(f"d{i // 2}") for i in range(100)], after=100)
        return page([hit("far")] + [hit(f"e{i}") for i in range(99)], after=200)

    edge.answer = Shelf({"hybrid": answer})
    ended = aistack("eval", "run", str(path), "--mode", "hybrid", "--json")
    assert [body["offset"] for body in edge.bodies() if body] == [0, 100]
    leg = ended.json["legs"]["hybrid"]
    assert leg["recall@100"]["mean"] == 1
    assert leg["mrr"]["mean"] == pytest.approx(1 / 51)
    assert ended.json["fused_minus_best"] is None


def test_a_label_may_name_a_document_by_its_id(edge: Edge, aistack: Cli, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps({"query": "q", "relevant": {ID.upper(): 1}}))
    edge.answer = Shelf({"dense": page([hit("a", ID)])})
    ended = aistack("eval", "run", str(path), "--mode", "dense", "--json")
    assert ended.json["legs"]["dense"]["mrr"]["mean"] == 1


def test_a_labelled_document_that_is_not_there_is_said(
    edge: Edge, aistack: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps({"query": "q", "relevant": {"typo": 1, "low": 1, ID: 1, "bad": 0}}))
    edge.answer = Shelf({"dense": page([hit("x")])}, there=("low",))
    ended = aistack("eval", "run", str(path), "--mode", "dense")
    assert ended.code == 0
    assert "2 relevant documents not in default, which count as not found: " in ended.err
    assert ID in ended.err
    assert "typo" in ended.err


def test_an_answer_without_one_of_its_legs_ends_the_run(
    edge: Edge, aistack: Cli, labels: Path
) -> None:
    edge.answer = Shelf({**ANSWERS, "hybrid": page([hit("a")], degraded=["dense"])})
    ended = aistack("eval", "run", str(labels), "--out", str(labels.parent / "run.json"))
    assert ended.code == 1
    assert "a hybrid search was answered without its dense leg" in ended.err
    assert not (labels.parent / "run.json").exists()


def test_cached_answers_are_not_in_the_times(edge: Edge, aistack: Cli, labels: Path) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        return page([], cached=body["query"] == "q", took_ms=1.0 if body["query"] == "q" else 9.0)

    edge.answer = Shelf({"dense": answer, "lexical": page([], cached=True)})
    words = ("eval", "run", str(labels), "--mode", "dense", "--mode", "lexical")
    legs = aistack(*words, "--json").json["legs"]
    assert legs["dense"]["latency_ms"] == {"p50": 9.0, "p95": 9.0}
    assert legs["lexical"]["latency_ms"] is None
    assert "dense: 1 of 2 answers were cached" in aistack(*words).err


def test_bad_labels_are_one_line_each_and_nothing_is_searched(
    edge: Edge, aistack: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text("{\n[]\n")
    ended = aistack("eval", "run", str(path))
    assert ended.code == 2
    first, second, last = ended.err.splitlines()
    assert first.startswith(f"{path}:1: it is not JSON")
    assert second.startswith(f"{path}:2: it is not an object")
    assert last == (
        "aistack: 2 lines of the labels cannot be used: put them right; nothing was searched"
    )
    path.write_text("{}\n")
    one = aistack("eval", "run", str(path))
    assert one.err.count("\n") == 1
    assert f"{path}:1: " in one.err
    assert edge.requests == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl cannot be read: No such file"),
        (["LABELS", "--grades", "1"], "--grades: '1' is not GRADE=GAIN"),
        (["LABELS", "--grades", "1=1"], "grade 2 is not one of 1"),
        (["LABELS", "--out", "no/such/run.json"], "no/such is not a directory"),
        (["LABELS", "--topics", "nowhere.tsv"], "nowhere.tsv cannot be read"),
        (["LABELS", "--mode", "both"], "both"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_searched(
    edge: Edge, aistack: Cli, labels: Path, words: list[str], said: str
) -> None:
    ended = aistack("eval", "run", *(str(labels) if w == "LABELS" else w for w in words))
    assert ended.code == 2
    assert said in ended.err
    assert edge.requests == []


def stored(edge: Edge, aistack: Cli, labels: Path, name: str, answers: Mapping[str, Any]) -> Path:
    path = labels.parent / name
    edge.answer = Shelf(answers)
    ended = aistack("eval", "run", str(labels), "--out", str(path))
    assert ended.code == 0, ended.err
    return path


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "labels.jsonl"
    path.write_text(
        "".join(json.dumps({"query": f"q{i}", "relevant": {"a": 1}}) + "\n" for i in range(20))
    )
    return path


def test_compare_says_whether_a_change_helped(edge: Edge, aistack: Cli, many: Path) -> None:
    bad = {mode: page([hit("x"), hit("a")]) for mode in ANSWERS}
    good = {**bad, "hybrid": page([hit("a")])}
    before = stored(edge, aistack, many, "before.json", bad)
    after = stored(edge, aistack, many, "after.json", good)
    ended = aistack("eval", "compare", str(before), str(after))
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1].startswith("the change helped: hybrid, nDCG@10 +0.369")
    assert (
        aistack("eval", "compare", str(after), str(before))
        .out.splitlines()[-1]
        .startswith("the change hurt")
    )
    same = aistack("eval", "compare", str(before), str(before))
    assert same.out.splitlines()[-1].startswith("no difference is shown")
    changes = aistack("eval", "compare", str(before), str(after), "--json").json["changes"]
    assert {(c["mode"], c["verdict"]) for c in changes if c["metric"] == "ndcg@10"} == {
        ("dense", "no difference shown"),
        ("lexical", "no difference shown"),
        ("hybrid", "better"),
    }


def test_a_change_that_helps_some_and_hurts_as_many_shows_nothing(
    edge: Edge, aistack: Cli, many: Path
) -> None:
    def turn(odd: bool) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def answer(body: dict[str, Any]) -> dict[str, Any]:
            first = int(body["query"][1:]) % 2 == odd
            return page([hit("a")] if first else [hit("x"), hit("a")])

        return answer

    one = stored(edge, aistack, many, "1.json", dict.fromkeys(ANSWERS, turn(True)))
    two = stored(edge, aistack, many, "2.json", dict.fromkeys(ANSWERS, turn(False)))
    said = aistack("eval", "compare", str(one), str(two)).out.splitlines()[-1]
    assert said.startswith("no difference is shown: hybrid, nDCG@10 +0.000 [-0.")


def test_runs_of_other_labels_or_no_runs_are_refused(edge: Edge, aistack: Cli, many: Path) -> None:
    one = stored(edge, aistack, many, "1.json", ANSWERS)
    many.write_text(many.read_text().replace('"a": 1', '"a": 2'))
    other = stored(edge, aistack, many, "2.json", ANSWERS)
    ended = aistack("eval", "compare", str(one), str(other))
    assert ended.code == 2
    assert "made with different labels" in ended.err
    for text in ("{", "[]", "{}", '{"form": 1}', '{"form": 1, "legs": 3}'):
        other.write_text(text)
        refused = aistack("eval", "compare", str(one), str(other))
        assert refused.code == 2
        assert f"{other} is not a run" in refused.err
    other.write_text(one.read_text().replace('"form": 1', '"form": 0'))
    assert "another version" in aistack("eval", "compare", str(one), str(other)).err
    assert "cannot be read" in aistack("eval", "compare", str(one), "nowhere.json").err
