"""`aistack ingest`: which files, under which names, and what is said of each."""

from __future__ import annotations

import email
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from aistack.cli import ingest, ingest_upload
from aistack.cli.errors import Usage
from aistack.cli.files import Candidate, Skipped, find
from aistack.config import AidbConfig
from fix_cli import Edge, Ended, on_empty_shelves

Cli = Callable[..., Ended]


@dataclass(slots=True)
class Shelf:
    """The documents routes of aidb, as far as the command needs them."""

    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    forms: list[dict[str, str]] = field(default_factory=list)
    #: How often a document is still found pending.
    rounds: int = 0
    fails: dict[str, str] = field(default_factory=dict)
    refuses: dict[str, int] = field(default_factory=dict)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "POST" and path == "/v1/documents":
            return self._take(request)
        if request.method == "POST":
            return httpx.Response(201, json=json.loads(request.content))
        if path == "/v1/documents" and "source" in request.url.params:
            names = request.url.params.get_list("source")
            known = [d for d in self.documents.values() if d["source"] in names]
            return httpx.Response(200, json={"data": known, "next_cursor": None})
        if path == "/v1/documents":
            wanted = request.url.params["state"]
            found = [d for d in self.documents.values() if d["state"] == wanted]
            self._advance()
            return httpx.Response(200, json={"data": found, "next_cursor": None})
        self._advance()
        document = self.documents.get(path.rpartition("/")[2])
        return httpx.Response(200, json=document) if document else httpx.Response(404)

    def _take(self, request: httpx.Request) -> httpx.Response:
        form = read_form(request)
        self.forms.append(form)
        source = form["source"]
        if source in self.refuses:
            return httpx.Response(self.refuses[source], json={"detail": "Refused."})
        identifier = source.replace("/", "-")
        document = {
            "id": identifier,
            "source": source,
            "state": "pending",
            "progress": 0.0,
            "chunk_count": 0,
            "error": None,
            "sha256": hashlib.sha256(form["file"].encode()).hexdigest(),
            "content_type": form["type"],
            "metadata": json.loads(form.get("metadata", "{}")),
            "pending": None,
        }
        return httpx.Response(202, json=self.documents.setdefault(identifier, document))

    def _advance(self) -> None:
        self.rounds -= 1
        if self.rounds >= 0:
            return
        for name, document in self.documents.items():
            if document["state"] == "pending":
                failed = self.fails.get(name)
                document["state"] = "failed" if failed else "ready"
                document.update(error=failed, chunk_count=0 if failed else 3)


def read_form(request: httpx.Request) -> dict[str, str]:
    """The fields of a multipart body; the file's type and name as `type` and `name`."""
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    form: dict[str, str] = {}
    for part in email.message_from_bytes(head + request.content).get_payload():
        assert not isinstance(part, str)
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        form[str(name)] = payload.decode(errors="replace")
        if name == "file":
            form["type"], form["name"] = part.get_content_type(), str(part.get_filename())
    return form


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    for name, content in {
        "index.md": "# Index",
        "guide/one.txt": "one",
        "guide/page.HTML": "<p>page</p>",
        "paper.pdf": "%PDF-1.7",
        "data.csv": "a,b",
        ".hidden.md": "no",
        ".git/x.md": "no",
        "empty.md": "",
        "large.txt": "x" * 2000,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_names_types_and_reasons(tree: Path) -> None:
    found = list(find([tree], include=[], max_bytes=1000))
    taken = [(c.source, c.content_type) for c in found if isinstance(c, Candidate)]
    assert taken == [
        ("docs/index.md", "text/markdown"),
        ("docs/paper.pdf", "application/pdf"),
        ("docs/guide/one.txt", "text/plain"),
        ("docs/guide/page.HTML", "text/html"),
    ]
    reasons = {s.path.name: s.reason for s in found if isinstance(s, Skipped)}
    assert reasons == {
        ".git": "hidden",
        ".hidden.md": "hidden",
        "data.csv": "not a type that is read (.csv)",
        "empty.md": "empty",
        "large.txt": "too large (2000 bytes; the limit is 1000)",
    }


def test_include_chooses_and_admits_other_types_as_text(tree: Path) -> None:
    found = list(find([tree], include=["*.csv", "guide/*.txt"], max_bytes=1000))
    assert [(c.source, c.content_type) for c in found if isinstance(c, Candidate)] == [
        ("docs/data.csv", "text/plain"),
        ("docs/guide/one.txt", "text/plain"),
    ]


def test_links_to_directories_are_not_followed(tree: Path) -> None:
    (tree / "guide" / "circle").symlink_to(tree)
    found = [c for c in find([tree], include=[], max_bytes=5000) if isinstance(c, Candidate)]
    assert len(found) == 5


def test_a_directory_is_sent_and_waited_for(edge: Edge, aistack: Cli, tree: Path) -> None:
    shelf = Shelf(rounds=3)
    edge.answer = shelf
    ended = aistack(
        "ingest", str(tree), "--metadata", "team=docs", "--metadata", "year=2026", "--json"
    )
    assert ended.code == 0
    assert ended.json["summary"] == {
        "ready": 5, "unchanged": 0, "pending": 0, "failed": 0, "skipped": 4, "replaced": 0,
        "sent": 5,
    }  # fmt: skip
    form = next(form for form in shelf.forms if form["source"] == "docs/guide/page.HTML")
    assert form["file"] == "<p>page</p>"
    assert form["type"] == "text/html"
    assert form["collection"] == "default"
    assert json.loads(form["metadata"]) == {"team": "docs", "year": 2026}
    assert f"skipped {tree / 'data.csv'}: not a type that is read (.csv)" in ended.err


def test_many_are_watched_by_lists(edge: Edge, aistack: Cli, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text(str(number))
    edge.answer = Shelf(rounds=4)
    ended = aistack("ingest", str(tmp_path), "--json")
    assert ended.json["summary"]["ready"] == 20
    # What is there, 20 uploads, 3 pairs of lists, each document once for its end: not 20 requests
    # a round.
    assert len(edge.requests) <= 1 + 20 + 2 * 4 + 20


def test_failures_are_named_and_end_with_1(edge: Edge, aistack: Cli, tree: Path) -> None:
    edge.answer = Shelf(
        fails={"docs-paper.pdf": "This is not a PDF that can be read."},
        refuses={"docs/index.md": 422},
    )
    ended = aistack("ingest", str(tree))
    assert ended.code == 1
    assert "failed docs/paper.pdf: This is not a PDF that can be read.\n" in ended.out
    assert "failed docs/index.md: Refused. (HTTP 422)\n" in ended.out
    assert "ready    3          9 chunks\n" in ended.out
    assert "\x1b" not in ended.out + ended.err


def test_what_is_there_already_is_unchanged(edge: Edge, aistack: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    ready = {"id": "1", "state": "ready", "chunk_count": 1, "error": None}
    edge.answer = on_empty_shelves(lambda _: httpx.Response(200, json=ready))
    assert aistack("ingest", str(tmp_path), "--json").json["summary"]["unchanged"] == 1


def test_another_collection_is_made_first(edge: Edge, aistack: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    edge.answer = Shelf()
    assert aistack("ingest", str(tmp_path), "-c", "books", "--prefix", "p/").code == 0
    assert edge.requests[0].url.path == "/v1/collections"
    assert json.loads(edge.requests[0].content) == {"name": "books"}
    assert read_form(edge.requests[1])["source"] == "p/a.txt"


def test_no_wait_leaves_them_pending(edge: Edge, aistack: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    edge.answer = Shelf(rounds=99)
    ended = aistack("ingest", str(tmp_path), "--no-wait", "--json")
    assert ended.code == 0
    assert ended.json["summary"]["pending"] == 1
    assert [request.method for request in edge.requests] == ["GET", "POST"]


def test_waiting_ends_without_progress(
    edge: Edge, aistack: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("a")
    edge.answer = Shelf(rounds=10_000)
    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr("aistack.cli.ingest_watch.time.monotonic", lambda: next(clock))
    ended = aistack("ingest", str(tmp_path), "--timeout", "60")
    assert ended.code == 1
    assert "not ready after 60 s without progress" in ended.out


def test_a_refused_key_stops_all(edge: Edge, aistack: Cli, tree: Path) -> None:
    edge.answer = lambda _: httpx.Response(403, json={"detail": "The key lacks the scope."})
    ended = aistack("ingest", str(tree))
    assert ended.code == 4
    assert len(edge.requests) <= ingest_upload.UPLOADS


def test_two_files_of_one_name_are_refused(aistack: Cli, edge: Edge, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "docs").mkdir(parents=True)
        (tmp_path / name / "docs" / "index.md").write_text(name)
    ended = aistack("ingest", str(tmp_path / "one/docs"), str(tmp_path / "two/docs"))
    assert ended.code == 2
    assert "would both be named docs/index.md" in ended.err
    assert edge.requests == []


def test_nothing_to_ingest_and_a_missing_path_are_failures(
    aistack: Cli, edge: Edge, tmp_path: Path
) -> None:
    assert aistack("ingest", str(tmp_path)).code == 1
    ended = aistack("ingest", str(tmp_path / "missing"))
    assert ended.code == 1
    assert "no such file or directory" in ended.out


def test_metadata_values_have_types() -> None:
    assert ingest.parse_metadata(["a=1", "b=1.5", "c=true", "d=x=y", "e=1", "e=2", "f=[1]"]) == {
        "a": 1, "b": 1.5, "c": True, "d": "x=y", "e": ["1", "2"], "f": "[1]",
    }  # fmt: skip
    with pytest.raises(Usage, match="not K=V"):
        ingest.parse_metadata(["team"])


def test_what_the_server_would_refuse_is_skipped_by_the_same_figure(
    edge: Edge, aistack: Cli, tmp_path: Path
) -> None:
    limit = AidbConfig.model_fields["document_bytes"].default
    (tmp_path / "just.txt").write_bytes(b"x" * limit)
    (tmp_path / "over.txt").write_bytes(b"x" * (limit + 1))
    edge.answer = Shelf()
    ended = aistack("ingest", str(tmp_path), "--prefix", "", "--no-wait", "--json")
    assert [document["source"] for document in ended.json["documents"]] == ["just.txt"]
    assert [skipped["reason"] for skipped in ended.json["skipped"]] == [
        f"too large ({limit + 1} bytes; the limit is {limit})"
    ]


def test_a_refusal_of_the_server_is_reported_in_its_words(
    edge: Edge, aistack: Cli, tmp_path: Path
) -> None:
    (tmp_path / "one.txt").write_text("x" * 20)
    edge.answer = Shelf(refuses={"one.txt": 413})
    ended = aistack("ingest", str(tmp_path), "--prefix", "", "--max-bytes", "20")
    assert ended.code == 1
    assert "failed one.txt: Refused. (HTTP 413)" in ended.out


def test_a_second_run_sends_only_what_has_changed(edge: Edge, aistack: Cli, tmp_path: Path) -> None:
    for name in ("one.txt", "two.md", "three.txt"):
        (tmp_path / name).write_text(name)
    edge.answer = shelf = Shelf()
    words = ("ingest", str(tmp_path), "--prefix", "", "--metadata", "year=2026", "--json")
    assert aistack(*words).json["summary"]["sent"] == 3
    (tmp_path / "two.md").write_text("changed")
    shelf.documents["three.txt"]["state"] = "failed"
    shelf.forms.clear()
    again = aistack(*words).json
    assert sorted(form["source"] for form in shelf.forms) == ["three.txt", "two.md"]
    assert again["summary"]["sent"] == 2
    assert {d["source"]: (d["state"], d["sent"]) for d in again["documents"]}["one.txt"] == (
        "unchanged",
        False,
    )
    # Other fields are a change too.
    shelf.forms.clear()
    aistack("ingest", str(tmp_path / "one.txt"), "--prefix", "", "--metadata", "year=2027")
    assert [json.loads(form["metadata"]) for form in shelf.forms] == [{"year": 2027}]


def test_a_broken_run_goes_on_and_waits_for_what_is_under_way(
    edge: Edge, aistack: Cli, tmp_path: Path
) -> None:
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(name)
    edge.answer = shelf = Shelf(rounds=1000)
    assert aistack("ingest", str(tmp_path), "--prefix", "", "--no-wait").code == 0
    shelf.rounds = 3
    shelf.forms.clear()
    ended = aistack("ingest", str(tmp_path), "--prefix", "", "--json")
    assert shelf.forms == []
    assert (ended.json["summary"]["ready"], ended.json["summary"]["sent"]) == (2, 0)


def test_names_are_asked_for_in_questions_that_fit_into_a_url(
    edge: Edge, aistack: Cli, tmp_path: Path
) -> None:
    long = tmp_path / ("d" * 200) / ("\u00e9" * 100)
    long.mkdir(parents=True)
    for number in range(120):
        (tmp_path / f"{number}.txt").write_text("x")
        (long / f"{number}.txt").write_text("x")
    edge.answer = Shelf(rounds=1000)
    assert aistack("ingest", str(tmp_path), "--prefix", "", "--no-wait").code == 0
    asked = [request.url for request in edge.requests if request.method == "GET"]
    names = [name for url in asked for name in url.params.get_list("source")]
    assert len(names) == len(set(names)) == 240
    assert max(len(url.raw_path) for url in asked) < 6000
    assert max(len(url.params.get_list("source")) for url in asked) == 50


def test_bars_show_rate_and_failures(
    edge: Edge, aistack: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(name)
    edge.answer = Shelf(rounds=3, fails={"one.txt": "Bad."}, refuses={"two.txt": 422})
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    ended = aistack("ingest", str(tmp_path), "--prefix", "")
    shown = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", ended.err)
    assert re.search(r"uploading .*2/2 \d+\.\d/s .*1 failed", shown)
    assert re.search(r"indexing .*2/2 .*2 failed", shown)


def test_waiting_goes_on_while_a_document_makes_progress(
    edge: Edge, aistack: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "long.txt").write_text("long")
    edge.answer = shelf = Shelf(rounds=40)
    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr("aistack.cli.ingest_watch.time.monotonic", lambda: next(clock))

    def embedding(request: httpx.Request) -> httpx.Response:
        for document in shelf.documents.values():
            document["progress"] += 0.01
        return shelf(request)

    # Forty rounds of 10 s each are more than the 60 s, but none is without progress.
    edge.answer = embedding
    ended = aistack("ingest", str(tmp_path), "--prefix", "", "--timeout", "60")
    assert ended.code == 0, ended.out
