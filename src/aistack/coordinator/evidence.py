"""Retrieved passages, cut into the windows of text that may support a sentence."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from aistack.coordinator.lexicon import ANAPHORS, CONTRAST_CONJUNCTIONS
from aistack.coordinator.sentences import Sentence, split
from aistack.coordinator.tokens import Kind, Token, tokenize

WINDOW_UNITS = 3  # sentences; a claim is rarely spread over more
WINDOW_CHARACTERS = 900


@dataclass(frozen=True, slots=True)
class Passage:
    """A retrieved chunk. `text` is exactly `document[char_start:char_end]`."""

    document_id: str
    chunk_id: str
    source: str
    title: str
    text: str
    char_start: int
    char_end: int
    heading_path: tuple[str, ...] = ()
    page_start: int | None = None
    line_start: int | None = None
    score: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether character spans of the text can be given in the document's coordinates."""
        return len(self.text) == self.char_end - self.char_start


@dataclass(frozen=True, slots=True)
class Window:
    """One to three neighbouring sentences of a passage, with what is compared."""

    passage: int
    start: int
    end: int
    units: int
    lower: str
    tokens: tuple[Token, ...]
    """Content tokens in order."""
    segments: tuple[int, ...]
    """Of each token: sentences, cut further where "while" or "but" sets two things apart."""
    anaphoric: frozenset[int]
    """Segments that speak of what was named before them: "It is enabled…"."""
    position: tuple[int, ...]
    """Of each token, counted in tokens; a sentence's end counts as a gap of SENTENCE_GAP."""
    places: dict[str, tuple[int, ...]]
    """norm -> indexes into `tokens`."""
    words: frozenset[str]
    """Every word in lower case, stop words too."""
    context: frozenset[str]
    """Norms of the headings and of the two sentences before."""
    than: dict[int, int]
    """clause -> index of the last token before its "than"."""
    contrasts: bool
    """Whether a sentence of it sets two things apart."""
    clause_of: tuple[int, ...]
    """Of each token: clauses, counted over the window."""


SENTENCE_GAP = 12


@dataclass(slots=True)
class _Unit:
    sentence: Sentence
    tokens: list[Token]
    norms: set[str] = field(default_factory=set)


def parts(token: Token) -> list[str]:
    """The words inside an identifier: nix-collect-garbage -> nix, collect, garbag."""
    if token.kind is not Kind.IDENTIFIER or token.text.startswith("-"):
        return []  # what a flag is called says nothing of what happens without it
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", token.text).lower()
    return [
        t.norm for w in re.findall(r"[a-z]+", words) for t in tokenize(w) if t.norm != token.norm
    ]


class Evidence:
    """All windows of the passages, and how much a word says among them.

    Args:
        passages: in the order of their rank.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = tuple(passages)
        self.windows: list[Window] = []
        self._frequency: Counter[str] = Counter()
        self._units = 0
        for index, passage in enumerate(self.passages):
            self._add(index, passage)

    def weight(self, token: Token) -> float:
        """Inverse document frequency over the passages' sentences; exact things weigh more."""
        frequency = self._frequency.get(token.norm, 0)
        idf = 0.5 + math.log1p((self._units - frequency + 0.5) / (frequency + 0.5))
        # Of a handful of sentences idf says little: keep it from deciding alone.
        return (1.0 + min(idf, 3.0)) * (1.5 if token.anchor else 1.0)

    def _add(self, index: int, passage: Passage) -> None:
        units = [unit for s in split(passage.text) if (unit := _unit(passage.text, s)) is not None]
        topic = {t.norm for line in (passage.title, *passage.heading_path) for t in tokenize(line)}
        topic |= {t.norm for u in units if u.sentence.kind == "heading" for t in u.tokens}
        prose = [u for u in units if u.sentence.kind in ("sentence", "code")]
        for unit in prose:
            self._frequency.update(unit.norms)
        self._units += len(prose)
        for first in range(len(prose)):
            for count in range(1, WINDOW_UNITS + 1):
                chosen = prose[first : first + count]
                span = chosen[-1].sentence.end - chosen[0].sentence.start
                if len(chosen) < count or (count > 1 and span > WINDOW_CHARACTERS):
                    break
                before = set().union(*(u.norms for u in prose[max(0, first - 2) : first]))
                self.windows.append(_window(index, passage.text, chosen, frozenset(topic | before)))


def _unit(text: str, sentence: Sentence) -> _Unit | None:
    if sentence.kind == "markup":
        return None
    body = text[sentence.start : sentence.end]
    tokens = [
        t
        for t in tokenize(body, code_block=sentence.kind == "code")
        if t.text not in ("nix", "ShellSession", "shell-session") or sentence.kind != "code"
    ]
    content = {t.norm for t in tokens if t.content}
    for token in tokens:
        content.update(parts(token))
    return _Unit(sentence, tokens, content) if content else None


def _segments(text: str, units: Sequence[_Unit]) -> tuple[list[list[int]], frozenset[int]]:
    """The segment of every token of every unit, and which segments refer back."""
    found: list[list[int]] = []
    anaphoric: set[int] = set()
    segment = -1
    leads_to_code = after_code = False
    for unit in units:
        goes_on = (
            leads_to_code if unit.sentence.kind == "code" else _goes_on(text, unit, after_code)
        )
        if not goes_on or segment < 0:
            segment += 1
        after_code = unit.sentence.kind == "code"
        leads_to_code = text[: unit.sentence.end].endswith(":")
        words = [re.split("['’]", t.text.lower())[0] for t in unit.tokens]
        if set(words[:3]) & ANAPHORS:
            anaphoric.add(segment)
        # "While X does this, Y does that": the comma is where the sides part.
        comma_parts = bool(set(words[:2]) & CONTRAST_CONJUNCTIONS)
        own: list[int] = []
        previous_end = 0
        for index, token in enumerate(unit.tokens):
            start = unit.sentence.start
            if comma_parts and "," in text[start + previous_end : start + token.start]:
                segment, comma_parts = segment + 1, False
            elif index > 1 and words[index] in CONTRAST_CONJUNCTIONS - {"where"}:
                # "not only X, but also Y" sets nothing apart.
                segment += words[index + 1 : index + 2] != ["also"]
            own.append(segment)
            previous_end = token.end
        found.append(own)
    return found, frozenset(anaphoric)


def _goes_on(text: str, unit: _Unit, after_code: bool) -> bool:
    """Whether prose goes on from a code block, or explains the term before it (": It is …")."""
    start = unit.sentence.start
    return (after_code and text[start].islower()) or text[:start].rstrip(" ").endswith("\n:")


def _window(index: int, text: str, units: Sequence[_Unit], context: frozenset[str]) -> Window:
    tokens: list[Token] = []
    position: list[int] = []
    places: dict[str, list[int]] = {}
    words: set[str] = set()
    at = 0
    segments: list[int] = []
    clauses: list[int] = []
    than: dict[int, int] = {}
    first_clause = 0
    segment_of, anaphoric = _segments(text, units)
    for unit, own in zip(units, segment_of, strict=True):
        before = ""
        for token, segment in zip(unit.tokens, own, strict=True):
            lower = token.text.lower()
            if (before, lower) != ("not", "only"):
                words.add(lower)
            before = lower
            at += 1
            if lower == "than":
                than[first_clause + token.clause] = len(tokens) - 1
            if not token.content:
                continue
            for norm in {token.norm, *parts(token)}:
                places.setdefault(norm, []).append(len(tokens))
            tokens.append(token)
            segments.append(segment)
            clauses.append(first_clause + token.clause)
            position.append(at)
        at += SENTENCE_GAP
        first_clause += unit.tokens[-1].clause + 1
    start, end = units[0].sentence.start, units[-1].sentence.end
    return Window(
        passage=index,
        start=start,
        end=end,
        units=len(units),
        lower=text[start:end].lower(),
        tokens=tuple(tokens),
        segments=tuple(segments),
        anaphoric=anaphoric,
        position=tuple(position),
        places={norm: tuple(found) for norm, found in places.items()},
        words=frozenset(words),
        context=context,
        than=than,
        contrasts=any(len(set(own)) > 1 for own in segment_of),
        clause_of=tuple(clauses),
    )
