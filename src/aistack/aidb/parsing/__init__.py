"""Documents to text and blocks: plain text, Markdown, HTML, PDF, source code, JSON, YAML, TOML.

    parse(content, content_type) -> ParsedDocument      raises ParseError, UnsupportedType
    check(content, content_type)                        the same errors, without the long work
    examine(content, content_type)                      of EXAMINED types what opening them tells

Every parser is linear in the size of its input and recursion-free, so that ten megabytes of `<` or
`#` cost what ten megabytes of prose do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from functools import partial
from typing import Final

from aistack import content_types as types
from aistack.aidb.parsing import html, json_text, markdown, pdf, settings_text, source, text
from aistack.aidb.parsing.document import (
    Block,
    BlockKind,
    ParsedDocument,
    ParseError,
    UnsupportedType,
)
from aistack.content_types import CONTENT_TYPES

__all__ = [
    "CONTENT_TYPES",
    "EXAMINED",
    "Block",
    "BlockKind",
    "ParseError",
    "ParsedDocument",
    "UnsupportedType",
    "check",
    "essence",
    "examine",
    "parse",
]


@dataclass(frozen=True, slots=True)
class _Format:
    parse: Callable[[bytes, str | None], ParsedDocument]
    check: Callable[[bytes, str | None], object]


_FORMATS: Final[Mapping[str, _Format]] = {
    types.PLAIN: _Format(text.parse, text.decode),
    types.MARKDOWN: _Format(markdown.parse, text.decode),
    types.HTML: _Format(html.parse, html.decode),
    types.PDF: _Format(pdf.parse, pdf.check),
    types.JSON: _Format(json_text.parse, json_text.check),
    types.JSON_LINES: _Format(json_text.parse_lines, json_text.check_lines),
    types.YAML: _Format(settings_text.parse_yaml, text.decode),
    types.TOML: _Format(settings_text.parse_toml, text.decode),
    **{
        kind: _Format(partial(source.parse_as, content_type=kind), text.decode)
        for kind in (types.SOURCE, *types.LANGUAGES)
    },
}


#: Told at the upload as well, and yet too much work for the process of the service.
EXAMINED: Final[Mapping[str, Callable[[bytes], object]]] = {types.PDF: pdf.examine}


def essence(content_type: str) -> str:
    """`text/html` of `Text/HTML; charset=utf-8`."""
    return _split(content_type)[0]


def parse(content: bytes, content_type: str) -> ParsedDocument:
    """Read a document; CPU-bound, so call it in a thread. Raises ParseError, UnsupportedType."""
    kind, charset = _split(content_type)
    return _FORMATS[kind].parse(content, charset)


def check(content: bytes, content_type: str) -> None:
    """What can be told at once: the type, the encoding, NUL, emptiness, JSON, a PDF's header.

    Raises ParseError, UnsupportedType. A document that passes may still fail in `parse`.
    """
    kind, charset = _split(content_type)
    _FORMATS[kind].check(content, charset)


def examine(content: bytes, content_type: str) -> None:
    """That a document of a type in EXAMINED opens; CPU-bound, and takes memory and time.

    Raises ParseError, MemoryError.
    """
    EXAMINED[essence(content_type)](content)


def _split(content_type: str) -> tuple[str, str | None]:
    header = Message()
    header["content-type"] = content_type.replace("\r", " ").replace("\n", " ")
    # An absent or malformed type reads as text/plain here; ask for what was really said.
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in _FORMATS:
        raise UnsupportedType(f"Only {', '.join(CONTENT_TYPES)} can be read.")
    charset = header.get_content_charset()
    return kind, charset
