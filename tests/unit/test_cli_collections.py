"""`aistack collections show` and `set`: what is sent, and what is refused before."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from aistack.aidb.collection_settings import CollectionSettings
from aistack.config import AidbConfig
from fix_cli import Edge, Ended

Cli = Callable[..., Ended]
SETTINGS = CollectionSettings.of(AidbConfig(), {"fusion": "dbsf"}).as_dict()


@pytest.fixture
def answering(edge: Edge) -> Edge:
    edge.answer = lambda _: httpx.Response(200, json={"name": "notes", "settings": SETTINGS})
    return edge


def test_only_what_is_said_is_sent(answering: Edge, aistack: Cli) -> None:
    ended = aistack(
        "collections", "set", "notes", "--fusion", "dbsf", "--rrf-k", "20", "--reset", "bm25-b"
    )
    assert ended.code == 0, ended.err
    request = answering.requests[0]
    assert (request.method, request.url.path) == ("PATCH", "/v1/collections/notes")
    assert answering.bodies() == [{"settings": {"fusion": "dbsf", "rrf_k": 20.0, "bm25_b": None}}]
    assert "dbsf" in ended.out
    aistack("collections", "set", "notes", "--description", "")
    assert answering.bodies()[1] == {"description": ""}


def test_reset_all_takes_back_every_setting_but_those_given(answering: Edge, aistack: Cli) -> None:
    aistack("collections", "set", "notes", "--reset", "all", "--collapse", "near")
    assert answering.bodies() == [{"settings": {**dict.fromkeys(SETTINGS), "collapse": "near"}}]


@pytest.mark.parametrize(
    "words", [[], ["--reset", "nonsense"], ["--fusion", "sum"], ["--rrf-k", "many"]]
)
def test_what_makes_no_sense_is_not_sent(answering: Edge, aistack: Cli, words: list[str]) -> None:
    assert aistack("collections", "set", "notes", *words).code == 2
    assert answering.requests == []


def test_show_gives_the_collection_with_its_settings(answering: Edge, aistack: Cli) -> None:
    assert json.loads(aistack("--json", "collections", "show", "notes").out)["settings"] == SETTINGS
    shown = aistack("collections", "show", "notes").out
    assert all(name in shown for name in SETTINGS)
