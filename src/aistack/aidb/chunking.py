"""Documents to chunks: structure first, measured by the embedding model's own tokenizer.

A heading or a definition begins a chunk; code blocks and tables stay whole where they fit; what
does not fit is cut at the best boundary near the limit (blank line, sentence, line, word, token;
line before sentence in code and tables); tiny neighbours under the same heading are joined. Every
chunk's `text` is exactly `document.text[char_start:char_end]`.

Each block is tokenised once for its offsets, and each finished chunk once for its exact count:
linear in the length of the document.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from aistack.aidb.chunking_cuts import MAX_CHARS_PER_TOKEN, Cutter, Span, middle, trim
from aistack.aidb.parsing.document import Block, ParsedDocument

__all__ = ["MAX_CHARS_PER_TOKEN", "Chunk", "Chunker"]

#: A chunk below this part of the limit is joined with its neighbour where that fits.
TINY: Final = 0.25
#: The same for what a definition says of its own: a function of five lines is worth its chunk.
TINY_DEFINITION: Final = 0.1
#: The part of the limit that the heading path may take.
HEADING_SHARE: Final = 0.25
#: Blocks of a chunk that tiny ones are joined to, these included: each join looks at all of them.
MAX_JOINED: Final = 64


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage. Spans are of the document's text; pages and lines count from 1, inclusive.

    `token_count` is of `embed_text`, special tokens included.
    """

    ordinal: int
    text: str
    embed_text: str
    heading_path: tuple[str, ...]
    char_start: int
    char_end: int
    page_start: int | None
    page_end: int | None
    line_start: int | None
    line_end: int | None
    token_count: int


@dataclass(frozen=True, slots=True)
class _Draft:
    spans: tuple[Span, ...]
    path: tuple[str, ...]

    @property
    def start(self) -> int:
        return self.spans[0].start

    @property
    def end(self) -> int:
        return self.spans[-1].end

    @property
    def tokens(self) -> int:
        return sum(span.tokens for span in self.spans)

    @property
    def labels(self) -> int:
        """How many definitions it holds that have a name."""
        return sum(s.block.kind == "definition" and bool(s.block.label) for s in self.spans)

    @property
    def has_definitions(self) -> bool:
        return any(span.block.kind == "definition" for span in self.spans)


class _Lines:
    """Numbers of lines, for positions that mostly grow: each line is counted about once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._block: Block | None = None
        self._position = 0
        self._line = 0

    def of(self, block: Block, position: int) -> int | None:
        """The line of `position`, which lies in `block`; None where the block has no line."""
        if block.line is None:
            return None
        if block is not self._block or position < self._position:
            self._block, self._position, self._line = block, block.start, block.line
        self._line += self._text.count("\n", self._position, position)
        self._position = position
        return self._line


class Chunker:
    """Cuts documents for one embedding model. Stateless between calls; may be used by many threads.

    `max_tokens` bounds what is embedded: the chunk, its heading path and the special tokens.
    `overlap` is how many tokens of prose two pieces of one oversize paragraph share at most. With
    `embed_headings` the path of headings and definitions that lie outside the chunk, and the header
    row of a table that was cut, are put before its text for the embedding and for the terms, never
    in what is shown.
    """

    def __init__(
        self, tokenizer_path: Path, max_tokens: int, overlap: int, *, embed_headings: bool = True
    ) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_tokens - self._special < 16:
            raise ValueError(f"max_tokens = {max_tokens} leaves no room for text")
        self._max = max_tokens - self._special
        self._embed_headings = embed_headings
        self._cutter = Cutter(
            self._tokenizer, self._max, min(overlap, self._max // 2), repeat_headers=embed_headings
        )
        self._prefix_of = lru_cache(maxsize=1024)(self._prefix_for)

    def chunk(self, document: ParsedDocument) -> list[Chunk]:
        """The chunks in reading order; together they hold all the words of the document.

        CPU-bound: call it in a worker thread.
        """
        drafts = self._join_tiny(document, list(self._drafts(document)))
        finished: list[Chunk] = []
        lines = _Lines(document.text)
        for draft in drafts:
            finished.extend(self._finish(document, draft, len(finished), lines))
        return finished

    def _drafts(self, document: ParsedDocument) -> Iterator[_Draft]:
        text = document.text
        path: list[tuple[int, str]] = []
        names: tuple[str, ...] = ()
        held: list[Span] = []
        tokens = 0
        room = self._max
        for block in document.blocks:
            if block.kind in ("heading", "definition"):
                if held:
                    yield _Draft(tuple(held), names)
                    held, tokens = [], 0
                while path and path[-1][0] >= block.level:
                    path.pop()
                if block.label:
                    path.append((block.level, block.label))
                names = tuple(label for _, label in path)
                room = self._max - self._prefix_of(names)[1]
            for span in self._cutter.spans(text, block, room):
                if held and (
                    span.cut
                    or tokens + span.tokens > room
                    or span.end - held[0].start > self._max * MAX_CHARS_PER_TOKEN
                ):
                    # A heading is never left alone at the end of a chunk by an ordinary block.
                    yield _Draft(tuple(held), names)
                    held, tokens = [], 0
                held.append(span)
                tokens += span.tokens
                if span.cut:
                    yield _Draft(tuple(held), names)
                    held, tokens = [], 0
        if held:
            yield _Draft(tuple(held), names)

    def _join_tiny(self, document: ParsedDocument, drafts: list[_Draft]) -> list[_Draft]:
        joined: list[_Draft] = []
        for draft in drafts:
            before = joined[-1] if joined else draft
            few = len(before.spans) + len(draft.spans) <= MAX_JOINED
            if few and draft.start >= before.end:
                if before.has_definitions or draft.has_definitions:
                    path = self._path_of_definitions(before, draft)
                else:
                    path = self._path_of_both(before, draft)
                if path is not None and self._fit_together(document.text, before, draft, path):
                    joined[-1] = _Draft(before.spans + draft.spans, path)
                    continue
            joined.append(draft)
        return joined

    def _fit_together(
        self, text: str, before: _Draft, draft: _Draft, path: tuple[str, ...]
    ) -> bool:
        room = self._max - self._prefix_of(path)[1] - self._header(text, before)[1]
        short = draft.end - before.start <= self._max * MAX_CHARS_PER_TOKEN
        return short and before.tokens + draft.tokens <= room

    def _header(self, text: str, draft: _Draft) -> tuple[str, int]:
        """The header row of the table that it is a later piece of, and its tokens."""
        first = draft.spans[0]
        if first.cut and first.block.kind == "table" and first.start > first.block.start:
            return self._cutter.header(text, first.block)
        return "", 0

    def _path_of_both(self, before: _Draft, draft: _Draft) -> tuple[str, ...] | None:
        """The path of two neighbours as one chunk; None where they stay apart."""
        tiny = int(self._max * TINY)
        if draft.tokens >= tiny and before.tokens >= tiny:
            return None
        alone = all(span.block.kind == "heading" for span in before.spans)
        if alone:
            return draft.path if _begins(draft.path, before.path) else None
        path = _common(before.path, draft.path)
        # With its subsections or its sisters, never over the end of a chapter.
        return path if len(path) >= max(len(before.path), len(draft.path)) - 1 else None

    def _path_of_definitions(self, before: _Draft, draft: _Draft) -> tuple[str, ...] | None:
        """The same for source code: what has a name and says something keeps its name."""
        tiny = int(self._max * TINY)
        tiny_definition = int(self._max * TINY_DEFINITION)
        small = before.tokens < tiny_definition, draft.tokens < tiny_definition
        if before.path == draft.path and not draft.labels:
            tokens = min(before.tokens, draft.tokens)
            return draft.path if tokens < (tiny_definition if before.labels else tiny) else None
        if before.labels <= 1 and draft.labels and _begins(draft.path, before.path):
            # The head of a class goes with its first member, a line or two with what follows.
            head = before.labels == 1 and before.tokens < tiny
            if (head or small[0]) and draft.path != before.path:
                return draft.path
        if not draft.labels and small[1] and _begins(before.path, draft.path):
            return before.path
        path = _common(before.path, draft.path)
        if small[1] and (small[0] or before.labels > 1) and len(path) >= len(draft.path) - 1:
            return path if before.labels <= 1 or path == before.path else None
        return None

    def _prefix_for(self, names: tuple[str, ...]) -> tuple[str, int]:
        """Headings as they stand before a chunk, within their share, and their tokens."""
        if not self._embed_headings:
            return "", 0
        most = int(self._max * HEADING_SHARE)
        # The nearest says most.
        for first in range(len(names)):
            prefix = " > ".join(names[first:]) + "\n"
            tokens = len(self._tokenizer.encode(prefix, add_special_tokens=False))
            if tokens <= most:
                return prefix, tokens
        return "", 0

    def _prefix(self, text: str, draft: _Draft) -> str:
        """What is above the chunk and not in it: headings, definitions, a table's header."""
        inside = {
            span.block.label
            for span in draft.spans
            if span.block.kind == "heading" or (span.block.kind == "definition" and not span.cut)
        }
        prefix = self._prefix_of(tuple(name for name in draft.path if name not in inside))[0]
        return prefix + self._header(text, draft)[0]

    def _finish(
        self, document: ParsedDocument, draft: _Draft, ordinal: int, lines: _Lines
    ) -> Iterator[Chunk]:
        text = document.text
        start, end = trim(text, draft.start, draft.end)
        if start == end:
            return
        prefix = self._prefix(text, draft)
        shown = text[start:end]
        count = len(self._tokenizer.encode(prefix + shown, add_special_tokens=False))
        if count > self._max and prefix:
            prefix = ""
            count = len(self._tokenizer.encode(shown, add_special_tokens=False))
        if count > self._max:
            # Counts that do not add up over white space: cut in the middle and count again.
            half_way = middle(text, start, end)
            block = draft.spans[0].block
            for part_start, part_end in ((start, half_way), (half_way, end)):
                half = _Draft((Span(part_start, part_end, 0, block, cut=True),), draft.path)
                for chunk in self._finish(document, half, ordinal, lines):
                    ordinal = chunk.ordinal + 1
                    yield chunk
            return
        first, last = draft.spans[0].block, draft.spans[-1].block
        line = lines.of(first, start)
        yield Chunk(
            ordinal=ordinal,
            text=shown,
            embed_text=prefix + shown,
            heading_path=draft.path,
            char_start=start,
            char_end=end,
            page_start=first.page,
            page_end=last.page,
            line_start=line,
            line_end=None if line is None else line + text.count("\n", start, end),
            token_count=count + self._special,
        )


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    length = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        length += 1
    return one[:length]


def _begins(path: tuple[str, ...], start: tuple[str, ...]) -> bool:
    return path[: len(start)] == start
