"""Filters as conditions of Qdrant: the same meaning, or none."""

from __future__ import annotations

from typing import Any

import pytest

from aistack.aidb.filters import parse
from aistack.aidb.qdrant_filters import translate
from aistack.aidb.qdrant_layout import number_fields, terms, value_term
from aistack.clients.qdrant import AnyOf, Between, Where

COLLECTION = AnyOf("collection_id", (7,))
ID = "8b5e0a44-0f3a-4d6c-9a53-3f1f2f8d7a11"


def translated(raw: dict[str, Any]) -> Where | None:
    return translate(parse(raw), 7)


@pytest.mark.parametrize(
    ("raw", "must", "must_not"),
    [
        ({}, (), ()),
        ({"year": {"eq": 2020}}, (AnyOf("terms", ('"year"=2020',)),), ()),
        ({"year": {"eq": "2020"}}, (AnyOf("terms", ('"year"="2020"',)),), ()),
        ({"open": {"eq": True}}, (AnyOf("terms", ('"open"=true',)),), ()),
        ({"tags": {"in": ["b", "a"]}}, (AnyOf("terms", ('"tags"="a"', '"tags"="b"')),), ()),
        ({"year": {"exists": True}}, (AnyOf("terms", ('"year"',)),), ()),
        ({"year": {"exists": False}}, (), (AnyOf("terms", ('"year"',)),)),
        ({"year": {"gte": 2020}}, (Between("metadata.year", gte=2020.0),), ()),
        (
            {"year": {"gt": 1.5, "lt": 9}},
            (Between("metadata.year", gt=1.5), Between("metadata.year", lt=9.0)),
            (),
        ),
        ({"source": {"eq": "a.md"}}, (AnyOf("source", ("a.md",)),), ()),
        ({"document_id": {"in": [ID]}}, (AnyOf("document_id", (ID,)),), ()),
        ({"source": {"exists": True}}, (), ()),
        ({"metadata.source": {"eq": "x"}}, (AnyOf("terms", ('"source"="x"',)),), ()),
    ],
)
def test_what_means_the_same_is_translated(raw: Any, must: Any, must_not: Any) -> None:
    assert translated(raw) == Where((COLLECTION, *must), must_not)


@pytest.mark.parametrize(
    "raw",
    [
        {"name": {"gt": "m"}},
        {"source": {"lt": "m"}},
        {"title": {"eq": "T"}},
        {"source": {"exists": False}},
        {"year": {"gt": 2**53}},
        {"year": {"lte": -float(2**60)}},
        {"a.b": {"gt": 1}},
        {"a key": {"lt": 1}},
        # One part that must be left to PostgreSQL leaves it the whole.
        {"year": {"eq": 1}, "name": {"gt": "m"}},
    ],
)
def test_what_does_not_is_left_to_postgresql(raw: Any) -> None:
    assert translated(raw) is None


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1, 1.0, True),
        (0, -0.0, True),
        (10**20, 1e20, True),
        (2**53 + 1, float(2**53), False),
        (0.1, 0.10000000000000001, True),
        (1, "1", False),
        (1, True, False),
        (0, False, False),
        ("true", True, False),
        ("a", "A", False),
    ],
)
def test_tokens_are_equal_where_jsonb_says_so(one: Any, other: Any, equal: bool) -> None:
    assert (value_term("k", one) == value_term("k", other)) is equal


def test_a_key_can_never_look_like_another_with_a_value() -> None:
    assert not set(terms({'a"="b': True})) & set(terms({"a": "b"}))
    assert set(terms({"a": []})) == {'"a"'}


def test_terms_are_of_keys_values_and_elements() -> None:
    metadata = {"year": 2020, "tags": ["x", "y"], "long": "z" * 3000}
    assert terms(metadata) == [
        '"year"',
        '"year"=2020',
        '"tags"',
        '"tags"="x"',
        '"tags"="y"',
        '"long"',
    ]


def test_indexes_for_ranges_are_for_numbers_with_plain_keys() -> None:
    metadata = {"a": 1, "b": 1.5, "c": True, "d": "1", "e.f": 2, "g h": 3, "i-j_k": 4}
    assert number_fields(metadata) == {"a", "b", "i-j_k"}
