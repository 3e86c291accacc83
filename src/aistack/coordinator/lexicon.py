"""The words of lexicon.toml: what carries no content, what negates, what is opposite.

English only. A text in another language is still attributed by its words, numbers and names, but a
contradiction in it is seen only where a number or a name differs.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files

_LISTS: dict[str, str] = tomllib.loads(
    files(__package__).joinpath("lexicon.toml").read_text(encoding="utf-8")
)


def _words(name: str) -> frozenset[str]:
    return frozenset(_LISTS[name].split())


def _lines(name: str) -> list[str]:
    return _LISTS[name].strip().splitlines()


def _contrasts() -> dict[str, tuple[str, int]]:
    table: dict[str, tuple[str, int]] = {}
    for line in _lines("contrasts"):
        left, right = line.split("|")
        concept = left.split()[0]
        for side, sign in ((left, 1), (right, -1)):
            for word in side.split():
                table.setdefault(word, (concept, sign))
    return table


def _groups(name: str) -> dict[str, str]:
    table: dict[str, str] = {}
    for line in _lines(name):
        head, *_ = words = line.split()
        for word in words:
            table.setdefault(word, head)
    return table


def _claims() -> dict[str, frozenset[str]]:
    table = {}
    for line in _lines("claims"):
        word, carriers = line.split(":")
        table[word] = frozenset({word, *carriers.split()})
    return table


def _numbers() -> dict[str, str]:
    # "one" is mostly a pronoun, and "zero" has no use before a unit.
    small = (
        "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
        " sixteen seventeen eighteen nineteen twenty"
    )
    named = {word: str(value) for value, word in enumerate(small.split(" "), start=2)}
    return named | {"thirty": "30", "forty": "40", "fifty": "50", "ninety": "90", "hundred": "100"}


STOPWORDS = _words("stopwords")
NEGATIONS = _words("negations")
CLAUSE_BREAKS = _words("clause_breaks")
CONTRAST_CONJUNCTIONS = _words("contrast_conjunctions")
ANAPHORS = _words("anaphors")
UNSIGNED = _words("unsigned")
CONTRASTS = _contrasts()
"""word -> (concept, +1 or -1): two words of one concept with unlike signs are opposites."""
SYNONYMS = _groups("synonyms")
"""word -> the word that stands for its group."""
CLAIMS = _claims()
"""strong word -> the words that carry it."""
NUMBER_WORDS = _numbers()
UNITS = _groups("units")
"""What may follow a number -> its one spelling."""
