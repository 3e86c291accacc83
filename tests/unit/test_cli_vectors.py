"""`aistack vectors`: what is asked, what is waited for, what is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from fix_cli import Edge, Ended

Cli = Callable[..., Ended]


def index(**members: Any) -> dict[str, Any]:
    said = {
        "embedding_set": 1, "model": "m", "state": "ready", "done": 9, "total": 9, "points": 9,
        "drift": 0, "open_changes": 0, "wanted": None, "breaker": "closed", "error": None,
        "started_at": "a", "built_at": "b", "reconciled_at": "c",
    }  # fmt: skip
    hnsw = {"state": "ready", "progress": 1.0}
    return {"engine": "qdrant", "hnsw": hnsw, "index": {**said, **members}}


def answers(edge: Edge, *said: dict[str, Any]) -> None:
    """One after the other, then the last again and again."""
    left = list(said)
    edge.answer = lambda _: httpx.Response(200, json=left.pop(0) if len(left) > 1 else left[0])


def asked(edge: Edge) -> list[str]:
    return [f"{request.method} {request.url.path}" for request in edge.requests]


def test_status_shows_where_the_index_stands(edge: Edge, aistack: Cli) -> None:
    answers(edge, index(state="building", done=3, error="qdrant is not available right now."))
    ended = aistack("vectors", "status")
    assert ended.code == 0
    for word in ("qdrant", "building", "3", "qdrant is not available right now."):
        assert word in ended.out
    assert json.loads(aistack("--json", "vectors", "status").out)["index"]["done"] == 3


def test_status_of_pgvector_has_no_index(edge: Edge, aistack: Cli) -> None:
    hnsw = {"state": "none", "progress": None}
    answers(edge, {"engine": "pgvector", "hnsw": hnsw, "index": None})
    ended = aistack("vectors", "status")
    assert "pgvector" in ended.out
    assert "none, search is exact" in ended.out


def test_status_shows_how_far_the_index_in_postgresql_is(edge: Edge, aistack: Cli) -> None:
    hnsw = {"state": "building", "progress": 0.4}
    answers(edge, {"engine": "pgvector", "hnsw": hnsw, "index": None})
    assert "building, 40%" in aistack("vectors", "status").out


def test_reconcile_waits_until_the_comparison_is_newer(edge: Edge, aistack: Cli) -> None:
    answers(
        edge,
        index(),
        index(wanted="reconcile"),
        index(wanted=None),
        index(reconciled_at="d", drift=4),
    )
    ended = aistack("--json", "vectors", "reconcile")
    assert ended.code == 0
    assert json.loads(ended.out)["index"]["drift"] == 4
    looks = ["GET /v1/vectors"]
    assert asked(edge) == [*looks, "POST /v1/vectors/reconcile", *looks, *looks]
    assert len(edge.waits) == 2


def test_rebuild_tells_how_far_it_is_and_why_it_does_not_get_on(edge: Edge, aistack: Cli) -> None:
    answers(
        edge,
        index(),
        index(wanted="rebuild"),
        index(state="building", built_at=None, done=4),
        index(state="building", built_at=None, done=4, error="qdrant is not available."),
        index(built_at="e"),
    )
    ended = aistack("vectors", "rebuild")
    assert ended.code == 0
    assert "4 of 9 chunks" in ended.err
    assert "qdrant is not available." in ended.err


def test_without_waiting_it_only_asks(edge: Edge, aistack: Cli) -> None:
    answers(edge, index(), index(wanted="rebuild"))
    assert aistack("vectors", "rebuild", "--no-wait").code == 0
    assert asked(edge) == ["GET /v1/vectors", "POST /v1/vectors/rebuild"]
    assert edge.waits == []


def test_where_the_engine_is_pgvector_the_words_of_the_server_are_shown(
    edge: Edge, aistack: Cli
) -> None:
    said = "vectors.engine is pgvector, which needs no index outside PostgreSQL."
    problem = {"status": 409, "title": "Conflict", "detail": said}
    edge.answer = lambda request: (
        httpx.Response(409, json=problem)
        if request.method == "POST"
        else httpx.Response(200, json={"engine": "pgvector", "index": None})
    )
    ended = aistack("vectors", "reconcile")
    assert ended.code == 1
    assert said.rstrip(".") in ended.err
