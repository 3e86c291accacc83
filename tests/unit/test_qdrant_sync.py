"""What is removed from Qdrant when documents have changed."""

from __future__ import annotations

from aistack.aidb.qdrant_sync import leftovers
from aistack.clients.qdrant import AnyOf, Where


def test_points_of_other_versions_and_of_gone_documents_are_removed() -> None:
    assert leftovers(["a", "b", "c", "d"], {"a": 1, "c": 2, "d": 1}) == [
        Where(must=(AnyOf("document_id", ("b",)),)),
        Where(must=(AnyOf("document_id", ("a", "d")),), must_not=(AnyOf("version", (1,)),)),
        Where(must=(AnyOf("document_id", ("c",)),), must_not=(AnyOf("version", (2,)),)),
    ]


def test_without_documents_nothing_is_removed() -> None:
    assert leftovers([], {}) == []
