"""The raw encoder: the same engine, called directly in this process, tokenizing included."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from aistack.config import EmbeddingsConfig
from aistack.embeddings.cut import cut
from aistack.embeddings.encoder import Encoder, Tokens
from aistack.embeddings.engines import open_encoder
from bench.embeddings.machine import ENCODER_CORE, pinned
from bench.embeddings.texts import batches

SIZES = (8, 16, 32, 64)
#: Share of the texts that the best size is looked for with.
SAMPLE = 1 / 4


class Raw:
    """One encoder, on the encoder's core: an engine's own threads stay where they were made."""

    def __init__(self, state: Path) -> None:
        """Opens the default engine; what it makes is kept in `state`."""
        self.config = EmbeddingsConfig(state_dir=state)
        with pinned(ENCODER_CORE):
            _, self.encoder = open_encoder(self.config)

    def padded(self, given: Sequence[str], size: int) -> None:
        """In batches of `size`, each one padded pass."""
        for batch in batches(given, size):
            self.encoder.encode(self.encoder.tokenize(batch))

    def cut(self, given: Sequence[str], size: int) -> None:
        """In batches of `size`, each in the passes that the scheduler would make of it."""
        for batch in batches(given, size):
            for part in passes(self.encoder, batch, self.config.batch_tokens):
                self.encoder.encode(part)

    def best_size(self, given: Sequence[str]) -> tuple[int, bool]:
        """The batch size that is fastest, and whether cut; the median of three turns each."""
        given = given[: max(2 * max(SIZES), int(SAMPLE * len(given)))]
        found: dict[tuple[int, bool], float] = {}
        with pinned(ENCODER_CORE):
            for size in SIZES:
                for cut_ in (False, True):
                    taken = []
                    for _ in range(3):
                        began = time.perf_counter()
                        self.run(given, size, cut_=cut_)
                        taken.append(time.perf_counter() - began)
                    found[size, cut_] = statistics.median(taken)
        return min(found, key=lambda way: found[way])

    def run(self, given: Sequence[str], size: int, *, cut_: bool) -> None:
        """One of the two ways."""
        (self.cut if cut_ else self.padded)(given, size)


def passes(encoder: Encoder, batch: Sequence[str], budget: int) -> list[list[Tokens]]:
    """`batch` in passes, as the scheduler would cut it."""
    queue = sorted(encoder.tokenize(batch), key=len)
    made = []
    while queue:
        _, high = cut([len(tokens) for tokens in queue], 0, budget, encoder.cost)
        made.append(queue[:high])
        del queue[:high]
    return made
