"""The one table of services."""

from __future__ import annotations

import importlib

import pytest

from aistack.stack import load_stack, under


def test_every_entry_has_its_package() -> None:
    for entry in load_stack().services.values():
        assert callable(importlib.import_module(entry.module).create), entry.name


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/v1/embeddings", "embeddings"),
        ("/v1/rerank", "embeddings"),
        ("/v1/models", "coordinator"),
        ("/v1/models/local", "coordinator"),
        ("/v1/chat/completions", "coordinator"),
        ("/v1/search", "aidb"),
        ("/v1/documents/abc/text", "aidb"),
        ("/docs/aidb/openapi.json", "aidb"),
        ("/v1/embeddingsx", None),
        ("/docs", None),
        ("/", None),
        ("/metrics", None),
        ("/readyz", None),
    ],
)
def test_front_door_routes(path: str, service: str | None) -> None:
    entry = load_stack().route(path)
    assert (entry.name if entry else None) == service


def test_no_two_services_claim_one_prefix() -> None:
    prefixes = [prefix for entry in load_stack().services.values() for prefix in entry.routes]
    assert len(prefixes) == len(set(prefixes))


def test_segments_are_not_cut() -> None:
    assert under("/a/b", "/a")
    assert under("/a", "/a")
    assert not under("/ab", "/a")


def test_internal_keys_are_least_privilege() -> None:
    stack = load_stack()
    assert {"embed", "rerank"} <= stack.internal_scopes("aidb")
    assert "search" in stack.internal_scopes("coordinator")
    assert "documents.write" not in stack.internal_scopes("coordinator")
    assert stack.internal_scopes("embeddings") == frozenset()
