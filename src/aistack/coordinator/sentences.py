"""Split text into sentences, also while it is still being written.

Markdown aware: code fences, inline code, list items, headings, tables and wrapped lines. One code
path for a whole text (`split`) and for a stream (`SentenceSplitter`), so both cut alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

SentenceKind = Literal["sentence", "heading", "code", "markup"]


@dataclass(frozen=True, slots=True)
class Sentence:
    """`text[start:end]` without its list marker and the white space around it."""

    start: int
    end: int
    kind: SentenceKind = "sentence"


_PREFIX = re.compile(r"(?:[ \t]*(?:[-*+•]|\d{1,3}[.)]|:|>)[ \t]+)+(?:\[[ xX]\][ \t]+)?")
_HEADING = re.compile(r"[ \t]*#{1,6}[ \t]+")
_FENCE = re.compile(r"[ \t]*(?:[-*+][ \t]+)?(`{3,}|~{3,})")
_DIRECTIVE = re.compile(r"[ \t]*(?::{3,}|\(\S+\)=[ \t]*$|(?:\|[ \t]*)?:?-{3,}|<!--)", re.MULTILINE)
_BLOCK = re.compile(
    r"[ \t]*(?:[-*+•>][ \t]|\d{1,3}[.)][ \t]|#{1,6}[ \t]|`{3,}|~{3,}|:{3,}|\||:[ \t]|\(\S+\)=)"
)
# What might still become one of the above when more text arrives.
_MAYBE_BLOCK = re.compile(r"[ \t]*(?:[-*+•>:]*|\d{1,3}[.)]?|#{1,6}|`{1,2}|~{1,2}|\(\S*\)?)\Z")
# Possessive, and only from the start of a run: no text makes it look twice at one character.
_STOP = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]*_`]*+(?=\s|\Z)|[。！？]+[”’」』）]*")
_CANDIDATE = re.compile(rf"(?P<code>`+)|(?P<newline>\n)|(?P<stop>{_STOP.pattern})")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'“])(?:e\.g|i\.e|cf|vs|resp|approx|incl|excl|ca|viz|esp|dr|mr|mrs|ms|prof|st|no|"
    r"fig|eq|sec|vol|ed|eds|al|[A-Z])\.$",
    re.IGNORECASE,
)
# These end a sentence when a capital letter follows.
_SOMETIMES = re.compile(r"(?:^|[\s(])(?:etc|inc|ltd|co|corp|a\.m|p\.m|u\.s)\.$", re.IGNORECASE)
_LONGEST_ABBREVIATION = 12  # characters, with what stands before it; a little more than there is
_FOLLOWING = re.compile(r" *(.?)", re.DOTALL)


class SentenceSplitter:
    """Feed text as it comes; sentences come back as soon as nothing can change their end.

    `text[:safe]` is what may be shown already: what lies behind it could still turn out to be
    separated from the sentence before it.
    """

    def __init__(self) -> None:
        self.text = ""
        self.safe = 0
        self._pos = 0

    def feed(self, more: str) -> list[Sentence]:
        """Append `more`; the sentences that it completed, in order."""
        self.text += more
        return self._advance(final=False)

    def finish(self) -> list[Sentence]:
        """The text is complete: the sentences that are left."""
        done = self._advance(final=True)
        self.safe = len(self.text)
        return done

    def _advance(self, *, final: bool) -> list[Sentence]:
        done: list[Sentence] = []
        while True:
            found = self._next(final=final)
            if found is None:
                return done
            sentence, self._pos = found
            if sentence.end > sentence.start:
                done.append(sentence)

    def _next(self, *, final: bool) -> tuple[Sentence, int] | None:
        """The sentence at `_pos` and where the search goes on; None: not known yet, or the end."""
        text = self.text
        start = self._pos
        while start < len(text) and text[start].isspace():
            start += 1
        line = max(text.rfind("\n", self._pos, start) + 1, self._pos)
        if start >= len(text):
            self.safe = len(text) if final else self._pos
            return None
        at_line_start = line == 0 or text[line - 1] == "\n"
        if at_line_start:
            if not final and _MAYBE_BLOCK.match(text, line):
                self.safe = self._pos
                return None
            if fence := _FENCE.match(text, line):
                return self._code(fence, final=final)
            if _DIRECTIVE.match(text, line):
                return self._line(line, "markup", final=final)
            if heading := _HEADING.match(text, line):
                return self._line(heading.end(), "heading", final=final)
            if prefix := _PREFIX.match(text, line):
                start = prefix.end()
        return self._prose(start, final=final)

    def _code(self, fence: re.Match[str], *, final: bool) -> tuple[Sentence, int] | None:
        mark = fence.group(1)
        close = re.compile(
            rf"^[ \t]*{re.escape(mark[0])}{{{len(mark)},}}[ \t]*(\n|\Z)", re.MULTILINE
        )
        body = self.text.find("\n", fence.end())
        end = close.search(self.text, body + 1) if body >= 0 else None
        if end is not None and (end.group(1) or final):
            stop = end.end() - len(end.group(1))
            return Sentence(fence.start(1), stop, "code"), stop
        self.safe = len(self.text)
        if not final:
            return None
        return Sentence(fence.start(1), len(self.text), "code"), len(self.text)

    def _line(self, start: int, kind: SentenceKind, *, final: bool) -> tuple[Sentence, int] | None:
        end = self.text.find("\n", start)
        if end < 0:
            self.safe = len(self.text.rstrip())
            if not final:
                return None
            end = len(self.text)
        return Sentence(start, start + len(self.text[start:end].rstrip()), kind), end

    def _prose(self, start: int, *, final: bool) -> tuple[Sentence, int] | None:
        text = self.text
        open_code = ""  # the run of backticks that an inline code span is waiting for
        for match in _CANDIDATE.finditer(text, start):
            if match["code"]:
                if not open_code:
                    open_code = match["code"]
                elif open_code == match["code"]:
                    open_code = ""
            elif match["newline"]:
                ends = self._newline_ends(start, match.start(), final=final)
                if ends is None:
                    self.safe = self._trimmed(start, match.start())
                    return None
                if ends:
                    end = self._trimmed(start, match.start())
                    return Sentence(start, end), max(end, match.start())
            elif not open_code:
                if match.end() == len(text) and not final:
                    self.safe = match.end()
                    return None
                verdict = self._stop_ends(start, match, final=final)
                if verdict is None:
                    self.safe = match.end()
                    return None
                if verdict:
                    return Sentence(start, match.end()), match.end()
        if final:
            end = self._trimmed(start, len(text))
            return Sentence(start, end), len(text)
        self.safe = self._trimmed(start, len(text))
        return None

    def _trimmed(self, start: int, end: int) -> int:
        return start + len(self.text[start:end].rstrip())

    def _newline_ends(self, start: int, newline: int, *, final: bool) -> bool | None:
        """Whether the line break ends the sentence; None: the next line is not known yet."""
        if self.text.startswith("|", start):
            return True
        after = newline + 1
        if after >= len(self.text):
            return True if final else None
        rest = re.compile(r"[ \t]*(\n|\Z)").match(self.text, after)
        if rest:
            return True if rest.group(1) or final else None
        if _BLOCK.match(self.text, after):
            return True
        if not final and _MAYBE_BLOCK.match(self.text, after):
            return None
        return False

    def _stop_ends(self, start: int, match: re.Match[str], *, final: bool) -> bool | None:
        """Whether the punctuation ends the sentence; None: the next letter decides."""
        stop = match.start()
        before = self.text[max(start, stop - _LONGEST_ABBREVIATION) : stop + 1]
        found = _FOLLOWING.match(self.text, match.end())
        following = found.group(1) if found else ""
        if match.group().startswith(".") and len(match.group().rstrip("\"'”’)]*_`")) == 1:
            if _ABBREVIATION.search(before):
                return False
            if _SOMETIMES.search(before):
                if not following:
                    return True if final else None
                return following.isupper() or following == "\n"
        if match.group().startswith(("...", "…")):
            if not following:
                return True if final else None
            return not following.islower()
        return True


def split(text: str) -> list[Sentence]:
    """The sentences of a complete text."""
    splitter = SentenceSplitter()
    return splitter.feed(text) + splitter.finish()
