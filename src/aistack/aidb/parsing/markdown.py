"""text/markdown: the text stays the source, so that character and line spans are exact.

A scanner over lines, not a CommonMark parser: all that chunking needs is where headings, fences,
tables, lists and paragraphs begin and end, in one pass whatever the input is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from aistack.aidb.parsing.document import Block, BlockKind, ParsedDocument, shorten
from aistack.aidb.parsing.text import decode, lines

_ATX: Final = re.compile(r" {0,3}(#{1,6})(?:[ \t]+|$)")
_FENCE: Final = re.compile(r"[ \t]*(?:>[ \t]*)*(?:[-*+][ \t]+)?(`{3,}|~{3,})([^`]*)$")
_UNDERLINE: Final = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_DELIMITER: Final = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")
_ITEM: Final = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])(?:[ \t]+|$)")
_ATTRIBUTES: Final = re.compile(r"\{[#.:][^{}]{0,200}\}[ \t]*$")
_LINK: Final = re.compile(r"!?\[([^\[\]]{0,500})\](?:\([^()]{0,1000}\)|\[[^\[\]]{0,200}\])?")
_MARKS: Final = re.compile(r"[*`]+|(?<!\w)_+|_+(?!\w)|<[^<>]{0,200}>")

#: Headings and table rows longer than this are read as prose: the patterns above then stay cheap.
_MAX_MARKUP_LINE: Final = 4000


@dataclass(slots=True)
class _Scan:
    text: str
    blocks: list[Block] = field(default_factory=list)
    kind: BlockKind | None = None
    start: int = 0
    end: int = 0
    line: int = 0

    def extend(self, kind: BlockKind, start: int, end: int, number: int) -> None:
        if self.kind is None:
            self.kind, self.start, self.line = kind, start, number
        self.end = end

    def close(self) -> None:
        if self.kind is not None:
            self.blocks.append(Block(self.kind, self.start, self.end, line=self.line))
            self.kind = None

    def heading(self, start: int, end: int, number: int, level: int, words: str) -> None:
        self.close()
        label = label_of(words)
        self.blocks.append(Block("heading", start, end, level, label, line=number))


def label_of(words: str) -> str:
    """A heading's words without Markdown's marks, link targets and `{#attributes}`."""
    words = _ATTRIBUTES.sub("", words[:_MAX_MARKUP_LINE].strip().rstrip("#").strip())
    plain = _MARKS.sub("", _LINK.sub(r"\1", words))
    return shorten(plain) or shorten(words) or ""


def parse(content: bytes, charset: str | None = None) -> ParsedDocument:
    """Raises ParseError."""
    text = decode(content, charset)
    scan = _Scan(text)
    fence: str | None = None
    front_matter = text.startswith(("---\n", "---\r\n"))
    previous = ""
    after_blank = False
    for number, (start, end, line) in enumerate(lines(text), start=1):
        if front_matter:
            scan.extend("code", start, end, number)
            if number > 1 and line in ("---", "..."):
                scan.close()
                front_matter = False
            continue
        if fence is not None:
            scan.extend("code", start, end, number)
            mark = line.lstrip(" \t>").rstrip()
            if mark.startswith(fence) and not mark.strip(fence[0]):
                scan.close()
                fence = None
            continue
        short = len(line) <= _MAX_MARKUP_LINE
        blank = not line or line.isspace()
        if short and (match := _FENCE.match(line)):
            scan.close()
            fence = match.group(1)
            scan.extend("code", start, end, number)
        elif short and (match := _ATX.match(line)):
            scan.heading(start, end, number, len(match.group(1)), line[match.end() :])
        elif blank:
            # A list goes on over blank lines, until something that is neither item nor indented.
            if scan.kind != "list":
                scan.close()
        elif scan.kind == "paragraph" and short and (match := _UNDERLINE.match(line)):
            _setext(scan, previous, end, 1 if match.group(1)[0] == "=" else 2)
        elif (
            scan.kind == "paragraph"
            and short
            and "|" in previous
            and "|" in line
            and _DELIMITER.match(line)
        ):
            _table(scan, previous, end)
        elif scan.kind == "table":
            if "|" not in line:
                scan.close()
                scan.extend("paragraph", start, end, number)
            else:
                scan.extend("table", start, end, number)
        elif short and _ITEM.match(line):
            if scan.kind != "list":
                scan.close()
            scan.extend("list", start, end, number)
        else:
            if scan.kind == "list" and after_blank and not line[0].isspace():
                scan.close()
            scan.extend("paragraph", start, end, number)
        previous, after_blank = line, blank
    scan.close()
    headings = [block for block in scan.blocks if block.kind == "heading" and block.label]
    title = min(headings, key=lambda block: block.level).label if headings else None
    return ParsedDocument(title, text, tuple(scan.blocks))


def _setext(scan: _Scan, words: str, end: int, level: int) -> None:
    start = scan.text.rfind("\n", 0, scan.end - 1) + 1
    number = scan.line + scan.text.count("\n", scan.start, start)
    if start > scan.start:
        scan.end = start
        scan.close()
    scan.kind = None
    scan.heading(max(start, scan.start), end, number, level, words)


def _table(scan: _Scan, header: str, end: int) -> None:
    start = max(scan.text.rfind("\n", 0, scan.end - 1) + 1, scan.start)
    number = scan.line + scan.text.count("\n", scan.start, start)
    if start > scan.start:
        scan.end = start
        scan.close()
    scan.kind = None
    scan.extend("table", start, end, number)
