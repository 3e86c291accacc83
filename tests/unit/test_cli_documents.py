"""`aistack documents retry`: by id, or all that failed."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx

from fix_cli import Edge, Ended

Cli = Callable[..., Ended]
ID = "00000000-0000-0000-0000-00000000000a"


def test_documents_are_tried_again_one_by_one(edge: Edge, aistack: Cli) -> None:
    edge.answer = lambda _: httpx.Response(202, json={"id": ID, "state": "pending"})
    ended = aistack("documents", "retry", ID, ID.upper(), "--json")
    assert (ended.code, ended.json) == (0, {"retried": 2})
    assert [(r.method, r.url.path) for r in edge.requests] == [
        ("POST", f"/v1/documents/{ID}/retry")
    ] * 2


def test_all_that_failed_are_tried_again(edge: Edge, aistack: Cli) -> None:
    edge.answer = lambda _: httpx.Response(202, json={"retried": 3})
    ended = aistack("documents", "retry", "--failed")
    assert (ended.code, ended.out) == (0, "3 documents queued again\n")
    aistack("documents", "retry", "--failed", "-c", "notes")
    assert [request.url.path for request in edge.requests] == ["/v1/documents/retry"] * 2
    assert edge.bodies() == [{}, {"collection": "notes"}]
    assert json.loads(aistack("documents", "retry", "--failed", "--json").out) == {"retried": 3}


def test_what_is_not_failed_is_told_in_the_servers_words(edge: Edge, aistack: Cli) -> None:
    edge.answer = lambda _: httpx.Response(409, json={"detail": "The document is ready."})
    ended = aistack("documents", "retry", ID)
    assert ended.code == 1
    assert "The document is ready." in ended.err


def test_one_of_the_two_must_be_said(edge: Edge, aistack: Cli) -> None:
    for words in ([], [ID, "--failed"], [ID, "-c", "notes"]):
        assert aistack("documents", "retry", *words).code == 2
    assert aistack("documents", "retry", "not-an-id").code == 1
    assert edge.requests == []
