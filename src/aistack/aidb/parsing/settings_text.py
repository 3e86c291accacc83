"""application/yaml and application/toml: the text is the source, cut at top-level keys and tables.

Read line by line, not as the languages define: what a block scalar holds is indented, so that a key
at the start of a line is one of the top level but for rare multi-line strings, where a cut in the
middle does no harm. Nothing is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from aistack.aidb.parsing.document import Block, ParsedDocument, shorten
from aistack.aidb.parsing.text import decode, lines

_YAML_KEY: Final = re.compile(
    r"(?:\"([^\"\n]{1,200})\"|'([^'\n]{1,200})'|([\w./-][^\n:#]{0,200}))\s*:(?:\s|$)"
)
_TOML_TABLE: Final = re.compile(r"(\[{1,2}[^\[\]\n]{1,200}\]{1,2})\s*(?:#.*)?$")
#: Longer lines are no keys.
_LINE: Final = 1000


def parse_yaml(content: bytes, charset: str | None = None) -> ParsedDocument:
    """Raises ParseError."""
    return _parse(decode(content, charset), _YAML_KEY)


def parse_toml(content: bytes, charset: str | None = None) -> ParsedDocument:
    """Raises ParseError."""
    return _parse(decode(content, charset), _TOML_TABLE)


def _parse(text: str, named: re.Pattern[str]) -> ParsedDocument:
    return ParsedDocument(None, text, tuple(_blocks(text, named)))


def _blocks(text: str, named: re.Pattern[str]) -> Iterator[Block]:
    """From one name to the next, with the comments directly above it."""
    begin, first_line, label = 0, 1, ""
    comment: tuple[int, int] | None = None
    for number, (start, _, line) in enumerate(lines(text), start=1):
        if line.startswith("#") or (line.startswith("---") and named is _YAML_KEY):
            comment = comment or (start, number)
            continue
        match = named.match(line) if len(line) <= _LINE else None
        if match is not None:
            at, at_line = comment or (start, number)
            if not text[begin:at].isspace() and at > begin:
                yield Block("definition", begin, at, 1, label, line=first_line)
            begin, first_line = at, at_line
            label = shorten(next(filter(None, match.groups()))) or ""
        comment = None
    if not text[begin:].isspace():
        yield Block("definition", begin, len(text), 1, label, line=first_line)
