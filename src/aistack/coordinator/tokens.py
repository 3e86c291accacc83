"""Text into tokens that can be compared: words by stem, numbers by value and unit, names exactly.

Offsets are code points of the text given, so a span of tokens is a span of the document.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

import snowballstemmer

from aistack.coordinator.lexicon import (
    CLAUSE_BREAKS,
    CONTRASTS,
    NEGATIONS,
    NUMBER_WORDS,
    STOPWORDS,
    SYNONYMS,
    UNITS,
)


class Kind(Enum):
    """What a token is compared as."""

    WORD = "word"
    NUMBER = "number"
    IDENTIFIER = "identifier"
    """An option, path, command, flag or version: equal only to itself."""
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text; `text == source[start:end]`."""

    text: str
    norm: str
    """What equality is decided on: a stem, canonical digits, an identifier in lower case."""
    kind: Kind
    start: int
    end: int
    sign: int = 1
    """-1 for the word that a negation denies; for an opposite (disabled) turned once more."""
    concept: str | None = None
    """The pair of opposites that the word belongs to."""
    unit: str | None = None
    clause: int = 0
    """Counts the clauses of the text."""
    part: int = 0
    """Counts what a semicolon, a colon, ", and" or the end of a sentence sets apart."""
    name: bool = False
    """Written as a proper name: a capital letter that no sentence start explains."""

    @property
    def content(self) -> bool:
        return self.kind is not Kind.STOP

    @property
    def anchor(self) -> bool:
        """Whether it must be in a passage word for word."""
        return self.kind in (Kind.NUMBER, Kind.IDENTIFIER)


_TOKEN = re.compile(
    r"""
    https?://[^\s)\]>"'`]+                                   # an address
  | (?<![\w)\]*])--?[A-Za-z][\w-]*                           # a flag
  | \d{1,2}:\d{2}(?::\d{2})?                                 # a time of day
  | \d[\d,]*(?:\.\d+)*(?:\.[x*])?%?                          # a number, a version
  | [$@~./]{0,32}[A-Za-z_][\w]*(?:[./:@+*_-]+[\w*<>]+|['’][a-z]+)*/?  # a word, a path, an option
    """,
    re.VERBOSE,
)
# What begins `code`, and one quoted word: both are meant letter by letter.
_CODE_MARK = re.compile(r"(?P<ticks>`+)|[\"“](?P<quoted>[^\s\"”]{1,40})[\"”]")
# A link's target and a heading's anchor are markup, not words that a reader sees.
# (a link to an option is how a manual writes the option's name).
_MARKUP = re.compile(
    r"\]\((?:#opt-|(?!#opt-)(?:(?!\]\()[^)\s])*\))"
    r"|\{#[^{}]*\}|<!--(?:(?!<!--).)*?-->|\{(?:manpage|option|term|file|command|env)\}"
)
_IDENTIFIER = re.compile(r"[/_@$~*<>]|::|^-|\w\.\w|[a-z][A-Z]|[A-Za-z]\d|\d[A-Za-z]", re.ASCII)
_PART = re.compile(r"[;:]|[.!?](?:\s|$)|\n\s*\n")
_NAME = re.compile(r"[A-Z][A-Za-z0-9]*(?:['’]s)?")  # NixOS, IPv6, PostgreSQL: names, not commands
_BREAK = re.compile(r"[.;:!?()—–]|\n\s*\n|,")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)*(?:\.[x*])?")
_UN = re.compile(r"un(?!der|i|til|less|to|ix)\w{5,}")  # unsupported: supported, turned round
_VALUES = frozenset({"true", "false", "yes", "no"})  # opposites in code too
_DENIES_BEFORE = frozenset({"no", "neither"})

_TAKES_AWAY = frozenset({"add", "preserve"})  # "removing the ability to", "loses the ability to"

LONGEST_WORD = 64
"""Characters; what is longer is no word of English and is compared as it stands."""

_stemmer = snowballstemmer.stemmer("english")


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """The Porter2 stem of a lower-case word; words of one meaning (lexicon.SYNONYMS) share one."""
    if len(word) > LONGEST_WORD:
        return word
    word = SYNONYMS.get(word, word)
    stemmed: str = _stemmer.stemWord(word)
    return _STEMMED_SYNONYMS.get(stemmed, stemmed)


_STEMMED_SYNONYMS: dict[str, str] = {
    _stemmer.stemWord(word): _stemmer.stemWord(head) for word, head in SYNONYMS.items()
}


def _number(text: str) -> str:
    """Canonical digits: no thousands separators, no leading zeros; a time keeps its colon."""
    if ":" in text:
        return ":".join(str(int(part)) for part in text.split(":"))
    digits = text.rstrip("%").replace(",", "")
    if digits.count(".") == 1 and digits.endswith(".0") and not digits.startswith("0"):
        return digits[:-2]
    return digits.lstrip("0") or "0" if "." not in digits else digits


def tokenize(text: str, *, code_block: bool = False) -> list[Token]:
    """Tokens of `text` in order, stop words included (they carry order, not content)."""
    code = [(0, len(text))] if code_block else _code_spans(text)
    text = _MARKUP.sub(lambda m: " " * len(m.group()), text)
    tokens: list[Token] = []
    negated, neither, previous_end, clause, part = False, False, 0, 0, 0
    for match in _TOKEN.finditer(text):
        start, raw = match.start(), match.group()
        span = bisect_right(code, (start, len(text)))
        in_code = span > 0 and start < code[span - 1][1]
        word = raw.rstrip(".:-+*/'’") if not in_code else raw.rstrip(".:")
        if not word:
            continue
        between = text[previous_end:start]
        if _BREAK.search(between):
            negated = False
            clause += 1
            if _PART.search(between) or ("," in between and word.lower() == "and"):
                part, neither = part + 1, False
        opens_sentence = not tokens or _opens_sentence(between)
        previous_end = start + len(word)
        for token in _classify(word, start, in_code=in_code, opens_sentence=opens_sentence):
            lower = token.text.lower().replace("’", "'")
            if not in_code and (lower in NEGATIONS or lower.endswith("n't")):
                tokens.append(replace(token, norm=lower, kind=Kind.STOP, clause=clause, part=part))
                denied = tokens[-2] if len(tokens) > 1 and tokens[-2].clause == clause else None
                if lower in _DENIES_BEFORE and denied is not None and denied.content:
                    # "supports neither", "is followed by no": the verb before it is denied.
                    tokens[-2] = replace(denied, sign=-denied.sign)
                elif lower != "neither" and not (lower == "nor" and neither):
                    negated = True
                neither = neither or lower == "neither"
                continue
            if not in_code and (lower in CLAUSE_BREAKS or (lower == "only" and _after_not(tokens))):
                negated = False  # "not only" negates nothing
                clause += 1
            sign = -1 if negated and token.content else 1
            tokens.append(replace(token, sign=token.sign * sign, clause=clause, part=part))
            if token.content and not lower.endswith("ly"):
                negated = False
        # "instead of X", "rather than X": X is what is not meant.
        tail = [t.text.lower() for t in tokens[-2:]]
        if tail == ["no", "longer"]:
            tokens[-1] = replace(tokens[-1], norm="longer", kind=Kind.STOP, concept=None, sign=1)
        negated = negated or (
            tail in (["instead", "of"], ["rather", "than"], ["no", "longer"])
            or (tail == ["the", "ability"] and _takes_away(tokens[-3:-2]))
        )
    return _with_units(tokens)


def _code_spans(text: str) -> list[tuple[int, int]]:
    """What stands in backticks or is one quoted word, in order and apart from each other.

    As in Markdown a run of backticks is closed by the next run of the same length. One pass: a
    text of nothing but backticks costs no more than any other.
    """
    marks = list(_CODE_MARK.finditer(text))
    closing: defaultdict[int, deque[int]] = defaultdict(deque)  # of each length: where runs begin
    for mark in marks:
        if mark["ticks"]:
            closing[len(mark["ticks"])].append(mark.start())
    spans: list[tuple[int, int]] = []
    end = 0
    for mark in marks:
        if mark.start() < end:
            continue
        if mark["ticks"] is None:
            spans.append(mark.span("quoted"))
            end = mark.end()
            continue
        runs = closing[len(mark["ticks"])]
        while runs and runs[0] < mark.end():
            runs.popleft()
        if runs:
            spans.append((mark.end(), runs[0]))
            end = runs[0] + len(mark["ticks"])
    return spans


def _opens_sentence(between: str) -> bool:
    """Whether what stands between two tokens ends a sentence or a line."""
    for character in reversed(between):
        if character in ".!?:\n":
            return True
        if character.isalnum() or character == "_":
            return False
    return False


def _after_not(tokens: list[Token]) -> bool:
    return bool(tokens) and tokens[-1].norm == "not"


def _takes_away(verb: list[Token]) -> bool:
    return bool(verb) and verb[0].concept in _TAKES_AWAY


def _classify(word: str, start: int, *, in_code: bool, opens_sentence: bool) -> list[Token]:
    end = start + len(word)
    lower = word.lower().replace("’", "'")
    if word[0].isdigit():
        if ":" in word or _NUMBER.fullmatch(word.rstrip("%")):
            unit = "percent" if word.endswith("%") else None
            norm = _number(word)
            return [Token(word, norm, Kind.NUMBER, start, end, unit=unit)]
        return [Token(word, lower, Kind.IDENTIFIER, start, end)]
    if lower in CONTRASTS and (not in_code or lower in _VALUES):
        concept, polarity = CONTRASTS[lower]
        return [Token(word, f"±{concept}", Kind.WORD, start, end, polarity, concept)]
    if lower in NEGATIONS or lower in STOPWORDS:
        return [Token(word, lower, Kind.STOP, start, end)]
    if lower in NUMBER_WORDS and not in_code:
        return [Token(word, NUMBER_WORDS[lower], Kind.NUMBER, start, end)]
    if in_code or (_IDENTIFIER.search(word) and not _NAME.fullmatch(word)):
        norm = re.sub(r"^(?:\./|\$)|/$", "", lower.removesuffix("'s")) or lower
        return [Token(word, norm, Kind.IDENTIFIER, start, end, name=True)]
    if "-" in word:
        return _hyphenated(word, start)
    norm = lower.removesuffix("'s")
    if _UN.match(norm):
        return [Token(word, stem(norm.removeprefix("un")), Kind.WORD, start, end, -1)]
    named = word[0].isupper() and (not opens_sentence or any(c.isupper() for c in word[1:]))
    return [Token(word, stem(norm), Kind.WORD, start, end, name=named)]


def _hyphenated(word: str, start: int) -> list[Token]:
    """A compound is compared part by part: "pre-built binary-cache" and "prebuilt binary cache"."""
    tokens: list[Token] = []
    sign = 1
    for part in re.finditer(r"[^-]+", word):
        if part.group().lower() == "non":
            sign = -1
            continue
        at = start + part.start()
        found = _classify(part.group(), at, in_code=False, opens_sentence=True)
        tokens += [replace(token, sign=token.sign * sign) for token in found]
        sign = 1
    return tokens


def _with_units(tokens: list[Token]) -> list[Token]:
    """Give each number the unit that follows it: "90-second", "4 GB", "six months"."""
    out = list(tokens)
    for i, token in enumerate(tokens[:-1]):
        follower = tokens[i + 1]
        if token.kind is Kind.NUMBER and token.unit is None and follower.start - token.end <= 2:
            unit = UNITS.get(follower.text.lower())
            if unit:
                out[i] = replace(token, unit=unit)
    return out
