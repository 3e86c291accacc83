"""What every parser gives: the text that spans refer to, and its blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

BlockKind = Literal["heading", "definition", "paragraph", "code", "table", "list"]

#: Characters of text that one document may have.
MAX_TEXT_CHARS: Final = 20_000_000
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class ParseError(Exception):
    """The document cannot be read. `detail` is one sentence that may be shown to the caller."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class UnsupportedType(ParseError):
    """A content type that nothing here reads."""


@dataclass(frozen=True, slots=True)
class Block:
    """`text[start:end]` of the document, one structural unit.

    `level` and `label` (the heading's words without markup, what a definition defines) are set for
    headings and definitions; a definition without a label is code after one, at that level. `page`
    (from 1) is set where there are pages; `line` (from 1, in the source) where the text is the
    source itself.
    """

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    label: str = ""
    page: int | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """`blocks` are in order, do not overlap, and hold everything but white space of `text`.

    `parser` says how the blocks were found where that depends on the document.
    """

    title: str | None
    text: str
    blocks: tuple[Block, ...]
    parser: str = ""


def checked(text: str) -> str:
    """`text` itself. Raises ParseError where it cannot be stored or has nothing to find."""
    if "\0" in text:
        raise ParseError("The text has NUL characters: is it a binary file?")
    # Some charsets decode to halves of surrogate pairs, which no UTF-8 can hold.
    if _SURROGATE.search(text):
        raise ParseError("The text is not valid Unicode.")
    if len(text) > MAX_TEXT_CHARS:
        raise ParseError(f"The text is longer than {MAX_TEXT_CHARS:,} characters.")
    if not text or text.isspace():
        raise ParseError("There is no text in the document.")
    return text


def shorten(words: str, limit: int = 200) -> str | None:
    """A title or heading on one line, of at most `limit` characters; None when nothing is left."""
    # Cut first: splitting ten megabytes to keep a line of them is waste.
    line = " ".join(words[: limit * 8].split())
    if len(line) > limit:
        line = line[: limit - 1].rstrip() + "…"
    return line or None
