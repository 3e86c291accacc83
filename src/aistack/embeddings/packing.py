"""A batch for the graph of `onnx_graph`: the tokens of all texts in one row, without padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aistack.embeddings.encoder import Ids, Tokens, types_of

#: What a place of padding costs of a token: only attention has any (see `cut.Cost`).
PADDING = 0.25


#: A longest text from here on is made longer too, where a `multiple` is asked for: of short texts
#: that would be too large a share.
LONG = 48


def pack(batch: Sequence[Tokens], *, multiple: int = 1, types: bool = False) -> dict[str, Ids]:
    """The graph's inputs, int32, for n texts of t tokens in all, the longest with s.

    `input_ids` and `position_ids` (t,); `attention_mask` (n, s), 1 where a text has a token; `rows`
    (n, s) says where in t that token is, and `places` (t,) where in n x s each one is. With `types`
    also `token_type_ids` (t,). t, by tokens that belong to no text, and s are made up to a
    `multiple`, for engines that prepare anew for each shape.
    """
    lengths = np.array([len(tokens) for tokens in batch], dtype=np.int32)
    longest = int(lengths.max())
    if longest >= LONG:
        longest += -longest % multiple
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
