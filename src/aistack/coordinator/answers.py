"""From the model's words to an answer with citations, piece by piece while it is written."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from aistack.coordinator.citations import (
    SENTENCE_CHARACTERS,
    Evidence,
    Support,
    attribute,
    attribute_code,
    factual,
)
from aistack.coordinator.sentences import Sentence, SentenceSplitter
from aistack.coordinator.tokens import tokenize

NOT_TRACED = "The model's answer could not be traced to your documents. The closest passage:"
NOT_IN_DOCUMENTS = (
    "I could not find an answer to this in your documents, so I am not giving one."
    " Try other words, or add a document that covers it."
)


@dataclass(frozen=True, slots=True)
class Citation:
    """A numbered span of a document; `quote` is `document[char_start:char_end]`."""

    number: int
    passage: int
    quote: str
    char_start: int
    char_end: int
    score: float


@dataclass(frozen=True, slots=True)
class CitedSentence:
    """`content[start:end]` of the answer, and the numbers of what supports it."""

    text: str
    start: int
    end: int
    citations: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer; the sentences' offsets count its text with the markers in it."""

    text: str
    sentences: tuple[CitedSentence, ...]
    citations: tuple[Citation, ...]
    grounded: float | None
    """Share of the sentences that claim something and are supported; None: none claims anything."""
    not_in_documents: bool = False


def not_in_documents() -> Answer:
    """The answer when nothing relevant was retrieved: no model was asked."""
    return Answer(NOT_IN_DOCUMENTS, (), (), None, not_in_documents=True)


REPEATED_SHARE = 0.85
"""Of two sentences' content words: from here on the one repeats the other."""
REPEATS = 2
"""So many sentences that repeat one before them, and the answer is at its end."""
SAID_SENTENCES = 50
_OWN_MARKER = re.compile(
    r"[ \t]{0,8}(?:\[\^?\d{1,3}(?:\s*[,–-]\s*\^?\d{1,3})*\]|【[^】\n]{1,40}】)"
)
_MAYBE_MARKER = re.compile(r"[ \t]{0,8}(?:\[[\^\d\s,–-]{0,16}|【[^】\n]{0,40})?\Z")


class MarkerFilter:
    """Takes citation markers out of the model's words: it may write "[3]", we never believe it.

    What stands in backticks is code and stays.
    """

    def __init__(self) -> None:
        self._held = ""
        self._ticks = 0

    def feed(self, more: str) -> str:
        """What can be passed on; the beginning of a possible marker is held back."""
        text = self._held + more
        held = _MAYBE_MARKER.search(text)
        cut = held.start() if held else len(text)
        self._held = text[cut:]
        return self._strip(text[:cut])

    def finish(self) -> str:
        """What was held back and turned out to be text."""
        rest, self._held = self._held, ""
        return self._strip(rest)

    def _strip(self, text: str) -> str:
        parts = []
        for piece in re.split(r"(`+)", text):
            if piece.startswith("`"):
                self._ticks += len(piece)
                parts.append(piece)
            else:
                parts.append(piece if self._ticks % 2 else _OWN_MARKER.sub("", piece))
        return "".join(parts)


class QuoteFilter:
    """Takes the mark of a quoted line off what the model repeats of its prompt ("> ").

    One mark: what the document itself quotes keeps its own.
    """

    def __init__(self) -> None:
        self._line_start = True
        self._marked = False

    def feed(self, more: str) -> str:
        """What is left of `more`; nothing is held back."""
        kept = []
        for character in more:
            if self._line_start and character == ">":
                self._line_start, self._marked = False, True
            elif self._marked and character == " ":
                self._marked = False
            else:
                self._line_start, self._marked = character == "\n", False
                kept.append(character)
        return "".join(kept)


class AnswerWriter:
    """Feed the model's deltas, pass on what comes back, then `finish`.

    A sentence's marker " [n]" comes right behind it, before the next sentence.
    """

    def __init__(self, evidence: Evidence, question: str) -> None:
        self._evidence = evidence
        self._question = question
        self._quotes = QuoteFilter()
        self._filter = MarkerFilter()
        self._splitter = SentenceSplitter()
        self._released = 0  # of the splitter's text
        self._pieces: list[str] = []
        self._length = 0
        self._sentences: list[CitedSentence] = []
        self._citations: list[Citation] = []
        self._claims = 0
        self._supported = 0
        self._said: deque[frozenset[str]] = deque(maxlen=SAID_SENTENCES)
        self._repeats = 0

    @property
    def looping(self) -> bool:
        """Whether the model only says again what it has said: nothing new will come."""
        return self._repeats >= REPEATS

    def feed(self, delta: str) -> str:
        """The text to show now; may be empty, and is once the answer is `looping`."""
        if self.looping:
            return ""
        done = self._splitter.feed(self._filter.feed(self._quotes.feed(delta)))
        return self._release(done)

    def finish(self) -> tuple[str, Answer]:
        """The text that was still held back, and the whole answer."""
        tail = ""
        if not self.looping:
            done = self._splitter.feed(self._filter.finish())
            tail = self._release([*done, *self._splitter.finish()])
        if not self._supported:
            tail += self._closest()
        grounded = round(self._supported / self._claims, 4) if self._claims else None
        return tail, Answer(
            "".join(self._pieces), tuple(self._sentences), tuple(self._citations), grounded
        )

    def _release(self, done: Sequence[Sentence]) -> str:
        text = self._splitter.text
        begun = len(self._pieces)
        for sentence in done:
            start = self._length + sentence.start - self._released
            self._emit(text[self._released : sentence.end])
            self._released = sentence.end
            body = text[sentence.start : sentence.end]
            numbers = self._attribute(sentence, body)
            self._sentences.append(CitedSentence(body, start, start + len(body), numbers))
            # Behind a closing fence or a table's last bar a marker would break the Markdown.
            if sentence.kind == "sentence" and not body.startswith("|"):
                self._emit("".join(f" [{n}]" for n in numbers))
                self._repeats += self._repeated(body)
            if self.looping:
                return "".join(self._pieces[begun:])
        if self._splitter.safe > self._released:
            self._emit(text[self._released : self._splitter.safe])
            self._released = self._splitter.safe
        return "".join(self._pieces[begun:])

    def _repeated(self, body: str) -> bool:
        """Whether a sentence before says nearly the same."""
        words = frozenset(t.norm for t in tokenize(body[:SENTENCE_CHARACTERS]) if t.content)
        again = any(
            len(words & said) >= REPEATED_SHARE * len(words | said) for said in self._said if words
        )
        self._said.append(words)
        return again

    def _emit(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self._length += len(text)

    def _attribute(self, sentence: Sentence, body: str) -> tuple[int, ...]:
        if sentence.kind == "code":
            self._claims += 1
            verdict = attribute_code(body, self._evidence)
        elif sentence.kind == "sentence" and factual(body):
            self._claims += 1
            verdict = attribute(body, self._evidence)
        else:
            return ()
        if verdict.support is None:
            return ()
        self._supported += 1
        return (self._number(verdict.support),)

    def _number(self, support: Support) -> int:
        passage = self._evidence.passages[support.passage]
        start, end = passage.char_start + support.start, passage.char_start + support.end
        for known in self._citations:
            of = self._evidence.passages[known.passage]
            if (
                of.document_id == passage.document_id
                and known.char_start <= start
                and end <= known.char_end
            ):
                return known.number
        citation = Citation(
            number=len(self._citations) + 1,
            passage=support.passage,
            quote=passage.text[support.start : support.end],
            char_start=start,
            char_end=end,
            score=support.score,
        )
        self._citations.append(citation)
        return citation.number

    def _closest(self) -> str:
        closest = attribute(self._question, self._evidence).closest
        if closest is None:
            return ""
        number = self._number(closest)
        quote = " ".join(self._citations[number - 1].quote.split())
        separator = "\n\n" if self._length else ""
        line = f"{separator}{NOT_TRACED} “{quote}” [{number}]"
        self._emit(line)
        return line
