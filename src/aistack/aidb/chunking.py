"""Documents to chunks: structure first, measured by the embedding model's own tokenizer.

A heading begins a chunk; code blocks and tables stay whole where they fit; what does not fit is cut
at the best boundary near the limit (blank line, sentence, line, word, token); tiny neighbours under
the same heading are joined. Every chunk's `text` is exactly `document.text[char_start:char_end]`.

Each block is tokenised once for its offsets, and each finished chunk once for its exact count:
linear in the length of the document.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from aistack.aidb.parsing.document import Block, ParsedDocument

#: Characters per token of a chunk at most: a run that the tokenizer reads as one unknown word may
#: be as long as the document.
MAX_CHARS_PER_TOKEN: Final = 16
#: A chunk below this part of the limit is joined with its neighbour where that fits.
TINY: Final = 0.25
#: The part of the limit that the heading path may take.
HEADING_SHARE: Final = 0.25

_PIECE_CHARS: Final = 20_000
_SPACE: Final = re.compile(r"\s")
_BLANK_LINE: Final = re.compile(r"\n[ \t]*\n")
_SENTENCE_END: Final = re.compile(r"[.!?…。！？][\"')\]»”’]*$")


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
class _Span:
    """Part of a chunk to be: a block or a piece of one. `cut` pieces are chunks by themselves."""

    start: int
    end: int
    tokens: int
    block: Block
    cut: bool = False


@dataclass(frozen=True, slots=True)
class _Draft:
    spans: tuple[_Span, ...]
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


class Chunker:
    """Cuts documents for one embedding model. Stateless between calls; may be used by many threads.

    `max_tokens` bounds what is embedded: the chunk, its heading path and the special tokens.
    `overlap` is how many tokens of prose two pieces of one oversize paragraph share at most. With
    `embed_headings` the path of headings that lie outside the chunk is put before its text for the
    embedding and for the terms, never in what is shown.
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
        self._overlap = min(overlap, self._max // 2)
        self._embed_headings = embed_headings
        self._heading_room = int(self._max * HEADING_SHARE) if embed_headings else 0

    def chunk(self, document: ParsedDocument) -> list[Chunk]:
        """The chunks in reading order; together they hold all the words of the document.

        CPU-bound: call it in a worker thread.
        """
        drafts = self._join_tiny(list(self._drafts(document)))
        finished: list[Chunk] = []
        for draft in drafts:
            finished.extend(self._finish(document, draft, len(finished)))
        return finished

    def _drafts(self, document: ParsedDocument) -> Iterator[_Draft]:
        text = document.text
        path: list[tuple[int, str]] = []
        names: tuple[str, ...] = ()
        held: list[_Span] = []
        tokens = 0
        room = self._max
        for block in document.blocks:
            if block.kind == "heading":
                if held:
                    yield _Draft(tuple(held), names)
                    held, tokens = [], 0
                while path and path[-1][0] >= block.level:
                    path.pop()
                if block.label:
                    path.append((block.level, block.label))
                names = tuple(label for _, label in path)
                room = self._max - self._path_tokens(names)
            for span in self._spans(text, block, room):
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

    def _spans(self, text: str, block: Block, room: int) -> Iterator[_Span]:
        """The block itself where it fits, else pieces of it of at most `room` tokens."""
        if block.end - block.start <= _PIECE_CHARS:
            encoding = self._tokenizer.encode(
                text[block.start : block.end], add_special_tokens=False
            )
            fits = len(encoding) <= room
            if fits and block.end - block.start <= self._max * MAX_CHARS_PER_TOKEN:
                yield _Span(block.start, block.end, len(encoding), block)
                return
        prose = block.kind in ("paragraph", "heading")
        overlap = self._overlap if prose else 0
        position = block.start
        while position < block.end:
            # Windows, so that one block of megabytes does not become one list of offsets.
            window = min(position + _PIECE_CHARS, block.end)
            while window < block.end and not _SPACE.match(text, window):
                if window - position >= 2 * _PIECE_CHARS:
                    break
                window += 1
            yield from self._cut(text, position, window, room, overlap, block)
            position = window

    def _cut(
        self, text: str, start: int, stop: int, room: int, overlap: int, block: Block
    ) -> Iterator[_Span]:
        offsets = self._offsets(text, start, stop)
        first = 0
        while first < len(offsets):
            last = self._fit(offsets, first, room)
            if last < len(offsets):
                last = _boundary(text, offsets, first, last, block.kind == "code")
            yield _Span(offsets[first][0], offsets[last - 1][1], last - first, block, cut=True)
            if last == len(offsets):
                return
            first = _step_back(text, offsets, first, last, overlap)

    def _offsets(self, text: str, start: int, stop: int) -> list[tuple[int, int]]:
        """Spans of the tokens in `text[start:stop]`; runs too long for one chunk are broken up."""
        limit = self._max * MAX_CHARS_PER_TOKEN // 2
        offsets: list[tuple[int, int]] = []

        def add(begin: int, end: int) -> None:
            offsets.extend((part, min(part + limit, end)) for part in range(begin, end, limit))

        encoding = self._tokenizer.encode(text[start:stop], add_special_tokens=False)
        reached = start
        for relative, relative_end in encoding.offsets:
            begin, end = max(relative + start, reached), relative_end + start
            if end <= begin:
                continue
            if not text[reached:begin].isspace():
                # The model drops it (a control character, say); it is still text to be shown.
                add(reached, begin)
            add(begin, end)
            reached = end
        if text[reached:stop].strip():
            add(reached, stop)
        return offsets

    def _fit(self, offsets: Sequence[tuple[int, int]], first: int, room: int) -> int:
        """The end (exclusive) of the longest run of tokens from `first` that one chunk can hold."""
        reach = offsets[first][0] + self._max * MAX_CHARS_PER_TOKEN
        last = min(first + room, len(offsets))
        last = bisect_left(offsets, reach + 1, first, last, key=lambda span: span[1])
        return max(last, first + 1)

    def _join_tiny(self, drafts: list[_Draft]) -> list[_Draft]:
        joined: list[_Draft] = []
        tiny = int(self._max * TINY)
        for draft in drafts:
            if joined and (draft.tokens < tiny or joined[-1].tokens < tiny):
                before = joined[-1]
                alone = all(span.block.kind == "heading" for span in before.spans)
                path = draft.path if alone else _common(before.path, draft.path)
                # With its subsections or its sisters, never over the end of a chapter.
                near = len(path) >= max(len(before.path), len(draft.path)) - 1
                near = near and (not alone or draft.path[: len(before.path)] == before.path)
                room = self._max - self._path_tokens(path)
                short = draft.end - before.start <= self._max * MAX_CHARS_PER_TOKEN
                fits = near and short and before.tokens + draft.tokens <= room
                if fits and draft.start >= before.end:
                    joined[-1] = _Draft(before.spans + draft.spans, path)
                    continue
            joined.append(draft)
        return joined

    def _path_tokens(self, path: tuple[str, ...]) -> int:
        if not path or not self._embed_headings:
            return 0
        return self._heading_room

    def _prefix(self, draft: _Draft) -> str:
        """The headings above the chunk that it does not hold itself, within their share."""
        inside = {span.block.label for span in draft.spans if span.block.kind == "heading"}
        names = [name for name in draft.path if name not in inside]
        if not names or not self._embed_headings:
            return ""
        while names:
            prefix = " > ".join(names) + "\n"
            if len(self._tokenizer.encode(prefix, add_special_tokens=False)) <= self._heading_room:
                return prefix
            # The nearest heading says most.
            names.pop(0)
        return ""

    def _finish(self, document: ParsedDocument, draft: _Draft, ordinal: int) -> Iterator[Chunk]:
        text = document.text
        start, end = _trim(text, draft.start, draft.end)
        if start == end:
            return
        prefix = self._prefix(draft)
        shown = text[start:end]
        count = len(self._tokenizer.encode(prefix + shown, add_special_tokens=False))
        if count > self._max and prefix:
            prefix = ""
            count = len(self._tokenizer.encode(shown, add_special_tokens=False))
        if count > self._max:
            # Counts that do not add up over white space: cut in the middle and count again.
            middle = _middle(text, start, end)
            block = draft.spans[0].block
            for part_start, part_end in ((start, middle), (middle, end)):
                half = _Draft((_Span(part_start, part_end, 0, block, cut=True),), draft.path)
                for chunk in self._finish(document, half, ordinal):
                    ordinal = chunk.ordinal + 1
                    yield chunk
            return
        first, last = draft.spans[0].block, draft.spans[-1].block
        line = None
        if first.line is not None:
            line = first.line + text.count("\n", first.start, start)
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


def _boundary(
    text: str, offsets: Sequence[tuple[int, int]], first: int, last: int, code: bool
) -> int:
    """The best place to end a piece that may hold tokens `first` to `last` (exclusive)."""
    best, best_rank = last, 0
    for index in range(last, first + max(1, (last - first) // 2), -1):
        gap = text[offsets[index - 1][1] : offsets[index][0]]
        rank = 0
        if gap:
            before = text[max(0, offsets[index - 1][1] - 4) : offsets[index - 1][1]]
            if _BLANK_LINE.search(gap):
                rank = 4
            elif ("\n" in gap and code) or _SENTENCE_END.search(before):
                rank = 3
            elif "\n" in gap:
                rank = 2
            else:
                rank = 1
        if rank > best_rank:
            best, best_rank = index, rank
            if rank == 4:
                break
    return best


def _step_back(
    text: str, offsets: Sequence[tuple[int, int]], first: int, last: int, overlap: int
) -> int:
    """Where the next piece begins: up to `overlap` tokens back, at a sentence or else at a word."""
    word = last
    for index in range(last - 1, max(first, last - overlap - 1), -1):
        if offsets[index][0] > offsets[index - 1][1]:
            word = index
            end = offsets[index - 1][1]
            if _SENTENCE_END.search(text[max(0, end - 4) : end]):
                return index
    return word


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Without white space at the ends; the indentation of a first line stays with it."""
    piece = text[start:end]
    stripped = piece.rstrip()
    if not stripped:
        return start, start
    end = start + len(stripped)
    lead = len(stripped) - len(stripped.lstrip())
    line = text.rfind("\n", start, start + lead) + 1
    return (line if line > start else start), end


def _middle(text: str, start: int, end: int) -> int:
    centre = (start + end) // 2
    space = text.rfind(" ", start + (end - start) // 4, centre)
    return space if space > start else max(centre, start + 1)


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    length = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        length += 1
    return one[:length]
