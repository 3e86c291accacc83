"""text/plain: the text is the source, paragraphs lie between blank lines."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Final

from aistack.aidb.parsing.document import Block, ParsedDocument, ParseError, checked

_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")


def decode(content: bytes, charset: str | None = None) -> str:
    """The text of `content`: UTF-8 unless the content type said another charset; strict.

    A byte order mark is dropped and decides where there is no charset. Raises ParseError.
    """
    if charset is None and content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        charset = "utf-16"
    try:
        codec = codecs.lookup(charset or "utf-8")
    except (LookupError, ValueError):
        raise ParseError("The charset of the content type is not known.") from None
    # "hex" and its kind are codecs too, but not of text.
    if not codec._is_text_encoding:
        raise ParseError("The charset of the content type is not known.")
    try:
        text = codec.decode(content, "strict")[0]
    except UnicodeError as error:
        where = f" at byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        raise ParseError(f"The text is not valid {codec.name.upper()}{where}.") from None
    return checked(text.removeprefix("\ufeff"))


def lines(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, line without its end) of every line; `\\r\\n` and `\\n` end lines."""
    for match in _LINE.finditer(text):
        yield match.start(), match.end(), match.group().rstrip("\r\n")


def parse(content: bytes, charset: str | None = None) -> ParsedDocument:
    """Raises ParseError."""
    text = decode(content, charset)
    blocks: list[Block] = []
    first: tuple[int, int] | None = None
    last = 0
    for number, (start, end, line) in enumerate(lines(text), start=1):
        if line and not line.isspace():
            first = first or (start, number)
            last = end
        elif first is not None:
            blocks.append(Block("paragraph", first[0], last, line=first[1]))
            first = None
    if first is not None:
        blocks.append(Block("paragraph", first[0], last, line=first[1]))
    return ParsedDocument(None, text, tuple(blocks))
