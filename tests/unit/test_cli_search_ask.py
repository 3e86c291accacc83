"""`aistack search` and `aistack ask`: what is sent, what is shown, and how a broken answer ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from aistack.cli.errors import Usage
from aistack.cli.search import highlighted, parse_filters, snippet
from fix_cli import Edge, Ended

Cli = Callable[..., Ended]

HIT: dict[str, Any] = {
    "rank": 1,
    "score": 0.0325,
    "chunk_id": "c",
    "document_id": "d",
    "source": "guide/lakes.md",
    "title": "Lakes",
    "text": "An alpine tarn\nis a small lake.\x1b[31m",
    "heading_path": ["Lakes", "Small ones"],
    "char_start": 0,
    "char_end": 30,
    "page_start": None,
    "page_end": None,
    "line_start": 3,
    "line_end": 4,
    "metadata": {},
    "legs": {"dense": {"rank": 1, "score": 0.71}, "lexical": None},
}
ANSWER = {
    "query": "tarn",
    "mode": "hybrid",
    "collection": "default",
    "epoch": 1,
    "total": 12,
    "cached": True,
    "took_ms": 3.4,
    "hits": [HIT],
    "next_offset": 1,
}


def test_what_was_left_out_is_said(edge: Edge, aistack: Cli) -> None:
    answer = {**ANSWER, "degraded": ["dense"], "hits": [{**HIT, "duplicates": 2}]}
    edge.answer = lambda _: httpx.Response(200, json=answer)
    ended = aistack("search", "tarn")
    assert "lexical –  +2 duplicates\n" in ended.out
    assert "cached; without dense, which could not be asked; more" in ended.err


def test_a_hit_in_plain_text(edge: Edge, aistack: Cli) -> None:
    edge.answer = lambda _: httpx.Response(200, json=ANSWER)
    ended = aistack("search", "tarn", "-n", "1", "--filter", "year>=2020", "--mode", "dense")
    assert ended.code == 0
    assert ended.out == (
        "  1. Lakes  guide/lakes.md  lines 3–4\n"
        "     Lakes › Small ones\n"
        "     An alpine tarn is a small lake.[31m\n"
        "     score 0.0325  dense #1 0.710  lexical –\n"
    )
    assert ended.err == "1 hit of 12, 3 ms, cached; more with --offset 1\n"
    assert edge.bodies() == [
        {
            "query": "tarn",
            "collection": "default",
            "mode": "dense",
            "limit": 1,
            "offset": 0,
            "filters": {"year": {"gte": 2020}},
        }
    ]


def test_reranking_is_asked_for_and_shown(edge: Edge, aistack: Cli) -> None:
    legs = {**HIT["legs"], "rerank": {"rank": 1, "score": 0.93}}
    edge.answer = lambda _: httpx.Response(200, json={**ANSWER, "hits": [{**HIT, "legs": legs}]})
    assert "lexical –  rerank #1 0.930\n" in aistack("search", "tarn", "--rerank").out
    aistack("search", "tarn", "--no-rerank")
    aistack("search", "tarn")
    assert [body.get("rerank") for body in edge.bodies()] == [True, False, None]


def test_json_is_the_answer_itself(edge: Edge, aistack: Cli) -> None:
    edge.answer = lambda _: httpx.Response(200, json=ANSWER)
    assert aistack("search", "tarn", "--json").json == ANSWER


def test_nothing_found_is_said_and_is_no_failure(edge: Edge, aistack: Cli) -> None:
    edge.answer = lambda _: httpx.Response(200, json={**ANSWER, "hits": [], "total": 0})
    ended = aistack("search", "tarn")
    assert (ended.code, ended.out) == (0, "nothing found in collection default\n")


def test_filters() -> None:
    assert parse_filters(["team=docs", "team=web", "team=ops", "year>2019", "year<=2026"]) == {
        "team": {"in": ["docs", "web", "ops"]},
        "year": {"gt": 2019, "lte": 2026},
    }
    assert parse_filters(["draft=false", "name=a=b"]) == {
        "draft": {"eq": False},
        "name": {"eq": "a=b"},
    }
    with pytest.raises(Usage, match="not FIELD=VALUE"):
        parse_filters(["team"])


def test_a_snippet_is_where_the_words_are() -> None:
    text = "filler words here " * 60 + "the alpine tarn froze over " + "more filler " * 60
    cut = snippet(text, "alpine tarn")
    assert "alpine tarn froze" in cut
    assert cut.startswith("… ")
    assert cut.endswith(" …")
    assert len(cut) < 340


def test_words_of_the_query_are_marked_with_their_longer_forms() -> None:
    marked = highlighted("Configured services configure a service.", "configure services")
    assert [marked.plain[s.start : s.end] for s in marked.spans] == [
        "Configured",
        "services",
        "configure",
        "service",
    ]


EXTENSION = {
    "origin": "local",
    "collection": "default",
    "grounded": 0.5,
    "not_in_documents": False,
    "citations": [
        {
            "number": 1,
            "document_id": "d",
            "chunk_id": "c",
            "source": "guide/lakes.md",
            "title": "Lakes",
            "quote": "An alpine tarn\nis a small lake.",
            "char_start": 0,
            "char_end": 30,
            "page_start": None,
            "line_start": 3,
            "score": 0.9,
        }
    ],
    "sentences": [],
    "retrieval": {"hits": 5, "took_ms": 3.0},
}


def chunk(text: str | None = None, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    body = {"model": "aistack", "choices": [{"index": 0, "delta": delta}], **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def streaming(*pieces: bytes | Exception) -> Callable[[httpx.Request], httpx.Response]:
    """An answer that is streamed in `pieces`; an exception among them breaks the connection."""

    class Pieces(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for piece in pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece

    return lambda _: httpx.Response(
        200, headers={"content-type": "text/event-stream"}, stream=Pieces()
    )


LAST = chunk(None, aistack=EXTENSION, usage={"total_tokens": 9})
DONE = b"data: [DONE]\n\n"


def test_an_answer_with_its_citations(edge: Edge, aistack: Cli) -> None:
    edge.answer = streaming(b": hello\n\n", chunk("A small"), chunk(" lake. [1]"), LAST, DONE)
    ended = aistack("ask", "what is a tarn?", "-c", "books", "--top-k", "3")
    assert ended.code == 0
    assert ended.out == (
        "A small lake. [1]\n\n[1] guide/lakes.md, line 3\n    “An alpine tarn is a small lake.”\n"
    )
    assert ended.err == "50% of the sentences are supported by the documents\n"
    body = edge.bodies()[0]
    assert body["messages"] == [{"role": "user", "content": "what is a tarn?"}]
    assert body["stream"] is True
    assert body["aistack"] == {"collection": "books", "top_k": 3}


def test_the_bare_model_is_sent_no_extension(edge: Edge, aistack: Cli) -> None:
    edge.answer = streaming(chunk("Hi."), DONE)
    assert aistack("ask", "hello", "--model", "local").out == "Hi.\n"
    assert "aistack" not in edge.bodies()[0]


def test_json_is_lines_of_events(edge: Edge, aistack: Cli) -> None:
    edge.answer = streaming(chunk("A "), chunk("lake."), LAST, DONE)
    events = [json.loads(line) for line in aistack("ask", "x", "--json").out.splitlines()]
    assert [event["event"] for event in events] == ["delta", "delta", "answer"]
    assert events[-1]["text"] == "A lake."
    assert events[-1]["aistack"] == EXTENSION
    assert events[-1]["usage"] == {"total_tokens": 9}


def test_no_stream_is_one_document(edge: Edge, aistack: Cli) -> None:
    whole = {"choices": [{"message": {"content": "A lake. [1]"}}], "aistack": EXTENSION}
    edge.answer = lambda _: httpx.Response(200, json=whole)
    assert aistack("ask", "x", "--json", "--no-stream").json == whole
    assert "[1] guide/lakes.md, line 3" in aistack("ask", "x", "--no-stream").out


def test_what_is_not_in_the_documents_is_said(edge: Edge, aistack: Cli) -> None:
    nothing = {**EXTENSION, "not_in_documents": True, "citations": [], "grounded": None}
    edge.answer = streaming(chunk("I do not know."), chunk(None, aistack=nothing), DONE)
    ended = aistack("ask", "x")
    assert ended.code == 0
    assert ended.out.endswith("\nNot in the documents of collection default.\n")


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (b'data: {"error": {"message": "Gone.", "error_id": "err_9"}}\n\n', "Gone. [err_9]"),
        (b"", "the stream ended early"),
        (b"data: [DO", "the stream ended early"),
        (httpx.RemoteProtocolError("cut"), "the connection was lost"),
        (httpx.ReadError("reset"), "the connection was lost"),
    ],
)
def test_a_broken_answer_is_an_error_never_a_short_answer(
    edge: Edge, aistack: Cli, end: bytes | Exception, words: str
) -> None:
    edge.answer = streaming(chunk("A small"), end)
    for json_option in ([], ["--json"]):
        ended = aistack("ask", "x", *json_option)
        assert ended.code == 1
        assert words in ended.err
        assert '"answer"' not in ended.out
        assert len(edge.requests) == 1  # an answer that has begun is not asked for again
        edge.requests.clear()


def test_a_question_from_stdin_and_an_empty_one(
    edge: Edge, aistack: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    edge.answer = streaming(chunk("Yes."), DONE)
    monkeypatch.setattr("sys.stdin", io.StringIO("is it?\n"))
    assert aistack("ask", "-").code == 0
    assert edge.bodies()[0]["messages"][0]["content"] == "is it?"
    assert aistack("ask", "  ").code == 2
