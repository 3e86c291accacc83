"""`aistack ingest`: what a file is called, what it replaces, and which links are followed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from aistack.cli.files import Candidate, Skipped, find
from fix_cli import Edge, Ended, on_empty_shelves

Cli = Callable[..., Ended]


def sources(*roots: Path, prefix: str | None = None, follow_links: bool = False) -> list[str]:
    found = find(roots, include=[], max_bytes=None, prefix=prefix, follow_links=follow_links)
    return [item.source for item in found if isinstance(item, Candidate)]


def reasons(root: Path) -> dict[str, str]:
    found = find([root], include=[], max_bytes=None)
    return {item.path.name: item.reason for item in found if isinstance(item, Skipped)}


@pytest.fixture
def two(tmp_path: Path) -> Path:
    for name in ("p1", "p2"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "README.md").write_text(name)
    (tmp_path / "p1" / "deep" / "a.txt").write_text("a")
    return tmp_path


def test_two_directories_do_not_take_the_same_names(two: Path) -> None:
    assert sources(two / "p1", two / "p2") == ["p1/README.md", "p1/deep/a.txt", "p2/README.md"]
    assert sources(two / "p1/README.md", two / "p2/README.md") == ["p1/README.md", "p2/README.md"]


def test_a_name_is_the_same_from_everywhere(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["p1/README.md", "p1/deep/a.txt"]
    monkeypatch.chdir(two)
    assert sources(Path("p1")) == sources(Path("p2/../p1")) == wanted
    monkeypatch.chdir(two / "p1")
    assert sources(Path()) == wanted
    assert sources(Path("README.md")) == wanted[:1]
    monkeypatch.chdir(two / "p1" / "deep")
    assert sources(Path("..")) == wanted


def test_a_prefix_stands_in_place_of_the_directory(two: Path) -> None:
    assert sources(two / "p1", prefix="manual/") == ["manual/README.md", "manual/deep/a.txt"]
    assert sources(two / "p1" / "README.md", prefix="") == ["README.md"]


def test_what_is_replaced_is_counted_and_said(edge: Edge, aistack: Cli, two: Path) -> None:
    def stored(request: httpx.Request) -> httpx.Response:
        changed = b"README" in request.content
        version = {"version": 2 if changed else 1}
        document = {"id": "1", "state": "ready", "chunk_count": 1, "error": None, **version}
        return httpx.Response(202, json=document)

    edge.answer = on_empty_shelves(stored)
    ended = aistack("ingest", str(two / "p1"), "--json")
    assert ended.json["summary"]["replaced"] == 1
    assert {d["source"]: d["replaced"] for d in ended.json["documents"]} == {
        "p1/README.md": True,
        "p1/deep/a.txt": False,
    }
    assert "replaced  1" in aistack("ingest", str(two / "p1")).out
    edge.answer = on_empty_shelves(lambda request: httpx.Response(200, json=stored(request).json()))
    assert "replaced" not in aistack("ingest", str(two / "p1")).out


def test_a_collection_that_is_made_on_the_way_is_said_to_be_new(
    edge: Edge, aistack: Cli, two: Path
) -> None:
    ready = {"id": "1", "state": "ready", "chunk_count": 1, "error": None, "version": 1}
    for status, words in ((201, "collection nix (new)\n"), (200, "collection nix\n")):
        answers = {"/v1/collections": httpx.Response(status, json={"name": "nix"})}
        edge.answer = on_empty_shelves(
            lambda request, known=answers: known.get(  # type: ignore[misc]
                request.url.path, httpx.Response(202, json=ready)
            )
        )
        assert aistack("ingest", str(two / "p2"), "-c", "nix").out.startswith(words)
        made = aistack("ingest", str(two / "p2"), "-c", "nix", "--json").json
        assert made["collection_created"] is (status == 201)


def test_links_that_lead_out_are_not_followed_unasked(two: Path) -> None:
    (two / "secret.txt").write_text("secret")
    (two / "p1" / "out.txt").symlink_to(two / "secret.txt")
    (two / "p1" / "within.txt").symlink_to(two / "p1" / "deep" / "a.txt")
    (two / "p1" / "other").symlink_to(two / "p2")
    (two / "p1" / "circle").symlink_to(two / "p1")
    inside = ["p1/README.md", "p1/within.txt", "p1/deep/a.txt"]
    assert sources(two / "p1") == inside
    assert reasons(two / "p1") == {
        "out.txt": f"link leads out of {two / 'p1'} (--follow-links takes it)",
        "other": "a link to a directory (--follow-links takes it)",
        "circle": "a link to a directory (--follow-links takes it)",
    }
    assert set(sources(two / "p1", follow_links=True)) == {
        *inside,
        "p1/out.txt",
        "p1/other/README.md",
    }


def test_a_directory_that_is_a_link_itself_may_be_named(two: Path) -> None:
    (two / "newest").symlink_to(two / "p1")
    assert sources(two / "newest") == ["newest/README.md", "newest/deep/a.txt"]


def test_an_empty_file_is_skipped_named_or_not_and_said_once(
    edge: Edge, aistack: Cli, two: Path
) -> None:
    ready = {"id": "1", "state": "ready", "chunk_count": 1, "error": None, "version": 1}
    edge.answer = on_empty_shelves(lambda _: httpx.Response(202, json=ready))
    empty, good = two / "p2" / "empty.md", two / "p2" / "README.md"
    empty.touch()
    for words, code in ((["p2"], 0), (["p2/empty.md", "p2/README.md"], 1)):
        ended = aistack("ingest", *(str(two / word) for word in words))
        assert (ended.code, ended.err) == (code, f"skipped {empty}: empty\n")
        assert "failed" not in ended.out
        assert "skipped  1" in ended.out
    assert good.exists()


def test_a_missing_path_is_an_error_and_nothing_else(edge: Edge, aistack: Cli, two: Path) -> None:
    ready = {"id": "1", "state": "ready", "chunk_count": 1, "error": None, "version": 1}
    edge.answer = on_empty_shelves(lambda _: httpx.Response(202, json=ready))
    ended = aistack("ingest", str(two / "nosuch.txt"), str(two / "p2"))
    assert ended.code == 1
    assert f"failed {two / 'nosuch.txt'}: no such file or directory\n" in ended.out
    assert "skipped" not in ended.out + ended.err


def test_an_interrupt_says_what_becomes_of_the_rest(
    aistack: Cli, edge: Edge, tmp_path: Path
) -> None:
    (tmp_path / "a.md").write_text("# A")

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            raise KeyboardInterrupt
        return httpx.Response(200, json={"data": [], "next_cursor": None})

    edge.answer = answer
    ended = aistack("ingest", str(tmp_path / "a.md"))
    assert ended.code == 130
    assert "the same command sends the rest" in ended.err
