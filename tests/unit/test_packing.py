"""Tokens of all texts in one row, and back to each text's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aistack.embeddings.encoder import Tokens
from aistack.embeddings.packing import LONG, pack


def texts(*lengths: int) -> list[Tokens]:
    """Texts whose ids tell which text they are of, and where in it they stand."""
    return [
        Tokens(np.arange(1000 * place, 1000 * place + length, dtype=np.int32))
        for place, length in enumerate(lengths, start=1)
    ]


def test_two_texts_stand_in_one_row() -> None:
    packed = {name: values.tolist() for name, values in pack(texts(2, 3)).items()}
    assert packed == {
        "input_ids": [1000, 1001, 2000, 2001, 2002],
        "position_ids": [0, 1, 0, 1, 2],
        "attention_mask": [[1, 1, 0], [1, 1, 1]],
        "rows": [[0, 1, 0], [2, 3, 4]],
        "places": [0, 1, 3, 4, 5],
    }


def test_types_of_a_pair_go_along_and_are_0_elsewhere() -> None:
    pair = Tokens(np.array([1, 2], np.int32), types=np.array([0, 1], np.int32))
    packed = pack([*texts(1), pair], multiple=4, types=True)
    assert packed["token_type_ids"].tolist() == [0, 0, 1, 0]


@given(
    lengths=st.lists(st.integers(1, 2 * LONG), min_size=1, max_size=12),
    multiple=st.sampled_from([1, 8, 16]),
)
def test_every_text_is_found_again(lengths: list[int], multiple: int) -> None:
    batch = texts(*lengths)
    packed = pack(batch, multiple=multiple)
    assert all(values.dtype == np.int32 for values in packed.values())
    (t,) = packed["input_ids"].shape
    n, s = packed["rows"].shape
    assert (n, s) == packed["attention_mask"].shape
    assert t % multiple == 0
    assert sum(lengths) <= t < sum(lengths) + multiple
    assert max(lengths) <= s < max(lengths) + max(multiple, 4)
    assert len(lengths) <= n < len(lengths) + 4
    if multiple == 1:
        assert (n, s) == (len(lengths), max(lengths))
    assert not packed["attention_mask"][len(lengths) :].any()
    padded = packed["input_ids"][packed["rows"]]
    for place, tokens in enumerate(batch):
        mask = packed["attention_mask"][place].astype(bool)
        assert padded[place][mask].tolist() == tokens.ids.tolist()
        rows = packed["rows"][place][mask]
        assert packed["position_ids"][rows].tolist() == list(range(len(tokens)))
    real = np.arange(sum(lengths))
    assert packed["rows"].ravel()[packed["places"][real]].tolist() == real.tolist()


@pytest.mark.parametrize(
    ("lengths", "shape"),
    [
        ([3], (1, 3)),
        ([9], (1, 12)),
        ([9] * 5, (8, 12)),
        ([LONG - 1] * 5, (8, LONG)),
        ([LONG + 1] * 5, (5, LONG + 8)),
    ],
)
def test_few_shapes_are_left(lengths: list[int], shape: tuple[int, int]) -> None:
    assert pack(texts(*lengths), multiple=8)["rows"].shape == shape
