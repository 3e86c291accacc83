"""The Cranfield collection: 1,400 abstracts on aerodynamics, 225 questions, judgments of relevance.

Cleverdon graded 1 "a complete answer", 2 "a high degree of relevance", 3 "useful as background", 4
"of minimum interest", 5 "of no interest" (left out of the file): a lower grade is better. The copy
in TREC form that is read here kept less: 0 for the 225 judgments that were -1 in the original
(which its description does not explain), and, but for one line, 1 for every grade of 1 to 4. So
the gain is 1 for the grades 1 to 4, and 0 for 0 and -1: no direction is left to get wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from aistack.evaluation.metrics import Grades

GRADES = Grades.parse("-1=0,0=0,1=1,2=1,3=1,4=1")

_DOCUMENT = re.compile(r"<doc>(.*?)</doc>", re.DOTALL)
_QUERY = re.compile(r"<top>(.*?)</top>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Cranfield:
    """`documents`: id to (title, text); `queries`: number, from 1, to words; `gains`: by query."""

    documents: Mapping[str, tuple[str, str]]
    queries: Mapping[int, str]
    gains: Mapping[int, Mapping[str, float]]

    @property
    def odd(self) -> list[int]:
        """The queries to tune on."""
        return [number for number in self.queries if number % 2 == 1]

    @property
    def even(self) -> list[int]:
        """The queries to report."""
        return [number for number in self.queries if number % 2 == 0]


def read(directory: Path) -> Cranfield:
    """Read `cran.all.1400.xml`, `cran.qry.xml` and `cranqrel.trec.txt`."""
    documents: dict[str, tuple[str, str]] = {}
    # Neither file is one XML document; the tags are regular enough to be read as text.
    for match in _DOCUMENT.finditer((directory / "cran.all.1400.xml").read_text("utf-8")):
        title, text = _element(match[1], "title"), _element(match[1], "text")
        if text:
            documents[_element(match[1], "docno")] = (title, text)
    words = _QUERY.findall((directory / "cran.qry.xml").read_text("utf-8"))
    # The judgments number the queries by position; <num> is the number of an older list.
    queries = {
        position: " ".join(_element(one, "title").split())
        for position, one in enumerate(words, start=1)
    }
    gains: dict[int, dict[str, float]] = {number: {} for number in queries}
    for line in (directory / "cranqrel.trec.txt").read_text("utf-8").split("\n"):
        if line.strip():
            number, _, document, grade = line.split()
            gains[int(number)][document] = GRADES.gain(int(grade))
    return Cranfield(documents, queries, gains)


def _element(text: str, name: str) -> str:
    found = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return unescape(found[1]).strip() if found else ""
