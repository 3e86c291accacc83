"""`aistack eval` against the real stack: documents in, labels asked, two runs compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fix_stack import RunningStack, clean_environment

PASSAGES = {
    "tarn.txt": "A tarn is a small lake in the mountains.",
    "fell.txt": "A fell is a high and barren hill.",
    "keys.txt": "Access keys are rotated every ninety days.",
    "bread.txt": "Sourdough bread rises overnight in a cool kitchen.",
}
QUESTIONS = {
    "small lake in the mountains": "tarn.txt",
    "high barren hill": "fell.txt",
    "how often are access keys rotated?": "keys.txt",
    "bread that rises overnight": "bread.txt",
}


def aistack(stack: RunningStack, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """`aistack …` of a user of this stack, which must end with `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "aistack", *words],
        env={**clean_environment(), "AISTACK_DATA_DIR": str(stack.data_dir)},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def collection(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("eval") / "passages"
    directory.mkdir()
    for name, text in PASSAGES.items():
        (directory / name).write_text(text, encoding="utf-8")
    aistack(stack, "ingest", str(directory), "--collection", "eval")
    return "eval"


def lines(labels: dict[str, dict[str, int]]) -> str:
    return "".join(json.dumps({"query": q, "relevant": r}) + "\n" for q, r in labels.items())


def evaluated(stack: RunningStack, collection: str, *words: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        aistack(stack, "eval", "run", *words, "--collection", collection, "--json").stdout
    )
    return answer


def test_labels_by_source_and_by_id_are_evaluated_and_runs_compared(
    stack: RunningStack, collection: str, tmp_path: Path
) -> None:
    listed = aistack(stack, "documents", "list", "--collection", collection, "--json").stdout
    ids = {Path(one["source"]).name: one["id"] for one in json.loads(listed)["data"]}
    sources = {Path(one["source"]).name: one["source"] for one in json.loads(listed)["data"]}
    labels = tmp_path / "labels.jsonl"
    labels.write_text(lines({q: {sources[name]: 1} for q, name in QUESTIONS.items()}))
    out = tmp_path / "good.json"
    found = evaluated(stack, collection, str(labels), "--out", str(out))
    assert found["missing"] == []
    for leg in ("dense", "lexical", "hybrid"):
        assert found["legs"][leg]["ndcg@10"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    # The same collection, judged by the ids of its documents, and one that is not there.
    nowhere = "00000000-0000-4000-8000-000000000000"
    labels.write_text(lines({q: {ids[n]: 1, nowhere: 1} for q, n in QUESTIONS.items()}))
    again = evaluated(stack, collection, str(labels), "--mode", "hybrid")
    assert again["missing"] == [nowhere]
    assert again["legs"]["hybrid"]["mrr"]["mean"] == 1
    assert again["legs"]["hybrid"]["recall@100"]["mean"] == 0.5
    assert again["legs"]["hybrid"]["cached"] == len(QUESTIONS)
    same = json.loads(aistack(stack, "eval", "compare", str(out), str(out), "--json").stdout)
    assert {one["verdict"] for one in same["changes"]} == {"no difference shown"}
    assert len(same["changes"]) == 12


def test_trec_files_are_read(stack: RunningStack, collection: str, tmp_path: Path) -> None:
    (tmp_path / "topics.tsv").write_text("1\tsmall lake in the mountains\n2\tnothing judged\n")
    (tmp_path / "qrels").write_text("1 0 passages/tarn.txt 1\n1 0 passages/fell.txt 4\n")
    found = evaluated(
        stack, collection, str(tmp_path / "qrels"),
        "--topics", str(tmp_path / "topics.tsv"), "--grades", "1=1,4=0",
    )  # fmt: skip
    assert (found["queries"], found["unjudged"], found["missing"]) == (1, 1, [])
    assert found["legs"]["hybrid"]["ndcg@10"]["mean"] == 1


def test_a_collection_that_is_not_there_and_bad_labels_end_the_command(
    stack: RunningStack, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text(lines({"anything": {"a": 1}}))
    ended = aistack(stack, "eval", "run", str(labels), "--collection", "nowhere", code=1)
    assert "nowhere" in ended.stderr
    labels.write_text("{\n")
    ended = aistack(stack, "eval", "run", str(labels), code=2)
    assert f"{labels}:1: it is not JSON" in ended.stderr
