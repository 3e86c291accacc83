"""Source code: the text is the source, a definition is a block, and says what it defines.

tree-sitter reads what is not quite right, too. Blocks follow one another without a gap: each begins
with the comments directly above its definition and ends where the next begins. Without a grammar,
and where it cannot or should not read the text, that is cut at blank lines.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tree_sitter import Node, Parser, Tree

from aistack.aidb.parsing.document import Block, BlockKind, ParsedDocument
from aistack.aidb.parsing.languages import (
    CONTAINERS,
    LANGUAGES,
    LEADS,
    WRAPPERS,
    Language,
    defined,
    grammar,
    holds_members,
    label,
)
from aistack.aidb.parsing.text import decode
from aistack.content_types import SOURCE

PYTHON: Final = "text/x-python"
#: A syntax tree takes up to 260 bytes a byte of source (measured: half a million open brackets);
#: longer files are generated ones, mostly.
MAX_TREE_BYTES: Final = 500_000
#: Of this thread's processor time. A megabyte of Python takes 1.4 s.
MAX_SECONDS: Final = 3.0
#: Definitions within definitions: what lies deeper belongs to the one it lies in.
MAX_LEVEL: Final = 6
#: Widths of indentation in one file of Python. The grammar's scanner writes its stack of them, two
#: bytes each, into a buffer of 1024 bytes and does not look where it ends.
MAX_INDENTS: Final = 200

_READ_BYTES: Final = 65_536
_INDENT: Final = 400
#: White space from the start of a line as the scanner of Python adds it up, over a backslash too.
_INDENTATION: Final = re.compile(rb"[\n\r\f]([ \t]*+(?:\\\r?\n?[ \t]*+)*+)")
_BLANK_LINES: Final = re.compile(r"\n(?:[ \t\r]*\n)+")
#: What may follow the last definition of a class and is no statement of its own.
_CLOSING: Final = re.compile(r"[\s{}()\[\];,]*")


@dataclass(frozen=True, slots=True)
class _Definition:
    """In bytes of UTF-8; `start` is that of the comments above it."""

    start: int
    end: int
    level: int
    label: str


class _Unread(Exception):
    """Why the grammar does not read a text; `str()` of it goes into `ParsedDocument.parser`."""


def parse_as(content: bytes, charset: str | None, content_type: str) -> ParsedDocument:
    """`content_type` is one of LANGUAGES, or `text/x-source`. Raises ParseError."""
    text = decode(content, charset)
    if content_type == SOURCE:
        return ParsedDocument(None, text, tuple(paragraphs(text)), parser="blank lines")
    language = LANGUAGES[content_type]
    data = text.encode()
    try:
        found = list(_definitions(_tree(data, content_type), data, language))
    except _Unread as why:
        return ParsedDocument(None, text, tuple(paragraphs(text)), parser=f"blank lines: {why}")
    blocks = tuple(_blocks(text, data, found))
    return ParsedDocument(None, text, blocks, parser=f"tree-sitter {language.name}")


def paragraphs(text: str, start: int = 0, end: int | None = None, line: int = 1) -> Iterator[Block]:
    """`text[start:end]` as code between blank lines; `line` is that of `start`."""
    stop = len(text) if end is None else end
    while start < stop:
        match = _BLANK_LINES.search(text, start, stop)
        after = match.end() if match else stop
        if not text[start:after].isspace():
            yield Block("code", start, after, line=line)
        line += text.count("\n", start, after)
        start = after


def _tree(data: bytes, content_type: str) -> Tree:
    """Raises _Unread."""
    name = LANGUAGES[content_type].name
    language = grammar(content_type)
    if language is None:
        raise _Unread(f"no grammar for {name}")
    if len(data) > MAX_TREE_BYTES:
        raise _Unread(f"over {MAX_TREE_BYTES} bytes")
    if content_type == PYTHON and _is_too_deep(data):
        raise _Unread("nested too deep")
    deadline = time.thread_time() + MAX_SECONDS
    late = False

    def progress(_offset: int, _error: bool) -> bool:
        # Called every few hundred steps: other threads run meanwhile.
        nonlocal late
        late = time.thread_time() > deadline
        return late

    try:
        return Parser(language).parse(
            lambda offset, _point: data[offset : offset + _READ_BYTES], progress_callback=progress
        )
    except ValueError:
        if not late:
            raise _Unread(f"the grammar for {name} cannot be used") from None
        raise _Unread(f"{name} took longer than {MAX_SECONDS:.0f} s") from None


def _is_too_deep(data: bytes) -> bool:
    """Whether the indentation may have more than MAX_INDENTS levels.

    Each level is wider than the one around it, so that there are at most as many as widths; levels
    alone would say less, for after an error the scanner leaves some open.
    """
    widths: set[int] = set()
    for match in _INDENTATION.finditer(data):
        run = match[1]
        widths.add(run.count(b" ") + 8 * run.count(b"\t"))
        if len(widths) > MAX_INDENTS:
            return True
    return False


def _definitions(tree: Tree, data: bytes, language: Language) -> Iterator[_Definition]:
    """In the order of their starts, those within others after them. Not recursive."""
    cursor = tree.walk()
    if not cursor.goto_first_child():
        return
    # Of each level of nodes that is walked: the level of definitions in it, and whether the node
    # above is a definition, so that only its body is looked into.
    stack: list[tuple[int, bool]] = [(1, False)]
    wrapped: Node | None = None
    lead: int | None = None
    before = 0
    while True:
        node = cursor.node
        assert node is not None
        level, within = stack[-1]
        kind = node.type
        enter: tuple[int, bool] | None = None
        if kind in LEADS:
            if lead is None or _apart(data, before, node.start_byte):
                lead = None if _ends_a_line(data, before, node.start_byte) else node.start_byte
        elif within:
            # Its name and its parameters are passed by.
            if holds_members(node, cursor.field_name):
                enter = (level, False)
            else:
                lead = None
        elif kind == "ERROR" or kind in language.transparent:
            enter = (level, False)
        elif wrapped is not None and (wrapped.id == node.id or kind not in WRAPPERS):
            lead = None
            if wrapped.id == node.id:
                wrapped = None
                enter = (level + 1, True)
        elif wrapped is not None:
            enter = (level, False)
        elif (definition := defined(node)) is not None:
            near = lead is not None and not _apart(data, before, node.start_byte)
            start = lead if near and lead is not None else node.start_byte
            yield _Definition(start, node.end_byte, level, label(definition, data))
            lead = None
            if _has_members(definition, level, language):
                if definition.id == node.id:
                    enter = (level + 1, True)
                else:
                    wrapped = definition
                    enter = (level, False)
        else:
            lead = None
        if not node.child_count or enter is None:
            before = node.end_byte
        elif cursor.goto_first_child():
            stack.append(enter)
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent() or len(stack) == 1:
                return
            stack.pop()
            above = cursor.node
            assert above is not None
            before, lead = above.end_byte, None


def _has_members(node: Node, level: int, language: Language) -> bool:
    if node.type not in CONTAINERS or level >= MAX_LEVEL:
        return False
    return node.end_byte - node.start_byte > language.nested_bytes


def _apart(data: bytes, end: int, start: int) -> bool:
    """Whether there is an empty line between two nodes."""
    lines = data.count(b"\n", end, start)
    # Comments of some grammars have the end of their line in them.
    return lines + (data[end - 1 : end] == b"\n") > 1


def _ends_a_line(data: bytes, end: int, start: int) -> bool:
    """Whether a comment stands behind something else on its line."""
    return end > 0 and data[end - 1 : end] != b"\n" and b"\n" not in data[end:start]


def _blocks(text: str, data: bytes, definitions: list[_Definition]) -> Iterator[Block]:
    """The whole text: definitions as blocks, what lies between them cut at blank lines."""
    marks: list[tuple[int, int, str]] = [(0, 1, "")]
    open_until: list[_Definition] = []

    def close(until: int) -> None:
        # What follows a definition and is not one belongs to what is around it.
        while open_until and open_until[-1].end <= until:
            done = open_until.pop()
            following = open_until[-1].end if open_until else len(data)
            rest = data[done.end : min(until, following)].decode("utf-8", "replace")
            if not _CLOSING.fullmatch(rest):
                marks.append((_line_end(data, done.end, until), done.level, ""))

    for one in definitions:
        close(one.start)
        marks.append((max(_line_start(data, one.start), marks[-1][0]), one.level, one.label))
        open_until.append(one)
    close(len(data))
    yield from _marked(text, data, marks)


def _line_start(data: bytes, position: int) -> int:
    """Where the line begins, if there is nothing but white space before `position` in it."""
    # Within reach: a file may be one line.
    reach = max(0, position - _INDENT)
    line = data.rfind(b"\n", reach, position) + 1
    if line == 0 and reach:
        return position
    return line if not data[line:position].strip() else position


def _line_end(data: bytes, position: int, until: int) -> int:
    """The start of the next line: what stands on the same line stays, a `;` or a comment."""
    line = data.find(b"\n", position, until)
    return until if line < 0 else line + 1


def _marked(text: str, data: bytes, marks: list[tuple[int, int, str]]) -> Iterator[Block]:
    """Blocks from each mark to the next; bytes become characters, and lines are counted, once."""
    start, line = 0, 1
    ascii_only = len(text) == len(data)
    ends = [mark[0] for mark in marks[1:]] + [len(data)]
    for (begin, level, name), stop in zip(marks, ends, strict=True):
        end = start + (stop - begin if ascii_only else len(data[begin:stop].decode()))
        yield from _pieces(text, start, end, level, name, line)
        line += text.count("\n", start, end)
        start = end


def _pieces(text: str, start: int, end: int, level: int, name: str, line: int) -> Iterator[Block]:
    if start == end or text[start:end].isspace():
        return
    if name:
        yield Block("definition", start, end, level, name, line=line)
        return
    kind: BlockKind = "definition"
    for block in paragraphs(text, start, end, line):
        # The first ends the definition before it, the others follow.
        yield Block(kind, block.start, block.end, level, line=block.line)
        kind = "code"
