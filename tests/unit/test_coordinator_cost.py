"""No text that a client or a document brings may hold the event loop: cost grows with its length.

Bounds are CPU seconds, a hundred times what is needed; each of these took far more, or would.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from aistack.coordinator.answers import AnswerWriter, MarkerFilter
from aistack.coordinator.citations import attribute, factual
from aistack.coordinator.evidence import Evidence, Passage
from aistack.coordinator.retrieval import QUERY_CHARACTERS, search_query
from aistack.coordinator.sentences import SentenceSplitter, split
from aistack.coordinator.tokens import tokenize

BODY = 2_000_000
CPU_SECONDS = 2.0
UNITS = [
    "`",
    "a-",
    "word ",
    ".",
    "~",
    '"a',
    "e.g. ",
    "etc. ",
    "](",
    "{#",
    "<!--",
    "x`",
    "``a",
    "$/",
]
UNITS += ["a.)\"' ", "...)a", "\n-", "  ", "【a", "[1,", "a*_"]


def cpu(work: Callable[[str], object], text: str) -> float:
    before = time.process_time()
    work(text)
    return time.process_time() - before


@pytest.mark.parametrize("unit", UNITS)
def test_a_question_of_two_megabytes_costs_nothing(unit: str) -> None:
    text = (unit * BODY)[:BODY]
    assert cpu(lambda t: search_query([t, t]), text) < CPU_SECONDS
    assert len(search_query([text, text])) <= QUERY_CHARACTERS


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("work", [tokenize, split, factual, lambda t: MarkerFilter().feed(t)])
def test_reading_a_text_is_linear(unit: str, work: Callable[[str], object]) -> None:
    text = (unit * 40_000)[:40_000]
    assert cpu(work, text) < CPU_SECONDS
    assert cpu(work, text + "é") < CPU_SECONDS


@pytest.mark.parametrize("unit", ["e.g. ", "etc. ", "a.m. ", "word "])
def test_reading_a_stream_is_bounded(unit: str) -> None:
    def stream(text: str) -> None:
        splitter = SentenceSplitter()
        for i in range(0, len(text), 4):
            splitter.feed(text[i : i + 4])
        splitter.finish()

    assert cpu(stream, (unit * 1500)[:1500]) < CPU_SECONDS


def test_a_sentence_without_end_is_not_compared() -> None:
    text = "One thing is another thing here. " * 40
    evidence = Evidence([Passage("d", str(i), "s", "", text, 0, len(text)) for i in range(20)])
    assert cpu(lambda t: attribute(t, evidence), "thing " * 20_000) < CPU_SECONDS
    assert attribute("thing " * 20_000, evidence).support is None
    writer = AnswerWriter(evidence, "What is a thing?")
    writer.feed("thing " * 20_000)
    assert writer.finish()[1].sentences[0].citations == ()


def test_an_opening_of_a_sentence_is_not_a_name_after_any_run_of_marks() -> None:
    """The rule that replaced a cubic pattern decides as that did."""
    opened = [t.name for t in tokenize("x.\n\n- Apple") if t.text == "Apple"]
    within = [t.name for t in tokenize("x é Apple") if t.text == "Apple"]
    assert (opened, within) == ([False], [True])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("run `nix-gc` now", ["nix-gc"]),
        ("``aa ` bb`` cc", ["aa", "bb"]),
        ("`open a", []),
        ('the "quoted" word', ["quoted"]),
        ("`aa` bb `cc`", ["aa", "cc"]),
    ],
)
def test_code_is_what_stands_between_like_runs(text: str, code: list[str]) -> None:
    found = [t.text for t in tokenize(text) if t.kind.value == "identifier"]
    assert found == code
