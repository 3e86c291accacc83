"""The whole story on the real parts: up, ingest, search, ask, restart, everything still there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from fix_stack import RunningStack, clean_environment, started

ROOT = Path(__file__).parents[2]
QUESTIONS = json.loads((ROOT / "tests/data/questions.json").read_text())


def aistack(stack: RunningStack, *arguments: str, code: int = 0) -> str:
    """What `aistack …` prints for a user of this stack; it must end with `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "aistack", *arguments],
        env={**clean_environment(), "AISTACK_DATA_DIR": str(stack.data_dir)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def client(stack: RunningStack) -> httpx.Client:
    return httpx.Client(
        base_url=stack.base_url, headers={"authorization": f"Bearer {stack.key}"}, timeout=120
    )


def search(http: httpx.Client, question: str, collection: str) -> dict[str, Any]:
    answer = http.post("/v1/search", json={"query": question, "collection": collection, "limit": 5})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def check_questions(http: httpx.Client, collection: str) -> None:
    """Every question finds its passage among the first five hits."""
    missed = []
    for entry in QUESTIONS:
        hits = search(http, entry["question"], collection)["hits"]
        good = [
            hit
            for hit in hits
            if hit["source"].endswith(entry["source"])
            and any(word.lower() in hit["text"].lower() for word in entry["words"])
        ]
        if not good:
            missed.append((entry["question"], [hit["source"] for hit in hits]))
    assert missed == []


def check_citations(http: httpx.Client, answer: dict[str, Any]) -> None:
    """Each quote is the document's own text at the span that the citation names."""
    for citation in answer["aistack"]["citations"]:
        document = http.get(f"/v1/documents/{citation['document_id']}/text")
        assert document.status_code == 200, document.text
        text = document.json()["text"]
        assert text[citation["char_start"] : citation["char_end"]] == citation["quote"]


def test_documents_in_cited_answers_out(tmp_path: Path, shared_data: Path) -> None:
    data = tmp_path / "data"
    with started(data) as stack:
        own = json.loads(
            aistack(stack, "ingest", str(ROOT / "docs"), "--collection", "own", "--json")
        )
        assert own["summary"]["failed"] == 0
        assert own["summary"]["ready"] == len(list((ROOT / "docs").rglob("*.md")))
        aistack(stack, "ingest", str(shared_data / "nix-dev"), "--collection", "nix")
        again = json.loads(
            aistack(stack, "ingest", str(shared_data / "nix-dev"), "--collection", "nix", "--json")
        )
        assert (again["summary"]["ready"], again["summary"]["failed"]) == (0, 0)
        assert again["summary"]["unchanged"] == len(list((shared_data / "nix-dev").rglob("*.md")))
        with client(stack) as http:
            check_questions(http, "nix")
            before = search(http, QUESTIONS[0]["question"], "nix")
            answers = [ask(http, entry["question"], "nix") for entry in QUESTIONS[:4]]
            for answer in answers:
                check_citations(http, answer)
            assert sum(bool(answer["aistack"]["citations"]) for answer in answers) >= 3
            honest = ask(http, "Who won the 1998 football world cup final?", "nix")
            assert honest["aistack"]["not_in_documents"]
            assert honest["aistack"]["citations"] == []
        text = aistack(stack, "ask", QUESTIONS[0]["question"], "--collection", "nix")
        assert "[1]" in text
        assert "architecture.md" in aistack(
            stack, "search", "what is a collection epoch", "--collection", "own"
        )
        aistack(stack, "status")
    with started(data) as stack, client(stack) as http:
        after = search(http, QUESTIONS[0]["question"], "nix")
        assert [hit["chunk_id"] for hit in after["hits"]] == [
            hit["chunk_id"] for hit in before["hits"]
        ]
        assert after["epoch"] == before["epoch"]
        check_questions(http, "nix")


def ask(http: httpx.Client, question: str, collection: str) -> dict[str, Any]:
    answer = http.post(
        "/v1/chat/completions",
        json={
            "model": "aistack",
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 80,
            "aistack": {"collection": collection},
        },
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
