"""What to search for, and whether what was found is about the question at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aistack.coordinator.evidence import Passage
from aistack.coordinator.tokens import tokenize

LEXICAL_EVIDENCE = 0.6
"""Share of the question's words that lets a cosine a little under the floor pass."""
LEXICAL_MARGIN = 0.12
QUERY_CHARACTERS = 2000
"""The end of a question that is searched with and compared: the cost of a longer one is bounded."""

_REFERS_BACK = re.compile(
    r"^(?:and|but|so|then|what about|how about|why)\b|"
    r"\b(?:it|its|that|this|those|these|they|them|there|one|ones|the same|instead)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The passages of one search, best first."""

    passages: tuple[Passage, ...]
    best_cosine: float | None
    """Of any hit; None when no hit came from the dense leg."""
    took_ms: float
    degraded: tuple[str, ...] = ()
    """Legs of the search that could not be asked."""


def search_query(turns: Sequence[str]) -> str:
    """The text to search with, from the user's messages (oldest first).

    A short message that refers back ("and how do I undo it?") is searched together with the one
    before it.
    """
    last = end_of(turns[-1])
    words = [t for t in tokenize(last) if t.content]
    if len(turns) > 1 and (len(words) < 2 or (len(words) < 8 and _REFERS_BACK.search(last))):
        last = f"{end_of(turns[-2])}\n{last}"
    return last[-QUERY_CHARACTERS:]


def end_of(text: str) -> str:
    """The end of a text that is long enough to know what it asks."""
    return text.strip()[-QUERY_CHARACTERS:]


def lexical_share(question: str, passages: Sequence[Passage]) -> float:
    """Share (0..1) of the question's content words that the best single passage has."""
    wanted = {t.norm for t in tokenize(end_of(question)) if t.content}
    if not wanted:
        return 0.0
    return max(
        (
            len(wanted & {t.norm for t in tokenize(f"{p.title}\n{p.text}")}) / len(wanted)
            for p in passages
        ),
        default=0.0,
    )


def relevant(question: str, retrieved: Retrieved, floor: float) -> bool:
    """Whether the documents say something about the question.

    The best cosine decides; just under the floor, or where there is none because the search had to
    go without vectors, most of the question's words in one passage decide for it. Measured in
    docs/decisions/0004-relevance-floor.md.
    """
    if not retrieved.passages:
        return False
    cosine = retrieved.best_cosine
    if cosine is not None and cosine >= floor:
        return True
    if cosine is not None and cosine < floor - LEXICAL_MARGIN:
        return False
    return lexical_share(question, retrieved.passages) >= LEXICAL_EVIDENCE
