"""How points are cut into requests to Qdrant."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from aistack.clients.qdrant import Point, requests


def point(number: int, payload: object = None) -> Point:
    return Point(number, [0.5, -0.123456789012345], {"metadata": payload})


def test_what_fits_is_one_request_and_nothing_is_none() -> None:
    points = [point(n) for n in range(256)]
    assert list(requests(points)) == [points]
    assert list(requests([])) == []


def test_a_point_larger_than_a_request_goes_alone() -> None:
    points = [point(1), point(2, "x" * 500), point(3)]
    assert [[one.id for one in some] for some in requests(points, 300)] == [[1], [2], [3]]


@given(st.lists(st.text(max_size=60), max_size=30), st.integers(150, 600))
def test_no_request_is_larger_than_it_may_be(texts: list[str], most: int) -> None:
    points = [point(n, text) for n, text in enumerate(texts)]
    cut = list(requests(points, most))
    assert [one for some in cut for one in some] == points
    for some in cut:
        sent = sum(
            len(json.dumps(part, ensure_ascii=False).encode())
            for one in some
            for part in (one.vector, one.payload)
        )
        assert len(some) == 1 or sent <= most
