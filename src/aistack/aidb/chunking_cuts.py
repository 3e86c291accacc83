"""Where a block that does not fit into one chunk is cut."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tokenizers import Tokenizer

from aistack.aidb.parsing.document import Block

#: Characters per token of a chunk at most: a run that the tokenizer reads as one unknown word may
#: be as long as the document.
MAX_CHARS_PER_TOKEN: Final = 16
#: The part of the limit that a header row may take when it is repeated.
HEADER_SHARE: Final = 0.25

_PIECE_CHARS: Final = 20_000
_INDENT: Final = 200
_SPACE: Final = re.compile(r"\s")
_BLANK_LINE: Final = re.compile(r"\n[ \t]*\n")
_SENTENCE_END: Final = re.compile(r"[.!?…。！？][\"')\]»”’]*$")
#: A header row, and the line of dashes below it where there is one.
_HEADER: Final = re.compile(r"[^\n]+\n(?:[ \t|:-]+\n)?")
#: Blocks whose lines mean more than their sentences.
_BY_LINES: Final = frozenset({"code", "definition", "table"})


@dataclass(frozen=True, slots=True)
class Span:
    """Part of a chunk to be: a block or a piece of one. `cut` pieces are chunks by themselves."""

    start: int
    end: int
    tokens: int
    block: Block
    cut: bool = False


class Cutter:
    """Cuts blocks; `max_tokens` is without special tokens."""

    def __init__(
        self, tokenizer: Tokenizer, max_tokens: int, overlap: int, *, repeat_headers: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._max = max_tokens
        self._overlap = overlap
        self._repeat_headers = repeat_headers

    def header(self, text: str, block: Block) -> tuple[str, int]:
        """The header row of a table, for its later pieces, and its tokens; nothing if too long."""
        limit = self._max * MAX_CHARS_PER_TOKEN
        # A line may be as long as the document.
        end = min(block.end, block.start + limit + 1)
        match = _HEADER.match(text, block.start, end) if self._repeat_headers else None
        if match is None or match.end() - match.start() > limit:
            return "", 0
        tokens = len(self._tokenizer.encode(match.group(), add_special_tokens=False))
        return (match.group(), tokens) if tokens <= self._max * HEADER_SHARE else ("", 0)

    def spans(self, text: str, block: Block, room: int) -> Iterator[Span]:
        """The block itself where it fits, else pieces of it of at most `room` tokens."""
        if block.end - block.start <= _PIECE_CHARS:
            encoding = self._tokenizer.encode(
                text[block.start : block.end], add_special_tokens=False
            )
            fits = len(encoding) <= room
            if fits and block.end - block.start <= self._max * MAX_CHARS_PER_TOKEN:
                yield Span(block.start, block.end, len(encoding), block)
                return
        if block.kind == "table":
            room -= self.header(text, block)[1]
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
    ) -> Iterator[Span]:
        offsets = self._offsets(text, start, stop)
        lines = block.kind in _BY_LINES
        first = 0
        while first < len(offsets):
            last = self._fit(offsets, first, room)
            if last < len(offsets):
                last = _boundary(text, offsets, first, last, lines)
            begin, end = offsets[first][0], offsets[last - 1][1]
            if lines:
                begin = self._with_indent(text, max(start, begin - _INDENT), begin, end)
            yield Span(begin, end, last - first, block, cut=True)
            if last == len(offsets):
                return
            first = _step_back(text, offsets, first, last, overlap)

    def _with_indent(self, text: str, reach: int, begin: int, end: int) -> int:
        """`begin`, or the start of its line where only white space lies between."""
        line = text.rfind("\n", reach, begin) + 1
        indented = reach < line < begin and text[line:begin].isspace()
        return line if indented and end - line <= self._max * MAX_CHARS_PER_TOKEN else begin

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


def _boundary(
    text: str, offsets: Sequence[tuple[int, int]], first: int, last: int, lines: bool
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
            elif "\n" in gap and lines:
                rank = 3
            elif _SENTENCE_END.search(before):
                rank = 2 if lines else 3
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


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Without white space at the ends; the indentation of a first line stays with it."""
    piece = text[start:end]
    stripped = piece.rstrip()
    if not stripped:
        return start, start
    end = start + len(stripped)
    lead = len(stripped) - len(stripped.lstrip())
    line = text.rfind("\n", start, start + lead) + 1
    return (line if line > start else start), end


def middle(text: str, start: int, end: int) -> int:
    centre = (start + end) // 2
    space = text.rfind(" ", start + (end - start) // 4, centre)
    return space if space > start else max(centre, start + 1)
