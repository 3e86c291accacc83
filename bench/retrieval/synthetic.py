"""A large collection that needs no model: words by Zipf's law, vectors in clusters.

Vectors: 1,000 centres; each vector is its centre plus a step in a common subspace of 32 dimensions,
about as many as texts' embeddings have locally; unit length. Words: pseudo-words that the analyzer
leaves as they are, 130 a chunk, rank r drawn with weight r^-1.05 of 60,000.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from aistack.aidb.analysis import analyze

DIMENSION = 384
CENTRES = 1_000
SUBSPACE = 32
#: Length of the step from a centre, in units of the centre's.
STEP = 0.8
VOCABULARY, EXPONENT = 60_000, 1.05
WORDS_OF_CHUNK = 130
CHUNKS_OF_DOCUMENT = 20
#: Documents carry `slice`, 0 to 99: a filter on one keeps 1 %.
SLICES = 100
QUERY_WORDS = 6


@dataclass(frozen=True, slots=True)
class Document:
    """`terms` and `counts` by chunk, as a chunk stores them; `vectors` (chunks, 384) float32."""

    number: int
    texts: list[str]
    terms: list[list[str]]
    counts: list[list[int]]
    vectors: NDArray[np.float32]


class Maker:
    """The same collection for the same seed and number of chunks."""

    def __init__(self, *seed: int) -> None:
        self._random = np.random.default_rng(seed)
        fixed = np.random.default_rng(0)
        self._centres = _unit(fixed.standard_normal((CENTRES, DIMENSION)))
        self._subspace = fixed.standard_normal((SUBSPACE, DIMENSION)) / np.sqrt(
            SUBSPACE * DIMENSION
        )
        self._words = words()
        weights = 1 / np.arange(1, len(self._words) + 1) ** EXPONENT
        self._ladder = np.cumsum(weights / weights.sum())

    def documents(self, chunks: int) -> Iterator[Document]:
        """Together so many chunks."""
        for number in range(chunks // CHUNKS_OF_DOCUMENT):
            drawn = [self._draw(WORDS_OF_CHUNK) for _ in range(CHUNKS_OF_DOCUMENT)]
            counted = [np.unique(one, return_counts=True) for one in drawn]
            pairs = [
                sorted((self._words[term], int(count)) for term, count in zip(*one, strict=True))
                for one in counted
            ]
            yield Document(
                number,
                [" ".join(self._words[word] for word in one) for one in drawn],
                [[term for term, _ in one] for one in pairs],
                [[count for _, count in one] for one in pairs],
                self.vectors(CHUNKS_OF_DOCUMENT),
            )

    def queries(self, count: int) -> list[str]:
        """Different ones, of distinct words drawn as those of a chunk are."""
        found: dict[str, None] = {}
        while len(found) < count:
            terms = np.unique(self._draw(WORDS_OF_CHUNK))
            chosen = self._random.choice(terms, QUERY_WORDS, replace=False)
            found[" ".join(self._words[word] for word in chosen)] = None
        return list(found)

    def vectors(self, count: int) -> NDArray[np.float32]:
        """(count, 384) float32, unit length; each about a centre of its own."""
        centres = self._centres[self._random.integers(0, CENTRES, count)]
        steps = self._random.standard_normal((count, SUBSPACE)) @ self._subspace
        return _unit(centres + STEP * steps)

    def _draw(self, count: int) -> NDArray[np.int64]:
        places = np.searchsorted(self._ladder, self._random.random(count))
        return np.minimum(places, len(self._words) - 1)


def anew(seed: int) -> Maker:
    """One whose queries no service has seen before: their vectors are in no cache."""
    return Maker(seed, time.time_ns())


@cache
def words() -> list[str]:
    """Pseudo-words, each of which is one term that is the word itself."""
    syllables = [a + b for a in "bcdfgklmnprtvz" for b in "aeiou"]
    base = len(syllables)
    found = []
    for number in range(base**3):
        word = (
            syllables[number % base]
            + syllables[number // base % base]
            + syllables[number // base**2]
            + "k"
        )
        if analyze(word) == [word]:
            found.append(word)
            if len(found) == VOCABULARY:
                return found
    raise AssertionError("the analyzer changes too many of them")


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32)
