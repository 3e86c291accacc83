"""application/json and application/jsonl: the text is the source, cut by its structure.

A member or an element of some size is a block, named by its path (`$.services[3]`); small ones next
to each other are one block, and what is large is looked into. Reading it checks it (RFC 8259, with
comments and a comma before a closing bracket, as settings have them): a place that is not JSON is
named by line and column. There is no recursion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

import orjson

from aistack.aidb.parsing.document import Block, ParsedDocument, ParseError, shorten
from aistack.aidb.parsing.text import decode, lines

#: Characters. A value of fewer stands with its neighbours, up to `GROUP` of them together.
SMALL: Final = 200
GROUP: Final = 600
#: A value of more is looked into.
LARGE: Final = 800
#: Steps of a path that a label tells; the last ones say most.
_STEPS: Final = 12
MAX_DEPTH: Final = 10_000
#: Characters of a key that are looked at for a label.
_KEY: Final = 200
#: Of a text that is checked while its sender waits. To check takes 30 times as much memory, and
#: other threads stand still meanwhile: what is longer is refused by `parse`.
MAX_CHECKED_CHARS: Final = 1_000_000

#: And comments, which the settings of editors and compilers have.
_SPACE: Final = re.compile(r"(?:[ \t\r\n]++|//[^\n]*+|/\*(?:[^*]++|\*(?!/))*+\*/)*+")
_STRING: Final = re.compile(r'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"')
_SCALAR: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(slots=True)
class _Piece:
    start: int
    label: str = ""


@dataclass(slots=True)
class _Open:
    """An array or object that is being read; `first` is where its pieces begin in the list."""

    start: int
    is_object: bool
    first: int
    #: Where the key of the member is that is being read, and its step of a path once it is asked.
    key: tuple[int, int] | None = None
    step: str = ""
    count: int = 0
    group: _Piece | None = None
    group_count: int = 0


class _Reader:
    """Reads values; without `cuts` it only checks them."""

    def __init__(self, text: str, *, cuts: bool = True) -> None:
        self.text = text
        self._cuts = cuts
        self.pieces: list[_Piece] = []
        self._open: list[_Open] = []

    def value(self, position: int, stop: int) -> int:
        """Read one value; where it ends. Raises ParseError."""
        text, stack = self.text, self._open
        expect_value = True
        # Where the member begins whose value is read: at its key.
        begin = position = self._skip(position)
        while True:
            if expect_value:
                sign = text[position : position + 1] if position < stop else ""
                if sign and sign in "[{":
                    if len(stack) == MAX_DEPTH:
                        raise ParseError(f"The JSON is nested deeper than {MAX_DEPTH} levels.")
                    stack.append(_Open(begin, sign == "{", len(self.pieces)))
                    position = self._skip(position + 1)
                    if text[position : position + 1] == ("}" if sign == "{" else "]"):
                        expect_value = False
                        continue
                    begin, position = self._member(position)
                    continue
                match = (_STRING if sign == '"' else _SCALAR).match(text, position, stop)
                if match is None:
                    self._refuse(position, "a string that ends" if sign == '"' else "a value")
                position = match.end()
                expect_value = False
                if not stack:
                    return position
                self._done(begin, position)
                continue
            position = self._skip(position)
            sign = text[position : position + 1]
            here = stack[-1]
            if sign == "," and here.count:
                position = self._skip(position + 1)
                # One comma too many does no harm to who searches it.
                if text[position : position + 1] != ("}" if here.is_object else "]"):
                    begin, position = self._member(position)
                    expect_value = True
            elif sign == ("}" if here.is_object else "]"):
                position += 1
                self._close(position)
                if not stack:
                    return position
                self._done(here.start, position)
            else:
                self._refuse(position, f"',' or {'}' if here.is_object else ']'!r}")

    def _member(self, position: int) -> tuple[int, int]:
        """Where an element begins, and its value: after the key of an object's."""
        here = self._open[-1]
        if not here.is_object:
            return position, position
        match = _STRING.match(self.text, position)
        if match is None:
            self._refuse(position, "a key in double quotes")
        here.key, here.step = match.span(), ""
        colon = self._skip(match.end())
        if self.text[colon : colon + 1] != ":":
            self._refuse(colon, "':'")
        return position, self._skip(colon + 1)

    def _done(self, start: int, end: int) -> None:
        """An element of the innermost array or object has been read: `text[start:end]`."""
        here = self._open[-1]
        if not self._cuts:
            here.count += 1
            return
        inner = bool(self.pieces) and self.pieces[-1].start >= start
        if inner or end - start >= SMALL:
            self._end_group()
            if not inner:
                self.pieces.append(_Piece(start, self._label(self._step(here))))
            here.count += 1
            return
        if here.group is None:
            # In its place already: what comes inside a later element comes after it.
            here.group, here.group_count = _Piece(start), here.count
            self.pieces.append(here.group)
        here.count += 1
        if end - here.group.start >= GROUP:
            self._end_group()

    def _end_group(self) -> None:
        """The small ones so far are a piece; of an array, it says which they are."""
        here = self._open[-1]
        if here.group is not None:
            step = "" if here.is_object else f"[{here.group_count}:{here.count}]"
            here.group.label = self._label(step)
            here.group = None

    def _close(self, end: int) -> None:
        """The innermost array or object ends: its pieces stay if it is large."""
        here = self._open[-1]
        if not self._cuts:
            self._open.pop()
            return
        if end - here.start > LARGE and here.count:
            self._end_group()
            # What opens it goes with its first piece.
            self.pieces[here.first].start = here.start
        else:
            del self.pieces[here.first :]
        self._open.pop()

    def _step(self, here: _Open) -> str:
        if here.key is None:
            return f"[{here.count}]"
        if not here.step:
            begin, end = here.key[0] + 1, here.key[1] - 1
            key = self.text[begin : min(end, begin + _KEY)]
            named = end - begin <= _KEY and _NAME.fullmatch(key)
            here.step = f".{key}" if named else f"['{shorten(key, 60) or ''}']"
        return here.step

    def _label(self, last: str) -> str:
        above = [self._step(one) for one in self._open[-_STEPS - 1 : -1]]
        start = "$" if len(self._open) <= _STEPS + 1 else "…"
        path = start + "".join(above) + last
        return "" if path == "$" else path if len(path) <= 200 else "…" + path[-199:]

    def _skip(self, position: int) -> int:
        match = _SPACE.match(self.text, position)
        assert match is not None
        return match.end()

    def _refuse(self, position: int, wanted: str) -> NoReturn:
        line = self.text.count("\n", 0, position) + 1
        column = position - self.text.rfind("\n", 0, position)
        found = self.text[position : position + 1]
        there = f"not {found!r}" if found else "but the text ends"
        if found == '"' and wanted.startswith("a string"):
            there = "without control characters and other escapes than JSON's"
        raise ParseError(
            f"The text is not valid JSON at line {line}, column {column}: {wanted} is expected,"
            f" {there}. Mend it, or send it as text/plain."
        )


def check(content: bytes, charset: str | None = None) -> None:
    """Raises ParseError. Texts over MAX_CHECKED_CHARS are not looked at: `parse` refuses them."""
    text = decode(content, charset)
    if len(text) > MAX_CHECKED_CHARS:
        return
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        # It stops at another depth, and says less of the place.
        _pieces(text, cuts=False)


def parse(content: bytes, charset: str | None = None) -> ParsedDocument:
    """Raises ParseError."""
    text = decode(content, charset)
    return ParsedDocument(None, text, tuple(_blocks(text, _pieces(text))))


def check_lines(content: bytes, charset: str | None = None) -> None:
    """Raises ParseError."""
    text = decode(content, charset)
    for _ in _records(text):
        pass


def parse_lines(content: bytes, charset: str | None = None) -> ParsedDocument:
    """One value a line; empty lines are passed over. Raises ParseError."""
    text = decode(content, charset)
    return ParsedDocument(None, text, tuple(_records(text)))


def _pieces(text: str, *, cuts: bool = True) -> list[_Piece]:
    reader = _Reader(text, cuts=cuts)
    end = reader.value(0, len(text))
    after = reader._skip(end)
    if after < len(text):
        reader._refuse(after, "the end")
    return reader.pieces


def _blocks(text: str, pieces: list[_Piece]) -> Iterator[Block]:
    starts = [piece.start for piece in pieces] or [0]
    labels = [piece.label for piece in pieces] or [""]
    # Each begins with its line where nothing else is on it.
    starts = [0] + [_line_start(text, start) for start in starts[1:]]
    line = 1
    for start, end, label in zip(starts, [*starts[1:], len(text)], labels, strict=True):
        yield Block("definition", start, end, 1, label, line=line)
        line += text.count("\n", start, end)


def _line_start(text: str, position: int) -> int:
    line = text.rfind("\n", max(0, position - 400), position) + 1
    return line if line and not text[line:position].strip() else position


def _records(text: str) -> Iterator[Block]:
    reader = _Reader(text, cuts=False)
    for number, (start, end, line) in enumerate(lines(text), start=1):
        if not line or line.isspace():
            continue
        stop = start + len(line)
        read = reader.value(start, stop)
        if reader._skip(read) < stop:
            reader._refuse(reader._skip(read), "the end of the line")
        yield Block("code", start, end, line=number)
