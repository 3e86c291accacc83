"""text/html: the words a reader sees, in blocks; scripts, styles and hidden parts left out.

libxml2 hands over events, no tree is built: deep nesting costs nothing.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Final

from lxml import etree

from aistack.aidb.parsing.document import (
    MAX_TEXT_CHARS,
    Block,
    BlockKind,
    ParsedDocument,
    ParseError,
    checked,
    shorten,
)
from aistack.aidb.parsing.text import decode as decode_text

_UNSEEN: Final = frozenset(
    {
        "script", "style", "template", "noscript", "head", "svg", "math", "object", "iframe",
        "canvas", "audio", "video", "select", "datalist", "textarea", "button",
    }
)  # fmt: skip
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
_BREAKING: Final = frozenset(
    {
        "address", "article", "aside", "blockquote", "body", "caption", "center", "dd",
        "details", "dialog", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer",
        "form", "header", "hgroup", "hr", "html", "legend", "main", "nav", "p", "section",
        "summary",
    }
)  # fmt: skip
_HIDDEN: Final = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_CHARSET: Final = re.compile(rb"<meta[^>]{0,400}?charset\s*=\s*[\"']?\s*([A-Za-z0-9._:-]{1,40})")
_SPACE: Final = re.compile(r"[ \t\r\n\f\v]+")

_PIECE: Final = 65_536


def decode(content: bytes, charset: str | None = None) -> str:
    """UTF-8 where it is valid, else the charset of the type or of the page. Raises ParseError."""
    if charset is None and not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        declared = _CHARSET.search(content[:4096])
        # UTF-8 by accident is next to impossible, a stale <meta> is common.
        if declared is not None and not _is_utf8(content):
            charset = declared.group(1).decode("ascii")
    return decode_text(content, charset)


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


class _Target:
    """Receives the events of one parse."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.length = 0
        self.blocks: list[Block] = []
        self.title: list[str] = []
        self._open: list[str] = []
        self._kind: BlockKind = "paragraph"
        self._level = 0
        self._unseen = 0
        self._pre = 0
        self._lists = 0
        self._tables = 0
        self._in_title = False

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "title" and not self.title:
            self._in_title = True
        if self._unseen:
            # Only what has an end counts; libxml2 ends void elements too, so all do.
            self._unseen += 1
            return
        if tag in _UNSEEN or "hidden" in attributes or _HIDDEN.search(attributes.get("style", "")):
            self._unseen = 1
            return
        if tag in _HEADINGS:
            self._flush("heading", _HEADINGS[tag])
        elif tag == "pre":
            self._pre += 1
            if self._pre == 1 and not self._tables:
                self._flush("code")
        elif tag in ("ul", "ol"):
            self._lists += 1
            if self._lists == 1 and not self._tables:
                self._flush("list")
        elif tag == "table":
            self._tables += 1
            if self._tables == 1:
                self._flush("table")
        elif tag == "li":
            self._line("- ")
        elif tag == "tr" or tag == "br":
            self._line()
        elif tag in ("td", "th"):
            if self._open and not self._open[-1].endswith("\n"):
                self._open.append(" | ")
        elif tag in _BREAKING:
            self._break()

    def end(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        if self._unseen:
            self._unseen -= 1
            return
        if tag in _HEADINGS:
            self._flush(self._outer())
        elif tag == "pre":
            self._pre = max(0, self._pre - 1)
            if not self._pre and not self._tables:
                self._flush(self._outer())
        elif tag in ("ul", "ol"):
            self._lists = max(0, self._lists - 1)
            if not self._lists and not self._tables:
                self._flush(self._outer())
        elif tag == "table":
            self._tables = max(0, self._tables - 1)
            if not self._tables:
                self._flush(self._outer())
        elif tag in _BREAKING:
            self._break()

    def data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        if not self._unseen:
            self._open.append(data if self._pre else _SPACE.sub(" ", data))

    def comment(self, text: str) -> None:
        """Comments are not seen."""

    def close(self) -> None:
        self._flush("paragraph")

    def _outer(self) -> BlockKind:
        return "table" if self._tables else "list" if self._lists else "paragraph"

    def _line(self, begin: str = "") -> None:
        if self._open:
            self._open.append("\n")
        if begin:
            self._open.append(begin)

    def _break(self) -> None:
        # Inside a list or a table a paragraph is only a new line; the block goes on.
        if self._kind == "paragraph" and not self._pre:
            self._flush("paragraph")
        else:
            self._line()

    def _flush(self, kind: BlockKind, level: int = 0) -> None:
        raw = "".join(self._open)
        self._open.clear()
        text = raw.strip("\n").rstrip() if self._kind == "code" else _tidy(raw)
        if text and not text.isspace() and text != "-":
            if self.pieces:
                self.pieces.append("\n\n")
                self.length += 2
            start = self.length
            self.pieces.append(text)
            self.length += len(text)
            if self.length > MAX_TEXT_CHARS:
                raise ParseError(f"The text is longer than {MAX_TEXT_CHARS:,} characters.")
            label = (shorten(text) or "") if self._kind == "heading" else ""
            self.blocks.append(Block(self._kind, start, self.length, self._level, label))
        self._kind, self._level = kind, level


def _tidy(raw: str) -> str:
    stripped = (line.strip() for line in raw.split("\n"))
    return "\n".join(line for line in stripped if line and line != "|" and line != "-")


def parse(content: bytes, charset: str | None = None) -> ParsedDocument:
    """Raises ParseError."""
    source = decode(content, charset)
    target = _Target()
    parser = etree.HTMLParser(target=target, huge_tree=True, no_network=True, recover=True)
    try:
        for position in range(0, len(source), _PIECE):
            parser.feed(source[position : position + _PIECE])
        parser.close()
    except etree.LxmlError:
        raise ParseError("The HTML cannot be read.") from None
    text = checked("".join(target.pieces))
    first = next((b.label for b in target.blocks if b.kind == "heading" and b.level == 1), None)
    title = shorten("".join(target.title)) or first
    return ParsedDocument(title, text, tuple(target.blocks))
