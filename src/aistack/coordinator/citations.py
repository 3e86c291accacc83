"""Which span of which passage supports a sentence: decided here, never taken on the model's word.

A window of a passage supports a sentence when it covers enough of the sentence's content, weighed
by inverse document frequency, and when no rule of `contradiction` objects. Precision comes first:
in doubt a sentence has no citation. Thresholds were tuned on the `tune` half of
tests/data/attribution.jsonl and are gated on the other half.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aistack.coordinator.contradiction import contradiction, present
from aistack.coordinator.evidence import Evidence, Passage, Window
from aistack.coordinator.tokens import Token, tokenize

COVERAGE = 0.70
"""Share of a sentence's weighted content that a window must have."""
CONTEXT_CREDIT = 0.6
"""What a word counts for that is in the headings or the sentences before, not in the window."""
UNIT_PENALTY = 0.03
"""For each further sentence in the window: the tighter quote wins."""
CANDIDATES = 12
SENTENCE_CHARACTERS = 2_000
"""A longer "sentence" is not compared: no window can carry it, and comparing costs its square."""


@dataclass(frozen=True, slots=True)
class Support:
    """A span of a passage's text that carries a sentence."""

    passage: int
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What attribution found for one sentence."""

    support: Support | None
    closest: Support | None
    """The best window whether it supports or not: what to show when nothing does."""
    reason: str
    """Why there is no support; empty when there is."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    window: Window
    coverage: float

    @property
    def rank(self) -> float:
        return self.coverage - UNIT_PENALTY * (self.window.units - 1)

    def support(self) -> Support:
        w = self.window
        return Support(w.passage, w.start, w.end, round(self.coverage, 4))


_FILLER = re.compile(
    r"^(?:sure|of course|certainly|yes|no|okay|hello|hi|thanks?|thank you|i hope|let me|"
    r"here (?:is|are)|i'?m sorry|i am sorry|feel free|in (?:summary|conclusion)[,.]?$|"
    r"i (?:can|will|do not|don't)\b)",
    re.IGNORECASE,
)


def factual(text: str) -> bool:
    """Whether a sentence claims something that a document could support."""
    stripped = text.strip()
    if stripped.endswith("?") or _FILLER.match(stripped):
        return False
    # Of a very long one the beginning tells.
    return sum(t.content for t in tokenize(stripped[:SENTENCE_CHARACTERS])) >= 2


def attribute(text: str, evidence: Evidence, *, coverage: float = COVERAGE) -> Verdict:
    """The support for one sentence of prose among the passages."""
    if len(text) > SENTENCE_CHARACTERS:
        return Verdict(None, None, "longer than what a passage can carry")
    tokens = tokenize(text)
    content = [t for t in tokens if t.content]
    if not content or not evidence.windows:
        return Verdict(None, None, "nothing to compare")
    candidates = _candidates(content, evidence)
    if not candidates:
        return Verdict(None, None, "no word in common")
    closest = candidates[0].support()
    objection, objected = "", 0.0
    for candidate in candidates:
        if candidate.rank + 1e-9 < coverage:
            break
        reason = contradiction(tokens, candidate.window) or _uncovered(content, candidate.window)
        if reason is None:
            # A window that covers as much and contradicts is what the sentence is about.
            if objected >= candidate.coverage:
                break
            return Verdict(candidate.support(), closest, "")
        if candidate.coverage > objected:
            objection, objected = reason, candidate.coverage
    return Verdict(None, closest, objection or f"covered {candidates[0].coverage:.2f} at most")


def attribute_code(text: str, evidence: Evidence) -> Verdict:
    """Code is supported when a passage has its lines, in order and letter by letter."""
    wanted = [line.strip() for line in text.strip("`~\n").splitlines()[1:] if line.strip()]
    wanted = [line.removeprefix("$ ") for line in wanted if not line.startswith("#")]
    if not wanted:
        return Verdict(None, None, "no line of code")
    for index, passage in enumerate(evidence.passages):
        found = list(re.finditer(r"[^\n]+", passage.text))
        lines = [m.group().strip().removeprefix("$ ") for m in found]
        for first in range(len(lines) - len(wanted) + 1):
            if lines[first : first + len(wanted)] == wanted:
                start, end = found[first].start(), found[first + len(wanted) - 1].end()
                return Verdict(Support(index, start, end, 1.0), None, "")
    return Verdict(None, None, "the code is not in a passage")


def _candidates(content: Sequence[Token], evidence: Evidence) -> list[_Candidate]:
    weights = [evidence.weight(t) for t in content]
    total = sum(weights)
    scored = [
        _Candidate(
            window,
            sum(w * _credit(t, window) for t, w in zip(content, weights, strict=True)) / total,
        )
        for window in evidence.windows
    ]
    scored = [c for c in scored if c.coverage > 0]
    scored.sort(key=lambda c: (-c.rank, c.window.passage, c.window.start))
    return scored[:CANDIDATES]


def _credit(token: Token, window: Window) -> float:
    if present(token, window):
        return 1.0
    if not token.anchor and token.norm in window.context:
        return CONTEXT_CREDIT
    return 0.0


def _uncovered(content: Sequence[Token], window: Window) -> str | None:
    """Every word that says something must be there; only the first may be the writer's own.

    ("Run `x` to …", "Changing it …".) One word more is enough to turn a passage round: "very
    inefficient", "unique and temporary".
    """
    for index, token in enumerate(content):
        if index and _credit(token, window) == 0:
            return f"the passage does not have {token.text!r}"
    return None


__all__ = ["Evidence", "Passage", "Support", "Verdict", "attribute", "attribute_code", "factual"]
