"""application/pdf, through pypdf: the text of each page, its paragraphs as blocks."""

from __future__ import annotations

import io
import logging
import re
import time
from typing import Final

from pypdf import PdfReader
from pypdf.errors import DependencyError, PyPdfError

from aistack.aidb.parsing.document import (
    MAX_TEXT_CHARS,
    Block,
    ParsedDocument,
    ParseError,
    checked,
    shorten,
)

MAX_PAGES: Final = 5000
MAX_SECONDS: Final = 120.0

# What pypdf lets through on damaged files, found by mutating good ones; not Exception, so that a
# mistake of ours still shows as one.
_DAMAGE: Final = (
    PyPdfError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
_BROKEN: Final = "The PDF is damaged and cannot be read."
_BLANK: Final = re.compile(r"\n[ \t]*\n\s*")
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")

# It warns about every oddity of every file; what matters ends in a ParseError.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)


def check(content: bytes, charset: str | None = None) -> None:
    """Its header. Raises ParseError."""
    if b"%PDF-" not in content[:1024]:
        raise ParseError("The file is not a PDF: its header is missing.")


def _open(content: bytes) -> PdfReader:
    check(content)
    try:
        reader = PdfReader(io.BytesIO(content), strict=False)
        # Many files are encrypted with an empty password, only to forbid printing.
        if reader.is_encrypted and not reader.decrypt(""):
            raise ParseError("The PDF is protected by a password: remove it and try again.")
        pages = len(reader.pages)
    except DependencyError:
        raise ParseError("The PDF is encrypted in a way that cannot be read here.") from None
    except _DAMAGE:
        raise ParseError(_BROKEN) from None
    if pages == 0:
        raise ParseError("The PDF has no pages.")
    if pages > MAX_PAGES:
        raise ParseError(f"The PDF has more than {MAX_PAGES} pages.")
    return reader


def examine(content: bytes) -> None:
    """That it opens, without a password, and has pages. Raises ParseError, MemoryError."""
    _open(content)


def parse(content: bytes, charset: str | None = None) -> ParsedDocument:
    """Raises ParseError, and MemoryError; a scan without a text layer has no text."""
    reader = _open(content)
    deadline = time.monotonic() + MAX_SECONDS

    def in_time(*_operation: object) -> None:
        # Asked before every operation of a page, too: one page may hold millions.
        if time.monotonic() > deadline:
            raise ParseError(f"The PDF takes longer than {MAX_SECONDS:.0f} seconds to read.")

    pieces: list[str] = []
    blocks: list[Block] = []
    length = 0
    try:
        for number, page in enumerate(reader.pages, start=1):
            in_time()
            text = _UNSTORABLE.sub("", page.extract_text(visitor_operand_before=in_time))
            for paragraph in _BLANK.split(text):
                words = paragraph.strip()
                if not words:
                    continue
                if pieces:
                    pieces.append("\n\n")
                    length += 2
                blocks.append(Block("paragraph", length, length + len(words), page=number))
                pieces.append(words)
                length += len(words)
            if length > MAX_TEXT_CHARS:
                raise ParseError(f"The text is longer than {MAX_TEXT_CHARS:,} characters.")
        title = reader.metadata.title if reader.metadata else None
    except DependencyError:
        raise ParseError("The PDF is encrypted in a way that cannot be read here.") from None
    except _DAMAGE:
        raise ParseError(_BROKEN) from None
    if not pieces:
        raise ParseError("The PDF has no text: it may be a scan, which needs OCR first.")
    clean = _UNSTORABLE.sub("", title) if isinstance(title, str) else ""
    return ParsedDocument(shorten(clean), checked("".join(pieces)), tuple(blocks))
