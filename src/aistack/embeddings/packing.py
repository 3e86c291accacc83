"""A batch for the graph of `onnx_graph`: the tokens of all texts in one row, without padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aistack.embeddings.cut import Cost
from aistack.embeddings.encoder import Ids, Tokens, types_of

#: What a place of padding costs of a token: only attention has any (see `cut.Cost`).
PADDING = 0.25
#: With ONNX Runtime a pass over one short text costs 2 ms more than its tokens do at .155 ms each
#: (AMD EPYC with AVX-512, one thread): 13 tokens.
ONNX_RUNTIME = Cost(13, PADDING)
#: From so many tokens on a text is long: a text more, or one that is a little longer, is much work.
LONG = 48


def pack(batch: Sequence[Tokens], *, multiple: int = 1, types: bool = False) -> dict[str, Ids]:
    """The graph's inputs, int32, for n texts of t tokens in all, the longest with s.

    `input_ids` and `position_ids` (t,); `attention_mask` (n, s), 1 where a text has a token; `rows`
    (n, s) says where in t that token is, and `places` (t,) where in n x s each one is. With `types`
    also `token_type_ids` (t,).

    `multiple` is for engines that prepare for each shape and keep what they made: t becomes a
    multiple of it by tokens that belong to no text, s likewise where texts are long; where they
    are short, s and n become multiples of 4. The first rows of the answer are those of the batch.
    """
    sizes = [len(tokens) for tokens in batch]
    longest, count = max(sizes), len(sizes)
    if longest >= LONG:
        longest += -longest % multiple
    elif multiple > 1:
        longest, count = _by_four(longest), _by_four(count)
    lengths = np.zeros(count, dtype=np.int32)
    lengths[: len(sizes)] = sizes
    mask = np.arange(longest, dtype=np.int32) < lengths[:, None]
    places = np.flatnonzero(mask).astype(np.int32)
    rows = np.zeros(mask.size, dtype=np.int32)
    rows[places] = np.arange(len(places), dtype=np.int32)
    more = np.zeros(-len(places) % multiple, dtype=np.int32)
    packed = {
        "input_ids": np.concatenate([*(tokens.ids for tokens in batch), more]),
        "position_ids": np.concatenate([places % longest, more]),
        "attention_mask": mask.astype(np.int32),
        "rows": rows.reshape(mask.shape),
        "places": np.concatenate([places, more]),
    }
    if types:
        packed["token_type_ids"] = np.concatenate([*map(types_of, batch), more])
    return packed


def _by_four(size: int) -> int:
    """`size` made up to a multiple of 4, but for the smallest."""
    return size if size < 4 else size + -size % 4
