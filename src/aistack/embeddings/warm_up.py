"""Forward passes before READY=1, at the shapes that will be asked for.

An engine prepares memory, and some compile, for each shape when they first meet it; the first
requests shall not pay for that.
"""

from __future__ import annotations

import numpy as np

from aistack.embeddings.encoder import Encoder, EncoderError, Tokens
from aistack.models import UNIT_TOLERANCE

#: Read by the model again and again until a text of the wanted length is full.
WARM_UP = "The encoder has read this sentence before it says that it is ready."
#: Tokens of a text: from a question to a long paragraph. The longest that the model reads is added.
LENGTHS = (16, 64, 128, 256)


def shapes(batch_tokens: int, max_tokens: int) -> list[tuple[int, int]]:
    """`(texts, tokens each)` of the passes: one short text alone, then each length in full."""
    lengths = sorted({min(length, max_tokens) for length in (*LENGTHS, max_tokens)})
    return [(1, lengths[0]), *((max(1, batch_tokens // length), length) for length in lengths)]


def warm_up(encoder: Encoder, batch_tokens: int) -> None:
    """Run a pass of each shape in this thread. Raises EncoderError, also for unusable vectors."""
    (read,) = encoder.tokenize([WARM_UP])
    for texts, length in shapes(batch_tokens, encoder.max_tokens):
        vectors = encoder.encode([Tokens(np.resize(read.ids, length))] * texts)
        squares = np.einsum("nd,nd->n", vectors, vectors)
        # Written so that a NaN, which compares false, is refused as well.
        if len(vectors) != texts or not bool(np.all(np.abs(squares - 1.0) <= UNIT_TOLERANCE)):
            raise EncoderError(
                f"a pass over {texts} texts of {length} tokens gave no vectors of unit length"
            )
