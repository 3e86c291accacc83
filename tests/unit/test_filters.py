"""Filters of a search: what is accepted, and what each refusal says."""

from __future__ import annotations

from typing import Any

import pytest

from aistack.aidb.filters import MAX_CONDITIONS, MAX_VALUES, parse
from aistack.aidb.search_model import SearchRequest
from aistack.service.errors import Unprocessable


def test_nothing_is_no_filter() -> None:
    assert not parse(None)
    assert not parse({})
    assert parse({}).where()[1] == {}


def test_equal_filters_are_equal_whatever_their_order() -> None:
    one = parse({"year": {"gte": 1, "lt": 5}, "tag": {"in": ["b", "a", "b"]}})
    other = parse({"tag": {"in": ["a", "b"]}, "year": {"lt": 5, "gte": 1}})
    assert one == other
    assert one != parse({"tag": {"in": ["a"]}, "year": {"lt": 5, "gte": 1}})


def test_types_are_told_apart() -> None:
    assert parse({"a": {"in": [1, True, "1"]}}).conditions[0].value == (True, 1, "1")
    assert parse({"a": {"eq": 1}}) != parse({"a": {"eq": "1"}})


def test_a_metadata_key_may_have_the_name_of_a_field() -> None:
    field, key = parse({"source": {"eq": "x"}}), parse({"metadata.source": {"eq": "x"}})
    assert (field.conditions[0].metadata, key.conditions[0].metadata) == (False, True)
    assert key.conditions[0].field == "source"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"": {"eq": 1}}, "1 to 128"),
        ({"a\0": {"eq": 1}}, "NUL"),
        ({"x" * 129: {"eq": 1}}, "1 to 128"),
        ({"a\ud800": {"eq": 1}}, "not valid Unicode"),
        ({"metadata.\udfff": {"exists": True}}, "not valid Unicode"),
        ({"a": {"eq": "\ud800"}}, "not valid Unicode"),
        ({"a": {"in": ["x", "\udc00"]}}, "not valid Unicode"),
        ({"a": {"gt": "\ud800"}}, "not valid Unicode"),
        ({"source": {"eq": "\ud800"}}, "not valid Unicode"),
        ({"a": {"eq": 2**63}}, "64 bits"),
        ({"a": {"in": [1, -(2**63) - 1]}}, "64 bits"),
        ({"a": {"lt": -(10**400)}}, "64 bits"),
        ({"a": {}}, "give an object"),
        ({"a": 5}, "give an object"),
        ({"a": {"like": "x"}}, "unknown operator"),
        ({"a": {"eq": None}}, "a string, number or boolean"),
        ({"a": {"eq": [1]}}, "a string, number or boolean"),
        ({"a": {"eq": "x\0"}}, "NUL"),
        ({"a": {"eq": "x" * 3000}}, "at most"),
        ({"a": {"eq": float("nan")}}, "finite"),
        ({"a": {"eq": 2**80}}, "64 bits"),
        ({"a": {"in": []}}, "a list of 1"),
        ({"a": {"in": "x"}}, "a list of 1"),
        ({"a": {"in": list(range(MAX_VALUES + 1))}}, "a list of 1"),
        ({"a": {"gt": True}}, "have an order"),
        ({"a": {"exists": "yes"}}, "true or false"),
        ({"document_id": {"eq": "nonsense"}}, "not a document id"),
        ({"document_id": {"gt": "0"}}, "not a document id"),
        ({"source": {"eq": 5}}, "is a string"),
        ({f"k{n}": {"eq": n} for n in range(MAX_CONDITIONS + 1)}, "at most"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_field(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(Unprocessable, match=words) as caught:
        parse(raw)
    assert caught.value.detail.startswith("filters")
    # The sentence goes into the answer.
    caught.value.detail.encode()


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
def test_numbers_of_64_bits_are_taken(number: int) -> None:
    request = SearchRequest("x", "default", filters=parse({"a": {"eq": number}}))
    assert str(number).encode() in request.canonical()
