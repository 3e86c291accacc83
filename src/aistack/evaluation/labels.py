"""Judgments of relevance from a file.

JSON lines, one query a line; a document is named by its source or its id:

    {"query": "how are keys made?", "relevant": {"docs/keys.md": 2, "docs/api.md": 1}}

A line may have an `id`; without one the query is its own. TREC: a file of judgments with
`query iteration document grade` a line, and a file of topics, either `number<TAB>query` a line or
`<top>` elements with `<num>` and `<title>`.

Every fault of a file is found, each with the number of its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from aistack.evaluation.metrics import MAX_GRADE, Grades, UnknownGrade

#: As long as a search may be; the service would refuse more.
MAX_QUERY_CHARS: Final = 4096
#: As long as a source may be, in bytes.
MAX_NAME_BYTES: Final = 2048

_TOPIC = re.compile(r"<top>(.*?)</top>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A query and the gains of the documents that somebody judged, by source or id."""

    id: str
    query: str
    gains: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Labels:
    """What can be evaluated. `unjudged` topics have no relevant document and are left out."""

    queries: tuple[Labelled, ...]
    unjudged: int = 0

    @property
    def digest(self) -> str:
        """The same for the same queries and gains, in any order of the file."""
        plain = sorted([one.id, one.query, sorted(one.gains.items())] for one in self.queries)
        return sha256(json.dumps(plain, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a file; `str()` is `FILE:LINE: what`."""

    path: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


class BadLabels(Exception):
    """A file of labels that cannot be used; `faults` in the order of its lines."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


class _Bad(ValueError):
    """What is wrong with the line at hand."""


def read_jsonl(path: Path, grades: Grades) -> Labels:
    """Raises BadLabels with every fault; OSError where the file cannot be read."""
    faults: list[Fault] = []
    queries: list[Labelled] = []
    seen: dict[str, int] = {}
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            one = _labelled(line, grades)
            if one.id in seen:
                raise _Bad(f"{one.id!r} was on line {seen[one.id]} already")
            seen[one.id] = number
            queries.append(one)
        except _Bad as bad:
            faults.append(Fault(path, number, str(bad)))
    return _checked(path, queries, faults, unjudged=0)


def read_trec(qrels: Path, topics: Path, grades: Grades) -> Labels:
    """As `read_jsonl`; topics without a relevant document are counted and left out."""
    faults: list[Fault] = []
    queries = _topics(topics, faults)
    gains: dict[str, dict[str, float]] = {one: {} for one in queries}
    for number, line in _lines(qrels):
        if not line.strip():
            continue
        try:
            query, document, gain = _judgment(line, grades)
            if query not in gains:
                raise _Bad(f"there is no topic {query!r} in {topics}")
            if document in gains[query]:
                raise _Bad(f"document {document!r} is judged twice for topic {query!r}")
            gains[query][document] = gain
        except _Bad as bad:
            faults.append(Fault(qrels, number, str(bad)))
    judged = [
        Labelled(name, query, gains[name])
        for name, query in queries.items()
        if any(gain > 0 for gain in gains[name].values())
    ]
    return _checked(qrels, judged, faults, unjudged=len(queries) - len(judged))


def _checked(path: Path, queries: list[Labelled], faults: list[Fault], unjudged: int) -> Labels:
    if not faults and not queries:
        faults.append(Fault(path, 1, "there is no query with a relevant document"))
    if faults:
        raise BadLabels(faults)
    return Labels(tuple(queries), unjudged)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered from 1. Raises BadLabels where a line is not UTF-8."""
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise BadLabels([Fault(path, number, "it is not UTF-8")]) from None


def _labelled(line: str, grades: Grades) -> Labelled:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Bad(f"it is not JSON: {getattr(error, 'msg', 'nested too deeply')}") from None
    if not isinstance(found, dict):
        raise _Bad('it is not an object like {"query": "…", "relevant": {"SOURCE": 1}}')
    query = _query(found.get("query"))
    relevant = found.get("relevant")
    if not isinstance(relevant, dict) or not relevant:
        raise _Bad('"relevant" must be an object of sources or ids with their grades')
    gains = {name: _gain(name, grade, grades) for name, grade in relevant.items()}
    if not any(gain > 0 for gain in gains.values()):
        raise _Bad("no document of it is relevant: every gain is 0")
    identifier = found.get("id", query)
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or identifier == "":
        raise _Bad('"id" must be text or a whole number')
    return Labelled(str(identifier), query, gains)


def _query(given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        raise _Bad('"query" must be text that is not empty')
    if len(given) > MAX_QUERY_CHARS:
        raise _Bad(f"the query has {len(given)} characters; at most {MAX_QUERY_CHARS} are searched")
    if not _is_plain(given):
        raise _Bad("the query has a NUL or a character that is not Unicode")
    return given


def _is_plain(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _gain(name: str, grade: Any, grades: Grades) -> float:
    if not name or not _is_plain(name) or len(name.encode()) > MAX_NAME_BYTES:
        raise _Bad(f"{name[:40]!r} cannot be a source: it is empty, too long or not Unicode")
    if isinstance(grade, bool) or not isinstance(grade, int | float):
        raise _Bad(f"the grade of {name!r} is {json.dumps(grade)}, not a number")
    if not -MAX_GRADE <= grade <= MAX_GRADE:
        raise _Bad(f"the grade of {name!r} is not between -{MAX_GRADE:g} and {MAX_GRADE:g}")
    try:
        return grades.gain(grade)
    except UnknownGrade as error:
        raise _Bad(f"{name!r}: {error}") from None


def _judgment(line: str, grades: Grades) -> tuple[str, str, float]:
    parts = line.split()
    if len(parts) != 4:
        raise _Bad(f"{len(parts)} fields; a judgment is `query iteration document grade`")
    query, _, document, grade = parts
    try:
        number = float(grade)
    except ValueError:
        raise _Bad(f"the grade {grade!r} is not a number") from None
    return query, document, _gain(document, number, grades)


def _topics(path: Path, faults: list[Fault]) -> dict[str, str]:
    """Queries by number."""
    text = "\n".join(line for _, line in _lines(path))
    found: dict[str, str] = {}
    for number, name, query in _elements(text) if "<top>" in text.lower() else _pairs(text):
        try:
            if not name:
                raise _Bad("a topic is `number<TAB>query`, or <top> with <num> and <title>")
            if name in found:
                raise _Bad(f"topic {name!r} is there twice")
            found[name] = _query(query)
        except _Bad as bad:
            faults.append(Fault(path, number, str(bad)))
    return found


def _elements(text: str) -> Iterator[tuple[int, str, str]]:
    for match in _TOPIC.finditer(text):
        name = re.sub(r"^number:\s*", "", _element(match[1], "num"), flags=re.IGNORECASE)
        yield text.count("\n", 0, match.start()) + 1, name, _element(match[1], "title")


def _element(text: str, name: str) -> str:
    """Up to the next tag: TREC's own topics do not close their elements."""
    found = re.search(rf"<{name}>([^<]*)", text, re.IGNORECASE)
    return " ".join(found[1].split()) if found else ""


def _pairs(text: str) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            name, tab, query = line.partition("\t")
            yield number, name.strip() if tab else "", query.strip()
